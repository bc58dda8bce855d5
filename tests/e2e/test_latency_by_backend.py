"""Response times, told apart by backend."""

from __future__ import annotations

import urllib.request
from pathlib import Path

from bench.rig.balancer import Balancer, free_port
from pylb.control.view import _UnixConnection
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Origin
from tests.test_latency import samples


def test_requests_are_told_apart_by_backend(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    ports = {"one": free_port(), "two": free_port()}
    text = "workers = {min = 1, max = 1}\n"
    for name, port in ports.items():
        text += f'[[frontend]]\nname = "{name}"\nbind = "127.0.0.1:{port}"\nbackend = "{name}"\n'
        text += '[frontend.health]\npath = "/up"\n'
        text += f'[[backend]]\nname = "{name}"\n[[backend.server]]\naddress = "{origin.address}"\n'
    file = tmp_path / "pylb.toml"
    file.write_text(text)
    one = balancer("-c", str(file))
    for name, count in (("one", 3), ("two", 2)):
        for path in ["/x"] * count + ["/up"]:
            urllib.request.urlopen(f"http://127.0.0.1:{ports[name]}{path}", timeout=50).read()
    one.wait("counted", lambda status: status["totals"]["requests"] == 7)
    found = samples(_metrics(one))
    assert [found["count", name, ""] for name in ("one", "two", "(none)")] == [3, 2, 2]
    assert found["sum", "one", ""] > 0


def _metrics(balancer: Balancer) -> str:
    connection = _UnixConnection(balancer.admin.path, 20)
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode()
