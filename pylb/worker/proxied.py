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
            host = address[0] if isinstance(address, tuple) else ""
            self._worker.spawn(self._begin(connection, self._listener.trusts(host)))

    async def _begin(self, connection: socket.socket, trusted: bool) -> None:
        peer: Peer | None = None
        try:
            if trusted:
                async with asyncio.timeout(self._worker.timeouts.request):
                    peer = await self._header(connection)
            listener = self._listener
            await self._worker.loop.connect_accepted_socket(
                lambda: listener.protocol(peer), connection, **listener.tls_options()
            )
        except (OSError, TimeoutError, BadProxyHeader) as error:
            log.debug("connection closed: %s", error)
            connection.close()

    async def _header(self, connection: socket.socket) -> Peer | None:
        seen = 0
        while True:
            await self._readable(connection)
            with contextlib.suppress(BlockingIOError):
                data = connection.recv(_PEEK, socket.MSG_PEEK)
                if len(data) == seen:
                    raise BadProxyHeader("the connection ended within the PROXY header")
                seen = len(data)
                header = parse(data)
                if header is not None:
                    connection.recv(header.length)
                    return header.source
                # Peeked bytes keep the socket readable: have the kernel wake us for more than these.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)

    async def _readable(self, connection: socket.socket) -> None:
        loop = self._worker.loop
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(connection.fileno(), wake)
        try:
            await ready
        finally:
            loop.remove_reader(connection.fileno())
