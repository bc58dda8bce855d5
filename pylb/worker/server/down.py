"""What becomes of a server's connections when it goes down, with ``on_marked_down = "shutdown-sessions"``.

Requests that are under way at it, and tunnels, end with `Reason.SERVER_DOWN`; idle connections are closed. A
server that outlier detection has taken out keeps what it has: it answers some requests, most likely.

Floor: server side. Knows its codecs and tunnels by the process's registries, and no exchange.
"""

from __future__ import annotations

from collections.abc import Callable

from pylb.servers import Admin, Column, Table
from pylb.worker.backend import Server
from pylb.worker.core import Core
from pylb.worker.reasons import Reason
from pylb.worker.server.http1 import Http1ServerConnection
from pylb.worker.server.http2 import Http2ServerConnection

_WHY = "it is down, and its connections are closed (on_marked_down)"


def shutting_sessions(core: Core, table: Table) -> Callable[[Server], None]:
    """What is to be called with each server of a backend that goes down."""

    def down(server: Server) -> None:
        if table.checked(server.index) and table.get(Column.ADMIN, server.index) != Admin.MAINTENANCE:
            return
        # Later, as this may be called while another request looks for a server.
        core.loop.call_soon(shut, core, server)

    return down


def shut(core: Core, server: Server) -> None:
    """Close all connections to a server."""
    for tunnel in list(core.tunnels):
        if tunnel.server is server:
            tunnel.down()
    for one in list(core.server_connections):
        if isinstance(one, Http1ServerConnection) and one.server is server:
            exchange = one.exchange
            one.abort()
            if exchange is not None:
                exchange.server_gone(Reason.SERVER_DOWN, _WHY)
        elif isinstance(one, Http2ServerConnection) and one.server is server:
            one.leave()
            for stream in list(one.streams.values()):
                exchange = stream.exchange
                stream.abort()
                if exchange is not None:
                    exchange.server_gone(Reason.SERVER_DOWN, _WHY)
