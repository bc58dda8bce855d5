"""Pick: which server gets a request. Runs once for each try. Floor: phases."""

from __future__ import annotations

from pylb.worker.backend import Server
from pylb.worker.transaction import Transaction


def pick(tx: Transaction) -> Server | None:
    """Choose a server that was not tried yet, and count the request as its; None when there is none."""
    backend = tx.backend
    key = backend.key
    if tx.client.own is None or (index := _known(tx)) is None:
        index = backend.balancer.pick(tx.tried, None if key is None else key(tx))
    if index is None:
        return None
    server = backend.servers[index]
    tx.index = index
    tx.server = tx.counted = server
    server.active[server.row] += 1
    server.requests += 1
    return server


def _known(tx: Transaction) -> int | None:
    """The position of the server to which the client has authenticated a connection, if it has."""
    for server, side in (tx.client.own or {}).items():
        if side.personal and not side.closed and server in tx.backend.servers:
            index = tx.backend.servers.index(server)
            if index not in tx.tried:
                return index
    return None
