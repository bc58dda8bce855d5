"""Accepting connections that begin with a PROXY header.

The header is looked at (``MSG_PEEK``) and then taken from the socket, to the byte, before the event loop gets
it: what follows can be HTTP, TLS or anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

from pylb.log import log
from pylb.net.proxyprotocol import BadProxyHeader, parse
from pylb.scoreboard import Field

if TYPE_CHECKING:
    from pylb.worker.listener import Listener, Peer
    from pylb.worker.main import Worker

_PEEK = 8192
_ACCEPT_AT_ONCE = 64


class ProxiedServer:
    """In the place of an asyncio server, for one listening socket."""

    def __init__(self, worker: Worker, listener: Listener, sock: socket.socket) -> None:
        self._worker = worker
        self._listener = listener
        # A copy: the event loop knows a reader by its descriptor, and this one is ours to close.
        self._sock = sock.dup()
        self._sock.setblocking(False)
        worker.loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more."""
        self._worker.loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                connection, address = self._sock.accept()
            except OSError:
                return
            connection.setblocking(False)
            self._worker.counters[Field.ACCEPTED] += 1
            begin(self._worker, self._listener, connection, address)


def begin(worker: Worker, listener: Listener, connection: socket.socket, address: object) -> None:
    """Serve an accepted connection, from ``address``."""
    host = address[0] if isinstance(address, tuple) else ""
    worker.spawn(_begin(worker, listener, connection, listener.trusts(host)))


async def _begin(worker: Worker, listener: Listener, connection: socket.socket, trusted: bool) -> None:
    peer: Peer | None = None
    try:
        if trusted:
            async with asyncio.timeout(worker.timeouts.request):
                peer = await _header(worker.loop, connection)
        await worker.loop.connect_accepted_socket(
            lambda: listener.protocol(peer), connection, **listener.tls_options()
        )
    except (OSError, TimeoutError, BadProxyHeader) as error:
        log.debug("connection closed: %s", error)
        connection.close()


async def _header(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> Peer | None:
    seen = 0
    while True:
        await _readable(loop, connection)
        with contextlib.suppress(BlockingIOError):
            data = connection.recv(_PEEK, socket.MSG_PEEK)
            if len(data) == seen:
                raise BadProxyHeader("the connection ended within the PROXY header")
            seen = len(data)
            header = parse(data)
            if header is not None:
                connection.recv(header.length)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                return header.source
            # Peeked bytes keep the socket readable: have the kernel wake us for more than these.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)


async def _readable(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection.fileno(), wake)
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())
