"""Listeners: which sockets a worker accepts from, and which codec a connection of each bind gets.

Floor: above the client side, below the process. Knows codecs by their classes only, and no requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from pylb.config.model import Frontend as FrontendConfig
from pylb.http.errors import Refused, error, overflow
from pylb.scoreboard import Field
from pylb.worker.accept import ByHand, HandServer
from pylb.worker.client.http1 import Http1Connection
from pylb.worker.client.tcp import TcpConnection
from pylb.worker.core import Core
from pylb.worker.exchange import begin
from pylb.worker.facts import Client, Endpoint
from pylb.worker.frontend import Bind
from pylb.worker.reasons import Reason

_ACCEPTED = int(Field.ACCEPTED)  # an enum member costs a lookup each time
_HANDSHAKE = 0.25  # seconds in which a handshake that has begun is over: a long round trip
_FAREWELL = 2.0  # seconds that a connection above the limit has to close
_SHUTDOWN = 86400.0
"""Seconds that the event loop gives a TLS connection from its close until all has left. As long as the client
takes something it is to get all; the codec's own deadline (`timeouts.client`) is the one that ends it."""


class Overflow(asyncio.Protocol):
    """A connection above ``limits.connections``: answered 503 where that costs no handshake, and closed.

    Args:
        speak: whether it is answered.
        tell: is told of the connection.
    """

    def __init__(
        self, core: Core, speak: bool, tell: Callable[[asyncio.BaseTransport], None] | None = None
    ) -> None:
        self._loop = core.loop
        self._speak = speak
        self._tell = tell

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._tell is not None:
            self._tell(transport)
        if self._speak:
            transport.write(overflow())  # type: ignore[attr-defined]
        transport.close()
        if not self._speak:  # a TLS client may never let itself be closed
            self._loop.call_later(_FAREWELL, transport.abort)  # type: ignore[attr-defined]


class Listener:
    """One bind: what comes before its connections have a codec, and which codec they get."""

    def __init__(
        self, core: Core, bind: Bind, config: FrontendConfig, context: ssl.SSLContext | None
    ) -> None:
        self._core = core
        self.bind = bind
        self._raw = bind.frontend.raw
        self.going = False
        """Whether no worker reads it any more when this one has left."""
        self.by_hand: ByHand | None = None
        """Accepts in the event loop's place where a PROXY header or TLS comes first; else None."""
        if config.accept_proxy or context is not None:
            tls: dict[str, Any] = {}
            if context is not None:
                tls = {"ssl": context, "ssl_handshake_timeout": core.timeouts.request}
                tls["ssl_shutdown_timeout"] = _SHUTDOWN
            proxied = config.accept_proxy
            self.by_hand = ByHand(
                core, bind.key, lambda host: proxied and bind.trusts(host), tls, self.protocol, self._failed
            )

    def accepted(self) -> asyncio.Protocol:
        """The codec of a connection that the event loop has accepted."""
        core = self._core
        core.counters[_ACCEPTED] += 1
        try:
            if core.descriptors.full(core.held() + 1):
                core.loop.call_soon(core.pause, 0.0)  # this one is accepted; libuv accepts one in a turn
            return self.protocol()
        except Exception as error:
            # If it were raised, libuv would wait for ever for this connection to be taken.
            core.internal(error)
            return Overflow(core, False)

    def protocol(self, told: Endpoint | None = None) -> asyncio.Protocol:
        """The codec of a new connection; ``told`` is the client's address by a PROXY header."""
        core = self._core
        if core.limits.connections and core.full():
            core.count_refusal(Refused(503, "connections"))
            speak = not self._raw and not self.bind.tls
            if not self.bind.frontend.on_account:
                return Overflow(core, speak)
            return Overflow(core, speak, lambda transport: self._overflown(transport, told, speak))
        if self._raw:
            return TcpConnection(core, self.bind, told)
        connection = Http1Connection(core, self.bind, told)
        if self.going:
            connection.movable = False
        return connection

    def _failed(self, address: object, told: Endpoint | None, reason: Reason) -> None:
        """Tell the phases of the account, where they want it, of a connection that had no codec yet."""
        frontend = self.bind.frontend
        if frontend.tells_all:
            ended = asyncio.BaseTransport({"peername": address})
            begin(self._core, Client(ended, self.bind.key, told), frontend).never(reason)

    def _overflown(self, transport: asyncio.BaseTransport, told: Endpoint | None, speak: bool) -> None:
        """Tell the phases of the account of a connection above the limit, of which nothing is read."""
        exchange = begin(self._core, Client(transport, self.bind.key, told), self.bind.frontend)
        tx, answer = exchange.tx, error(503)
        tx.own = True
        if speak:
            tx.response, tx.bytes_out = answer.head, len(answer.body)
        exchange.never(Reason.REFUSED)


class Listeners:
    """The listening sockets of a worker, of which it accepts from some.

    Args:
        sockets: bind key to one socket per slot.
        listeners: bind key to its listener.
    """

    def __init__(
        self,
        core: Core,
        sockets: dict[str, list[socket.socket]],
        listeners: dict[str, Listener],
        backlog: int,
    ) -> None:
        self._core = core
        self._sockets = sockets
        self._listeners = listeners
        self._backlog = backlog
        self._accepting: dict[tuple[str, int], asyncio.AbstractServer | HandServer] = {}
        self._slots: list[int] = []  # whose sockets are to be read
        self._paused_at = 0.0

    async def listen(self, slots: list[int]) -> None:
        """Accept from exactly these slots' sockets; a unix socket is one for all slots."""
        self._slots = slots
        wanted: dict[tuple[str, int], socket.socket] = {}
        for bind, sockets in self._sockets.items():
            if bind.startswith("unix:"):
                if slots:
                    wanted[bind, 0] = sockets[0]
            else:
                for slot in slots:
                    wanted[bind, slot] = sockets[slot]
        for key in list(self._accepting):
            if key not in wanted:
                self._accepting.pop(key).close()
        for (bind, slot), sock in wanted.items():
            if (bind, slot) in self._accepting:
                continue
            if self._core.descriptors.paused:
                break  # `resumable` has this done again when there is room
            server = await self._accept(bind, sock)
            if self._core.descriptors.paused:
                server.close()  # meanwhile
            else:
                self._accepting[bind, slot] = server

    async def _accept(self, bind: str, sock: socket.socket) -> asyncio.AbstractServer | HandServer:
        core = self._core
        listener = self._listeners[bind]
        if listener.by_hand is not None:
            return HandServer(core, listener.by_hand, sock)
        # A copy, as closing the server closes what it was given.
        copy = sock.dup()
        create: Any = core.loop.create_server
        options: dict[str, Any] = {}
        if bind.startswith("unix:"):
            create = core.loop.create_unix_server
            options["cleanup_socket"] = False  # it is the supervisor's; Python 3.13 says True
        server: asyncio.AbstractServer = await create(
            listener.accepted, sock=copy, backlog=self._backlog, **options
        )
        return server

    def stop(self) -> None:
        """Accept nothing any more."""
        # What libuv has accepted by now has been taken from the kernel's queue; the rest waits there.
        accepting, self._accepting = self._accepting, {}
        for server in accepting.values():
            server.close()

    def pause(self, seconds: float = 0.0) -> None:
        """Accept nothing until there are fewer connections, and not for so many seconds."""
        self.stop()
        core = self._core
        descriptors = core.descriptors
        if not descriptors.pause(core.now, seconds):
            return
        self._paused_at = core.now
        core.counters[Field.PAUSES] += 1
        core.say(
            logging.WARNING,
            "pause",
            f"accepting is paused: {core.held()} client connections are held, and the limit of "
            f"{descriptors.limit} descriptors (ulimit -n) suffices for {descriptors.bound}",
        )

    def resumable(self) -> list[int] | None:
        """The slots to `listen` at again after a pause; None while it lasts."""
        core = self._core
        if not core.descriptors.goes_on(core.held(), core.now):
            return None
        core.say(logging.INFO, "go on", f"accepting goes on after {core.now - self._paused_at:.1f} s")
        return self._slots

    async def close(self, read_by_others: set[str]) -> None:
        """Close this process's copies of the sockets that others read; accept what the other ones hold."""
        for bind, sockets in list(self._sockets.items()):
            listener = self._listeners[bind]
            listener.going = bind not in read_by_others
            for sock in sockets:
                if listener.going:
                    await self._empty(listener, sock)
                else:
                    sock.close()

    async def close_rest(self, handshakes: bool) -> None:
        """Close the sockets that nobody else will read, each as soon as it was emptied once more.

        Every worker does so.

        Args:
            handshakes: wait for those under way. After a reload no other ones begin (`steering.turn_away`).
        """
        gone = {bind: sockets for bind, sockets in self._sockets.items() if self._listeners[bind].going}
        if handshakes and any(not bind.startswith("unix:") for bind in gone):
            await asyncio.sleep(_HANDSHAKE)
        for bind, sockets in gone.items():
            for sock in sockets:
                await self._empty(self._listeners[bind], sock)
                sock.close()

    async def _empty(self, listener: Listener, sock: socket.socket) -> None:
        """Accept what a socket holds."""
        core = self._core
        while True:
            try:
                connection, address = sock.accept()
            except OSError:
                return
            connection.setblocking(False)
            core.counters[Field.ACCEPTED] += 1
            if listener.by_hand is not None:
                listener.by_hand.begin(connection, address)
                continue
            with contextlib.suppress(OSError):
                await core.loop.connect_accepted_socket(listener.protocol, connection)
