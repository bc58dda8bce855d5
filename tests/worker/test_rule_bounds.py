"""Timeouts and the limit of bodies: a rule's go before its backend's, and these before the frontend's."""

from __future__ import annotations

from typing import Any

import pytest

from pylb.config import changes, routing
from pylb.config.load import from_document
from pylb.config.model import Config, Server
from pylb.http.errors import Refused
from pylb.scoreboard import Scoreboard
from pylb.worker import phases
from pylb.worker.backend import Backend
from pylb.worker.exchange import begin
from pylb.worker.frontend import DROP, Frontend
from pylb.worker.transaction import Transaction
from tests.http.wire import TestCore
from tests.rules.requests import Facts, head_of

DOCUMENT: dict[str, Any] = {
    "timeouts": {"server": 50, "connect": 4},
    "limits": {"body_bytes": 1000},
    "frontend": {
        **{"name": "f", "bind": "127.0.0.1:80", "backend": "plain"},
        "rule": [
            {"match": {"path": "/a"}, "timeouts": {"server": 7}},
            {"match": {"path": "/a/b"}, "timeouts": {"server": 8, "tunnel": 9}, "body_bytes": 0},
            {"match": {"query": {"hasty": True}}, "backend": "hasty"},
            {"match": {"path": "/drop"}, "drop": True},
        ],
    },
    "backend": [
        {"name": "plain", "server": "127.0.0.1:9"},
        {"name": "hasty", "server": "127.0.0.1:9", "timeouts": {"server": 2, "client": 3}, "body_bytes": 10},
    ],
}


def made() -> tuple[Frontend[Transaction], TestCore]:
    config: Config = from_document(DOCUMENT)
    core = TestCore(config.timeouts, config.limits)

    def index_of(server: Server) -> int:
        return 0

    backends = {
        one.name: Backend(one, Scoreboard(1), index_of, 0, None, config.timeouts)
        for one in config.backends
    }
    rules = routing.compiled(config, config.frontends[0], {}, backends)
    return phases.compiled(config.frontends[0], backends, core, rules), core


@pytest.mark.parametrize(
    ("target", "server", "client", "tunnel", "most"),
    [
        ("/", 50, 60, 3600, 1000),
        ("/a", 7, 60, 3600, 1000),
        ("/a/b", 8, 60, 9, 0),
        ("/?hasty", 2, 3, 3600, 10),
        ("/a?hasty", 7, 3, 3600, 10),
        ("/a/b?hasty", 8, 3, 9, 0),
        ("/drop", 50, 60, 3600, 1000),
    ],
)
def test_bounds(target: str, server: float, client: float, tunnel: float, most: int) -> None:
    frontend, core = made()
    for length in (0, 11, 1001):
        facts: Any = Facts()
        facts.requests = 0
        tx = begin(core, facts, frontend).tx
        tx.head = head_of(target, f"Content-Length: {length}", method="POST")
        results = []
        try:
            for phase in frontend.on_request:
                results.append(phase(tx))
                if results[-1] is not None:
                    break
        except Refused as refused:
            assert (refused.status, length > most > 0) == (413, True)
        else:
            assert results[-1] is (DROP if target == "/drop" else None)
            assert target == "/drop" or not length > most > 0
        times = tx.timeouts
        assert (times.server, times.client, times.tunnel, times.connect) == (server, client, tunnel, 4)
        assert tx.body_bytes == most


def test_the_shortest_of_all_timeouts_says_how_often_the_clock_is_looked_at() -> None:
    assert changes.shortest(from_document(DOCUMENT)) == 2
