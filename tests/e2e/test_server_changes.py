"""Servers are changed while pylb runs: by the command line, over a reload, a dead worker and a restart."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pylb.clirunning  # noqa: F401  # adds its commands
from bench.rig.balancer import Balancer, free_port
from pylb.cli import app
from tests.e2e.origin import Origin

CONFIG = """# A site.
state_file = "{folder}/state"
workers.max = 1
[[frontend]]
name = "f"
bind = "127.0.0.1:{port}"
backend = "web"
[[backend]]
name = "web"
balance = "roundrobin"
server = [
  "{one}",  # the first
  "{two}",
]
"""


class Site:
    """A balancer before three servers, of which its file names two."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.origins = [Origin() for _ in range(3)]
        for origin in self.origins:
            stack.callback(origin.stop)
        self.port = free_port()
        one, two, self.third = (origin.address for origin in self.origins)
        self._state = folder / "state"
        self.text = CONFIG.format(folder=folder, port=self.port, one=one, two=two)
        self.stack = stack
        self.balancer = self.start()

    def start(self) -> Balancer:
        return self.stack.enter_context(Balancer(text=self.text))

    @property
    def file(self) -> Path:
        return self.balancer.folder / "pylb.toml"

    def command(self, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, [*arguments, "--admin", str(self.balancer.admin)])
        assert done.exit_code == code, done.output
        return done.output.strip()

    def asked(self, count: int = 12) -> list[int]:
        """How many of some requests each server gets."""
        before = [len(origin.heads) for origin in self.origins]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=50)
        for _ in range(count):
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            assert response.status == 200
        connection.close()
        return [len(origin.heads) - so_far for origin, so_far in zip(self.origins, before, strict=True)]

    def kept(self) -> str:
        """What the state file holds."""
        return self._state.read_text() if self._state.exists() else ""

    def states(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in self.balancer.status()["servers"]}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path, stack)


def test_changes_are_made_kept_and_saved(site: Site) -> None:
    assert site.asked() == [6, 6, 0]
    assert site.command("server", "web/s1", "drain") == "web/s1: state drain"
    assert site.command("server", "web", "add", site.third, "--name", "s7", "--weight", "3") == "web/s7 added"
    assert site.states() == {"s1": "draining", "s2": "unchecked", "s7": "unchecked"}
    assert site.asked(40) == [0, pytest.approx(10, abs=1), pytest.approx(30, abs=1)]
    # Mistakes say what there is.
    assert "web has no server 's9'; it has s1, s2, s7" in site.command("server", "web/s9", "drain", code=2)
    assert "there is no backend 'wbe'; there are web" in site.command("server", "wbe/s1", "drain", code=2)
    assert "has no action 'dran'; there are\n  drain" in site.command("server", "web/s1", "dran", code=2)
    assert "weight is a number" in site.command("server", "web/s1", "weight", "heavy", code=2)
    # A removed server answers what it has.
    slow = http.client.HTTPConnection("127.0.0.1", site.port, timeout=50)
    site.command("server", "web/s2", "weight", "0")
    slow.request("GET", "/held")
    site.balancer.wait("under way", lambda status: any(one["active"] for one in status["servers"]))
    assert "what it has under way is answered" in site.command("server", "web/s7", "remove")
    site.command("server", "web/s2", "weight", "1")
    assert site.asked() == [0, 12, 0]
    site.origins[2].release()
    assert slow.getresponse().status == 200
    slow.close()
    # Kept when a worker dies, at a reload, and over a restart.
    site.command("server", "web/s2", "weight", "5")
    worker = site.balancer.workers()[0]["pid"]
    os.kill(worker, signal.SIGKILL)
    site.balancer.wait(
        "another worker", lambda status: [one["state"] for one in status["workers"]] == ["serving"]
    )
    assert site.asked() == [0, 12, 0]
    generation = site.balancer.status()["generation"]
    site.balancer.signal(signal.SIGHUP)
    site.balancer.wait("reloaded", lambda status: status["generation"] > generation)
    assert site.asked() == [0, 12, 0]
    site.command("server", "web", "add", site.third, "--name", "s7")
    site.balancer.wait("written", lambda status: "s7" in site.kept())
    site.balancer.stop()
    site.balancer = site.start()
    assert site.states() == {"s1": "draining", "s2": "unchecked", "s7": "unchecked"}
    assert sorted(site.asked(60)) == [0, pytest.approx(10, abs=1), pytest.approx(50, abs=1)]
    # Shown beside the file, and written into it.
    assert site.command("runtime", "diff", code=1).splitlines() == [
        "~ web/s1 state: ready in the file, drain now",
        "~ web/s2 weight: 1 in the file, 5 now",
        f"+ web/s7 {site.third}",
    ]
    site.file.chmod(0o640)
    assert "3 servers saved" in site.command("runtime", "save")
    text = site.file.read_text()
    assert text.startswith("# A site.\n") and "# the first" in text and 'state = "drain"' in text
    assert site.file.stat().st_mode & 0o777 == 0o640
    assert site.command("runtime", "diff") == ""
    site.file.write_text(text.replace("weight = 5", "weight = 9"))
    assert "the file has changed since pylb has loaded it" in site.command("runtime", "save", code=2)
    site.file.write_text(text)
    generation = site.balancer.status()["generation"]
    site.balancer.signal(signal.SIGHUP)
    site.balancer.wait("reloaded", lambda status: status["generation"] > generation)
    assert sorted(site.asked(60)) == [0, pytest.approx(10, abs=1), pytest.approx(50, abs=1)]
    site.balancer.wait("forgotten", lambda status: '"web"' not in site.kept())
