"""Which server gets a request. Runs once for each try."""

from __future__ import annotations

from pylb.http.errors import Answer, error
from pylb.worker.transaction import Transaction


def pick(tx: Transaction) -> Answer | None:
    """Choose a server that was not tried yet and count the request as its; an answer when there is none."""
    backend = tx.backend
    index = backend.balancer.pick(tx.tried)
    if index is None:
        return error(503)
    tx.index = index
    server = tx.server = tx.counted = backend.servers[index]
    server.active[server.row] += 1
    server.requests += 1
    return None
