"""The peers' benchmark: what wrk prints, ratios, tables; and the Python ones at work."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bench.peers import idle_memory, idle_table
from bench.rig.peers import Site, running
from bench.rig.report import together
from bench.rig.wrk import Seen, parse
from bench.turns import ratios
from tests.e2e.conftest import origin
from tests.e2e.origin import Origin

__all__ = ["origin"]

WRK = """Running 1s test @ http://127.0.0.1:1/small
  1 threads and 64 connections
  Latency Distribution
     50%    2.30ms
     75%    2.90ms
     90%  950.00us
     99%    1.20s
  19548 requests in 1.00s, 6.00MB read
  Socket errors: connect 1, read 2, write 0, timeout 4
  Non-2xx or 3xx responses: 10
Requests/sec:  19500.25
"""


def test_what_wrk_prints_is_understood() -> None:
    assert parse(WRK) == Seen(requests=19548, rps=19500.25, p50_ms=2.3, p99_ms=1200.0, failed=17)


def test_what_wrk_never_prints_is_refused() -> None:
    with pytest.raises(ValueError, match="not wrk's output"):
        parse("unable to connect")


def _turns(*costs: float | None) -> list[dict[str, Any]]:
    return [{"us": cost, "rps": 1.0, "p50_ms": 1.0, "p99_ms": 2.0, "failed": 1} for cost in costs]


def test_ratios_are_taken_turn_by_turn() -> None:
    assert ratios(_turns(20, 30, None), _turns(10, 20, 10)) == [2.0, 1.5]


def test_turns_together_are_medians_extremes_and_sums() -> None:
    found = together(_turns(None, 3, 1, 2))
    assert found["us"] == {"median": 2, "min": 1, "max": 3}
    assert (found["failed"], found["turns"]) == (4, 4)
    assert together(_turns(None))["us"] == {"median": None, "min": None, "max": None}


def test_memory_is_scaled_to_10000_connections_and_failures_are_said() -> None:
    rows = idle_table(
        {
            "pylb": {"connections": 5000, "bytes": 10 << 20, "before": 30 << 20},
            "other": {"connections": 12, "bytes": None, "before": 1 << 20, "error": "timed out"},
        },
        {"pylb": "0.1.0"},
    )
    assert rows[2] == "| pylb 0.1.0 | 5000 | 30.0 | 10.0 | 20 |"
    assert rows[3] == "| other | 12 | 1.0 | timed out | timed out |"


@pytest.mark.parametrize("name", ["pylb", "aiohttp", "proxy.py"])
def test_peers_forward_and_hold_idle_connections(name: str, tmp_path: Path, origin: Origin) -> None:
    site = Site.with_tls([origin.address])
    with running(name, tmp_path / name, site) as peer:
        with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/small", timeout=50) as answer:
            assert answer.read() == b"/small"
        told = b"\r\nx-forwarded-for: 127.0.0.1\r\n" in origin.heads[-1].lower()
        assert told == (name != "proxy.py")
        assert peer.cpu() > 0
        held = idle_memory(peer, site.port, 20)
        assert held["connections"] == 20 and "error" not in held
    assert peer.process.poll() is not None
