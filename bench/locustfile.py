"""Locust users for a balancer: people who browse, clients that keep a connection, clients that don't.

    locust -f bench/locustfile.py --host http://127.0.0.1:8080

and http://127.0.0.1:8089 to start them; with ``--class-picker`` the page also asks which. Name a class to
run only that one (``locust -f bench/locustfile.py --host … KeepAlive``). ``BENCH_PATH`` is the path that
`KeepAlive` and `NewConnection` ask for (``/``), ``BENCH_PAUSE`` the mean pause of who browses (1 second).

Where Locust's own HTTP clients are too slow, see `bench/fast_user.py`.
"""

from __future__ import annotations

import os
import random

from locust import FastHttpUser, between, constant, task

PATH = os.environ.get("BENCH_PATH", "/")
_PAUSE = float(os.environ.get("BENCH_PAUSE", "1"))


class Browsing(FastHttpUser):
    """Opens pages with what belongs to them, searches, and now and then sends a form."""

    weight = 8
    wait_time = between(0.5 * _PAUSE, 1.5 * _PAUSE)
    default_headers = {
        "Accept-Language": "en-GB,en;q=0.9",
        "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    }

    def on_start(self) -> None:
        """A session of its own, as a cookie in each request."""
        self.client.get("/")
        self._session = {"Cookie": f"session={random.getrandbits(128):032x}"}
        self._assets()

    def _assets(self) -> None:
        for name in ("site.css", "site.js", "logo.svg"):
            self.client.get(f"/static/{name}", headers=self._session)

    @task(8)
    def page(self) -> None:
        self.client.get(f"/page/{random.randrange(1000)}", headers=self._session, name="/page/[n]")

    @task(2)
    def page_with_empty_cache(self) -> None:
        self.page()
        self._assets()

    @task(2)
    def search(self) -> None:
        word = random.choice(("core", "worker", "lease", "drain"))
        self.client.get(f"/search?q={word}", headers=self._session, name="/search?q=[word]")

    @task(1)
    def form(self) -> None:
        self.client.post("/form", data={"text": "x" * random.randrange(1, 2000)}, headers=self._session)


class KeepAlive(FastHttpUser):
    """As many requests as one connection carries."""

    weight = 1
    wait_time = constant(0)

    @task
    def get(self) -> None:
        self.client.get(PATH)


class NewConnection(FastHttpUser):
    """A connection per request."""

    weight = 1
    wait_time = constant(0)

    @task
    def get(self) -> None:
        self.client.get(PATH, headers={"Connection": "close"})
