"""The peers' benchmark: what wrk prints, ratios, tables; and the Python ones at work."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from pathlib import Path

import pytest
from bench.peer_processes import start

from bench.peers import idle_memory, parse_wrk
from bench.peers_report import idle_table, middle, ratios, table

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
    assert parse_wrk(WRK) == {
        "requests": 19548,
        "rps": 19500.25,
        "p50_ms": 2.3,
        "p99_ms": 1200.0,
        "failed": 17,
    }


def test_what_wrk_never_prints_is_refused() -> None:
    with pytest.raises(ValueError, match="not wrk's output"):
        parse_wrk("unable to connect")


def _turns(*costs: float | None) -> list[dict[str, float | int | None]]:
    return [{"us": cost, "rps": 1.0, "p50_ms": 1.0, "p99_ms": 2.0, "failed": 0} for cost in costs]


def test_ratios_are_taken_turn_by_turn() -> None:
    assert ratios(_turns(20, 30, None), _turns(10, 20, 10)) == [2.0, 1.5]
    assert middle(_turns(None, 3, 1, 2), "us") == 2
    assert middle(_turns(None), "us") is None


def test_a_peer_that_answers_nothing_is_shown_as_such() -> None:
    rows = table({"small, 1 worker": {"haproxy": _turns(10, 10), "nginx": _turns(None, None)}})
    assert rows[2].startswith("| small, 1 worker | haproxy | 10.0 | 1.00 (1.00–1.00) |")
    assert rows[3].startswith("| small, 1 worker | nginx | none |  |")


def test_memory_is_scaled_to_10000_connections_and_failures_are_said() -> None:
    rows = idle_table(
        {
            "pylb": {"connections": 5000, "bytes": 10 << 20, "before": 30 << 20},
            "other": {"connections": 12, "bytes": None, "before": 1 << 20, "error": "timed out"},
        }
    )
    assert rows[2] == "| pylb | 5000 | 30.0 | 10.0 | 20 |"
    assert rows[3] == "| other | 12 | 1.0 | timed out | timed out |"


class _Small(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = (self.headers["X-Forwarded-For"] or "nobody").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("name", ["pylb", "aiohttp", "proxy.py"])
def test_peers_forward_and_hold_idle_connections(name: str, tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Small) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        peer = start(name, tmp_path, [f"127.0.0.1:{server.server_address[1]}"], 1)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{peer.port}/small", timeout=10) as answer:
                assert answer.read() == (b"nobody" if name == "proxy.py" else b"127.0.0.1")
            assert peer.cpu() > 0
            held = idle_memory(peer, 20)
            assert held["connections"] == 20 and "error" not in held
        finally:
            peer.stop()
            server.shutdown()
    assert peer.process.poll() is not None
