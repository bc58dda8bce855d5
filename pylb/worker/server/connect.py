"""Connections to servers: opening one, as the server's configuration says, for a transaction.

Floor: server side. Knows all its codecs, and a transaction as far as a PROXY header and TCP mode need it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

from pylb.config.address import CLIENTS_PORT
from pylb.net import tcpoptions
from pylb.net.proxyprotocol import TLVS, build_v1, build_v2
from pylb.worker.backend import Server
from pylb.worker.core import Core
from pylb.worker.facts import Client
from pylb.worker.server.dial import dial, is_literal
from pylb.worker.server.http1 import Http1ServerConnection
from pylb.worker.server.http2 import Http2ServerConnection
from pylb.worker.server.tcp import TcpServerConnection
from pylb.worker.sides import ServerSide
from pylb.worker.transaction import Transaction

_opening: dict[Server, asyncio.Future[OSError | None]] = {}
"""By server: a connection for several requests at a time that is being made, with how that ends."""

_Codec = Http1ServerConnection | Http2ServerConnection | TcpServerConnection


async def connect(core: Core, server: Server, tx: Transaction) -> ServerSide:
    """A server side for a transaction, on a new connection or on one that serves several at a time.

    Raises:
        OSError: refused, unreachable, no such host, or its certificate is not good.
        TimeoutError: not accepted within ``timeouts.connect``.
    """
    if server.http2 and not server.private and not tx.frontend.raw:
        return await _shared(core, server, tx)
    return await _make(core, server, tx)


async def _shared(core: Core, server: Server, tx: Transaction) -> ServerSide:
    """A side of a connection that there is, or is being made, or else of a new one."""
    while True:
        for shared in server.shared:
            if shared.free:
                return shared.side()
        opening = _opening.get(server)
        if opening is None:
            break
        # Many requests at a time would make as many connections, where one does.
        done, _ = await asyncio.wait((opening,), timeout=tx.timeouts.connect)
        if not done:
            raise TimeoutError
        problem = opening.result()
        if problem is not None:
            raise problem
    opening = _opening[server] = core.loop.create_future()
    problem = None
    try:
        return await _make(core, server, tx)
    except OSError as error:
        problem = error
        raise
    finally:
        del _opening[server]
        opening.set_result(problem)


async def _make(core: Core, server: Server, tx: Transaction) -> ServerSide:
    """A side of a new connection."""
    if not server.pool.room(server.active[server.row]):
        raise OSError(errno.EUSERS, "it has as many connections as it may (pool.connections)")
    if len(core.server_connections) >= core.descriptors.bound:
        core.free_a_descriptor()
    made: list[_Codec] = []
    try:
        async with asyncio.timeout(tx.timeouts.connect):
            codec = await _open(core, server, tx, made)
    except BaseException:
        # When this is cancelled after the connection was made, uvloop's transport reports no end of it.
        for one in made:
            if one.transport is not None:
                one.connection_lost(None)
        raise
    if codec.closed:  # before this task had its turn: there is no exchange yet that could be told
        raise ConnectionResetError("closed at once")
    if not isinstance(codec, Http2ServerConnection):
        return codec
    tls = codec.transport.get_extra_info("ssl_object")
    if tls is not None and tls.selected_alpn_protocol() != "h2":
        codec.transport.close()
        raise OSError("the server does not speak HTTP/2")
    if not server.private:
        server.shared.append(codec)
    else:
        codec.leaving = True  # one stream only
    return codec.side()


async def _open(core: Core, server: Server, tx: Transaction, made: list[_Codec]) -> _Codec:
    """Connect; what is made on the way is added to ``made``."""

    def protocol() -> _Codec:
        one: _Codec
        if tx.frontend.raw:
            one = TcpServerConnection(core)
        elif server.http2:
            one = Http2ServerConnection(core, server)
        else:
            one = Http1ServerConnection(core, server, private=server.private)
        made.append(one)
        return one

    loop = core.loop
    address = server.address
    tls: dict[str, Any] = {}
    if server.context is not None:
        tls = {"ssl": server.context, "server_hostname": server.server_name}
    if server.send_proxy != "off":
        sock = await _announce(core, server, tx.client)
        _, codec = await loop.create_connection(protocol, sock=sock, **tls)
    elif address.is_unix:
        _, codec = await loop.create_unix_connection(protocol, address.path, **tls)
    elif is_literal(address.host):
        transport, codec = await loop.create_connection(
            protocol, address.host, _port(server, tx.client), **tls
        )
        tcpoptions.apply(transport.get_extra_info("socket"), core.tcp_options)
    else:
        sock = await dial(core, server, _port(server, tx.client))
        _, codec = await loop.create_connection(protocol, sock=sock, **tls)
    return codec


def _port(server: Server, client: Client) -> int:
    """The port to connect to; raises OSError where it is the client's, which came by a unix socket."""
    port = server.address.port
    if port != CLIENTS_PORT:
        return port
    if client.destination is None:
        raise OSError("it has no port, and the client came by a unix socket; give the server's address one")
    return client.destination[1]


async def _announce(core: Core, server: Server, client: Client) -> socket.socket:
    """A connected socket on which the PROXY header was sent."""
    loop = core.loop
    unix = server.address.is_unix
    sock = socket.socket(socket.AF_UNIX) if unix else await dial(core, server, _port(server, client))
    try:
        if unix:
            sock.setblocking(False)
            await loop.sock_connect(sock, server.address.path)
        if server.send_proxy == "v1":
            header = build_v1(client.source, client.destination)
        else:
            facts = client.tls if server.send_proxy_tlvs else {}
            tlvs = tuple((TLVS[name], facts[name]) for name in server.send_proxy_tlvs if facts.get(name))
            header = build_v2(client.source, client.destination, tlvs)
        await loop.sock_sendall(sock, header)
    except BaseException:
        sock.close()
        raise
    return sock
