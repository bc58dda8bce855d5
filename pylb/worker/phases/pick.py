"""Pick: which server gets a request. Runs once for each try. Floor: phases."""

from __future__ import annotations

from pylb.worker.backend import Server
from pylb.worker.transaction import Transaction


def pick(tx: Transaction) -> Server | None:
    """Choose a server that was not tried yet, and count the request as its; None when there is none."""
    backend = tx.backend
    choose = backend.choose
    index = backend.balancer.pick(tx.tried) if choose is None else choose(tx)
    if index is None:
        return None
    server = backend.servers[index]
    tx.index = index
    tx.server = tx.counted = server
    server.active[server.row] += 1
    server.requests += 1
    return server
