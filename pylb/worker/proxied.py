"""Accepting by hand: connections that begin with a PROXY header or a TLS handshake.

They take a descriptor before they are anybody's, may fail meanwhile, and somebody should hear why.

A PROXY header is looked at (``MSG_PEEK``) and then taken from the socket, to the byte, before the event loop
gets it: what follows can be HTTP, TLS or anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING

from pylb.net.proxyprotocol import BadProxyHeader, parse
from pylb.scoreboard import Field
from pylb.worker.descriptors import OUT_OF_DESCRIPTORS
from pylb.worker.reasons import in_words

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
        if self._sock.fileno() >= 0:
            self._worker.loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _accept(self) -> None:
        worker = self._worker
        for _ in range(_ACCEPT_AT_ONCE):
            if worker.descriptors.full(worker.held()):
                worker.pause()
                return
            try:
                connection, address = self._sock.accept()
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    worker.out_of_descriptors(error)
                return
            try:
                connection.setblocking(False)
                worker.counters[Field.ACCEPTED] += 1
                begin(worker, self._listener, connection, address)
            except Exception as error:
                worker.internal(error)
                connection.close()


def begin(worker: Worker, listener: Listener, connection: socket.socket, address: object) -> None:
    """Serve an accepted connection, from ``address``."""
    host = address[0] if isinstance(address, tuple) else ""
    worker.spawn(_begin(worker, listener, connection, host))
    worker.hand_over.adopting += 1


async def _begin(worker: Worker, listener: Listener, connection: socket.socket, host: str) -> None:
    peer: Peer | None = None
    try:
        if listener.accept_proxy and listener.trusts(host):
            async with asyncio.timeout(worker.timeouts.request):
                peer = await _header(worker.loop, connection)
        await worker.loop.connect_accepted_socket(
            lambda: listener.protocol(peer), connection, **listener.tls_options()
        )
    except (BadProxyHeader, TimeoutError) as error:
        # A proxy that is trusted and says no header is set up wrongly.
        why = str(error) or "none in time"
        worker.say(
            logging.WARNING, ("proxy", listener.bind), f"{listener.bind}: bad PROXY header by {host}: {why}"
        )
        connection.close()
    except OSError as error:
        # Who leaves in the middle of a handshake is nobody's concern, who can't agree on one may be.
        level = logging.DEBUG if isinstance(error, ConnectionError) else logging.INFO
        why = f"{listener.bind}: connection of {host} failed: {in_words(error)}"
        worker.say(level, ("handshake", listener.bind, level), why)
        connection.close()
    except BaseException:
        connection.close()
        raise
    finally:
        worker.hand_over.adopting -= 1
        worker.client_gone()


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
