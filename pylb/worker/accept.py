"""Accepting by hand: connections that begin with a PROXY header or a TLS handshake.

Such a connection takes a descriptor before it has a codec, and may fail until then; the log says why.

A PROXY header is looked at (``MSG_PEEK``) and then taken from the socket, to the byte, before the event loop
gets it: what follows can be HTTP, TLS or anything else.

Floor: beside the client side, below `listeners`, which says which codec a connection gets. Knows neither
codecs nor requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

from pylb.net.proxyprotocol import BadProxyHeader, parse
from pylb.scoreboard import Field
from pylb.worker.core import Core
from pylb.worker.descriptors import OUT_OF_DESCRIPTORS
from pylb.worker.facts import Endpoint
from pylb.worker.reasons import Reason, in_words

_PEEK = 8192
_ACCEPT_AT_ONCE = 64


class ByHand:
    """How the connections of one bind begin.

    Args:
        bind: its key, for the log.
        announced: whether a peer, by its address, begins with a PROXY header.
        tls: what asyncio is told of TLS.
        protocol: makes a connection's codec, given the client's address by a PROXY header.
        tell: is told of connections that fail in their handshake: the peer's address, the client's by a PROXY
            header, and why.
    """

    def __init__(
        self,
        core: Core,
        bind: str,
        announced: Callable[[str], bool],
        tls: dict[str, Any],
        protocol: Callable[[Endpoint | None], asyncio.Protocol],
        tell: Callable[[object, Endpoint | None, Reason], None],
    ) -> None:
        self.core = core
        self._bind = bind
        self._announced = announced
        self._tls = tls
        self._protocol = protocol
        self._tell = tell

    def begin(self, connection: socket.socket, address: object) -> None:
        """Serve an accepted connection, from ``address``."""
        host = address[0] if isinstance(address, tuple) else ""
        self.core.spawn(self._begin(connection, host, address))
        self.core.adopting += 1

    async def _begin(self, connection: socket.socket, host: str, address: object) -> None:
        core = self.core
        told: Endpoint | None = None
        try:
            if self._announced(host):
                async with asyncio.timeout(core.timeouts.request):
                    told = await _header(core.loop, connection)
            await core.loop.connect_accepted_socket(lambda: self._protocol(told), connection, **self._tls)
        except (BadProxyHeader, TimeoutError) as error:
            # A trusted proxy that sends no header is set up wrongly.
            why = str(error) or "none in time"
            core.say(
                logging.WARNING, ("proxy", self._bind), f"{self._bind}: bad PROXY header by {host}: {why}"
            )
            connection.close()
        except OSError as error:
            # Clients leave during a handshake all the time; one that fails may be worth a look.
            level = logging.DEBUG if isinstance(error, ConnectionError) else logging.INFO
            why = f"{self._bind}: connection of {host} failed: {in_words(error)}"
            core.say(level, ("handshake", self._bind, level), why)
            connection.close()
            self._tell(address, told, Reason.CLIENT_GONE if level == logging.DEBUG else Reason.REFUSED)
        except BaseException:
            connection.close()
            raise
        finally:
            core.adopting -= 1
            core.emptier()


class HandServer:
    """Accepts from one listening socket, in the place of an asyncio server."""

    def __init__(self, core: Core, by_hand: ByHand, sock: socket.socket) -> None:
        self._core = core
        self._by_hand = by_hand
        # A copy: the event loop knows a reader by its descriptor, and `close` closes this one alone.
        self._sock = sock.dup()
        self._sock.setblocking(False)
        core.loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more."""
        if self._sock.fileno() >= 0:
            self._core.loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _accept(self) -> None:
        core = self._core
        for _ in range(_ACCEPT_AT_ONCE):
            if core.descriptors.full(core.held()):
                core.pause(0.0)
                return
            try:
                connection, address = self._sock.accept()
            except OSError as error:
                if error.errno in OUT_OF_DESCRIPTORS:
                    core.out_of_descriptors(error)
                return
            try:
                connection.setblocking(False)
                core.counters[Field.ACCEPTED] += 1
                self._by_hand.begin(connection, address)
            except Exception as error:
                core.internal(error)
                connection.close()


async def _header(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> Endpoint | None:
    """Take a PROXY header from the socket; gives the client's address, None where the header has none.

    Raises:
        BadProxyHeader: what came is none, or the connection has ended.
    """
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
            # Peeked bytes keep the socket readable: have the kernel report it when there are more than these.
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
