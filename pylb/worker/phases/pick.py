"""Pick: which server gets a request. Runs once for each try. Floor: phases."""

from __future__ import annotations

from pylb.worker.backend import Server
from pylb.worker.transaction import Transaction


def pick(tx: Transaction) -> Server | None:
    """Choose a server that was not tried yet, and count the request as its; None when there is none."""
    backend = tx.backend
    if backend.versions[0] != backend.seen:
        backend.look()
    key = backend.key
    tried = tx.tried
    position = backend.balancer.pick(
        backend.positions(tried) if tried else tried, None if key is None else key(tx)
    )
    if position is None:
        return None
    server = backend.servers[position]
    tx.index = server.index
    tx.server = tx.counted = server
    server.active[server.row] += 1
    server.requests += 1
    return server
