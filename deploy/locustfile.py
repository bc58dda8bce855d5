"""Visitors for the docker compose demo: each asks about once a second, each time on a new TLS connection.

A handshake with an RSA key costs a balancer several times what it costs the client. So the number of users
in Locust's page says how many cores the balancer wants, also where Locust shares them. Users of other kinds
are in bench/locustfile.py.
"""

from __future__ import annotations

from locust import between, task

from bench.fast_user import SocketUser


class Visitor(SocketUser):
    """One page a second, on a connection of its own."""

    wait_time = between(0.5, 1.5)
    fields = "Connection: close\r\n"

    @task
    def page(self) -> None:
        self.get("/")
        self.close()
