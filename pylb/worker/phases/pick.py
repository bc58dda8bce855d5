"""Pick: which server gets a request. Runs once for each try. Floor: phases."""

from __future__ import annotations

from pylb.worker.backend import Server
from pylb.worker.transaction import Transaction


def pick(tx: Transaction) -> Server | None:
    """Choose a server that was not tried yet, and count the request as its; None when there is none."""
    backend = tx.backend
    if backend.versions[0] != backend.seen:
        backend.look()
    if tx.client.own is None or backend.gate is not None or (position := known(tx)) is None:
        choose = backend.choose
        if choose is None:
            tried = tx.tried
            position = backend.balancer.pick(backend.positions(tried) if tried else tried)
        else:
            position = choose(tx)
    if position is None:
        return None
    server = backend.servers[position]
    tx.index = server.index
    tx.server = tx.counted = server
    server.active[server.row] += 1
    server.requests += 1
    return server


def nobody(tx: Transaction) -> int | None:
    """How a backend chooses all of whose requests come to a gate (`queue`): no server is picked at once."""
    return None


def count(tx: Transaction, server: Server) -> None:
    """Count the request as this server's, as `pick` does."""
    tx.index = server.index
    tx.server = tx.counted = server
    server.active[server.row] += 1
    server.requests += 1


def known(tx: Transaction) -> int | None:
    """The position of the server to which the client has authenticated a connection, if it has."""
    for server, side in (tx.client.own or {}).items():
        servers = tx.backend.servers
        if not side.personal or side.closed or server.down or server.index in tx.tried:
            continue
        if server in servers:
            return servers.index(server)
    return None
