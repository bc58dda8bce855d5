"""What an operator sees."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from pylb.control import view


def shown(width: int, more: dict[str, Any] | None = None, **scaling: Any) -> str:
    status = {
        "version": "1.2.3", "uptime": 4000.5, "generation": 2,
        "scaling": {
            "target": 2, "pinned": None, "min": 1, "max": 8, "reason": "steady",
            "controller": "tcp:10.0.0.1:9500", "controller_connected": True, "controller_problem": "",
            "grant_reason": "2 leased to you", **scaling,
        },
        "workers": [{
            "slot": 1, "pid": 4131580, "state": "serving", "connections": 12345, "tunnels": 1234,
            "in_flight": 1200, "requests": 123456789, "busy": 0.67,
        }],
        "servers": [{
            "backend": "main", "name": "app1", "address": "10.0.0.11:40012", "state": "unchecked",
            "active": 3, "requests": 1234567, "errors": 0,
        }],
        "totals": {
            "requests": 1, "status_2xx": 1, "status_3xx": 0, "status_4xx": 0, "status_5xx": 0, "retries": 0,
            "handed_over": 0,
        },
    } | (more or {})  # fmt: skip
    out = io.StringIO()
    Console(file=out, width=width).print(view.render(status))
    return out.getvalue()


def test_nothing_is_cut_on_80_columns() -> None:
    text = shown(80)
    for expected in ("4131580", "serving", " 1,234 ", "123,456,789", "67%", "10.0.0.11:40012"):
        assert expected in text
    assert "up 1 h 6 min" in text
    assert "…" not in text


def test_it_says_why_the_controller_is_not_connected_and_takes_no_markup_from_it() -> None:
    text = shown(80, controller_connected=False, controller_problem="token: [bold] is wrong")
    assert "not connected: token: [bold] is wrong" in text


def test_it_warns_of_a_python_that_was_built_without_optimisation() -> None:
    python = {"version": "3.11.7", "words": "no PGO, no LTO", "optimised": False}
    assert "Python 3.11.7 (no PGO, no LTO)" in " ".join(shown(80, {"python": python}).split())
    assert "Python" not in shown(80, {"python": python | {"optimised": True}})
