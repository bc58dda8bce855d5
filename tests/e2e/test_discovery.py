"""Servers that are discovered: they come late, go, and stay while nobody answers."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.rig.balancer import Balancer, free_port, frontend
from bench.rig.nameserver import NameServer
from bench.rig.processes import status_of
from pylb.control import view
from tests.e2e.origin import Origin

NAME = ("app.test.", "A")


@pytest.fixture
def names() -> Iterator[NameServer]:
    with NameServer(ttl=1) as one:
        yield one


def addresses(status: dict[str, list[dict[str, str]]]) -> list[str]:
    return [server["address"] for server in status["servers"]]


def test_a_name_comes_late_and_stays_over_reload_and_restart(names: NameServer, origin: Origin) -> None:
    front, port = free_port(), origin.address.rpartition(":")[2]
    text = frontend("f", front) + (
        f'[[backend]]\nname = "b"\n[[backend.discover]]\ndns = "app.test:{port}"\n'
        f'resolvers = "127.0.0.1:{names.port}"\n'
        f"search = []\ninterval = 0.05\ntimeout = 0.3\nallow_local = true\n[workers]\nmin = 1\nmax = 1\n"
    )
    with Balancer(text=text) as running:
        running.wait("asked", lambda status: status["discovery"][0]["answered"] is not None)
        assert addresses(running.status()) == [] and status_of(front) == 503
        names.records[NAME] = ["127.0.0.1"]
        running.wait("found", lambda status: addresses(status) == [origin.address])
        assert status_of(front) == 200
        told = view.fetch(running.admin, "GET", f"/why?server={origin.address}")["message"]
        assert f"found by dns app.test:{port}, which answered " in told
        names.silent = True
        running.signal(signal.SIGHUP)
        running.wait("reloaded", lambda status: [w["generation"] for w in status["workers"]] == [2])
        control = next(
            one
            for one in psutil.Process(running.process.pid).children()
            if "control" in " ".join(one.cmdline())
        )
        control.kill()
        running.wait(
            "restarted",
            lambda status: (
                status["discovery"][0]["answered"] is None and addresses(status) == [origin.address]
            ),
        )
        assert status_of(front) == 200
        names.silent = False
        names.records[NAME] = ["127.0.0.1", "127.0.0.2"]
        running.wait("another", lambda status: len(addresses(status)) == 2)
        names.records[NAME] = ["127.0.0.1"]
        running.wait("gone", lambda status: addresses(status) == [origin.address])
        assert status_of(front) == 200
        text_of_metrics = _metrics(running)
        samples = {
            (sample.name, sample.labels.get("source")): sample.value
            for family in text_string_to_metric_families(text_of_metrics)
            for sample in family.samples
        }
        assert samples["pylb_discovery_servers", "dns"] == 1


def _metrics(running: Balancer) -> str:
    connection = view._UnixConnection(running.admin.path, 50)
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode()


def test_files_functions_and_a_plain_name_that_is_nowhere(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "e2e_fleet.py").write_text(f"def servers():\n    return ['{origin.address}']\n")
    monkeypatch.setenv("PYTHONPATH", ":".join([str(tmp_path), *sys.path]))
    fleet, front = tmp_path / "fleet", free_port()
    fleet.write_text("unfinished ?\n")
    text = frontend("f", front) + (
        '[[backend]]\nname = "b"\nserver = "nowhere.invalid:80"\n'
        f'[[backend.discover]]\nfile = "{fleet}"\ninterval = 0.05\nallow_local = true\nbackup = true\n'
        '[[backend.discover]]\nfunction = "e2e_fleet:servers"\nallow_local = true\n'
    )
    with Balancer(text=text) as running:
        status = running.wait(
            "found",
            lambda status: (
                len(addresses(status)) == 2
                and [bool(one["error"]) for one in status["discovery"]] == [True, False, True]
            ),
        )
        assert [one["asks"] for one in status["discovery"]] == [
            f"file {fleet}", "function e2e_fleet:servers", "name nowhere.invalid",
        ]  # fmt: skip
        assert status_of(front) == 200
        fleet.write_text("127.0.0.9:80\n")
        running.wait("read", lambda status: "127.0.0.9:80" in addresses(status))
        assert status_of(front) == 200
    log = running.log.read_text()
    assert "server b/s1: nowhere.invalid can't be resolved" in log
    assert f"file {fleet}: line 1: " in log
