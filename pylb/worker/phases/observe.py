"""Observe: tells the algorithm how long a server has taken, where it goes by that. Floor: phases."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pylb.worker.backend import Backend
from pylb.worker.transaction import Transaction


def response_times(backends: Iterable[Backend]) -> Callable[[Transaction], None] | None:
    """A phase of the account, if any backend's algorithm goes by response times."""
    wanted = any(backend.observes for backend in backends)
    return _observe if wanted else None


def _observe(tx: Transaction) -> None:
    """From the whole head of the request to that of the response; of a second try it isn't known."""
    server = tx.server
    if server is not None and server.observe is not None and tx.answered_ns and not (tx.own or tx.retries):
        server.observe((tx.answered_ns - (tx.asked_ns or tx.began_ns)) / 1e9)
