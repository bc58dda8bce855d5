"""Tunnels on their way to another worker, when theirs leaves, and from others (promise I1).

A tunnel without TLS moves whatever its peers do, also where one of them doesn't read: both connections are
let go of at once (`Tunnel.detach`), and what they had not taken goes along. Many of them go in one packet, a
packet in a turn of the event loop, so that only few relay nothing at a time.

One that can't be sent, or that nobody takes any more, goes on here, and is served to its end.

Floor: below `handover`, which says when and to whom; above the client side, of which it needs a connection
that is a tunnel's end.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from pylb.log import log
from pylb.net import channel
from pylb.scoreboard import Field, Scoreboard
from pylb.worker.backend import Backend
from pylb.worker.client.tcp import TcpConnection
from pylb.worker.core import WRITE_BUFFER, Core
from pylb.worker.exchange import Exchange
from pylb.worker.frontend import Bind
from pylb.worker.packed import Packed, Unpacked, lose, pack, unpack
from pylb.worker.pipe import ConnectionPipe, Owner
from pylb.worker.reasons import Reason, in_words
from pylb.worker.tunnel import Half, Halves, Tunnel

_RETRY = 0.01  # seconds until a full inbox, or a tunnel that can't be let go of yet, is looked at again
_TRIES = 100  # to send a packet, before its tunnels go on here
_PACKET = 128 * 1024  # bytes of entries from which a packet is full
_INLINE = 24 * 1024  # bytes of one tunnel that go within its packet; more go in a file in memory


class Tunnels:
    """One worker's outgoing and incoming tunnels.

    Args:
        row: the worker's own.
        inboxes: sending ends of all inboxes, by row.
        binds: by key, those that tunnels may have come by.
        target: gives the row of the worker that is next to get some; None: nobody.
    """

    def __init__(
        self,
        core: Core,
        board: Scoreboard,
        row: int,
        inboxes: list[socket.socket],
        binds: dict[str, Bind],
        backends: dict[str, Backend],
        target: Callable[[], int | None],
    ) -> None:
        self._core = core
        self._board = board
        self._row = row
        self._inboxes = inboxes
        self._binds = binds
        self._backends = backends
        self._target = target
        self._fits: Callable[[str, str], bool] | None = None
        self._waiting: dict[Tunnel, None] = {}
        self._detaching = 0
        self._packed: list[Packed] = []
        self._scheduled = False
        self._tries = 0
        self._most = max(1, core.descriptors.packet // 3)  # in a packet: two descriptors each, and the file

    # What goes

    def empty(self, fits: Callable[[str, str], bool]) -> None:
        """Give every tunnel away.

        Args:
            fits: whether the others have such a bind, by its key, and such a backend, by its name.
        """
        self._fits = fits
        for tunnel in self._core.tunnels:
            self.offer(cast(Tunnel, tunnel))

    def keep(self) -> None:
        """Give nothing more away; what is on its way comes back."""
        self._fits = None
        self._waiting.clear()
        self._take_back()

    def offer(self, tunnel: Tunnel) -> None:
        """Let a tunnel go, if it may."""
        if self._fits is None or not tunnel.movable:
            return
        tx = tunnel.exchange.tx
        if self._fits(tx.client.bind, tx.backend.name):
            self._waiting[tunnel] = None
            self._soon()

    def _soon(self, seconds: float = 0.0) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._core.loop.call_later(seconds, self._step)

    def _step(self) -> None:
        """Let go of as many as go into a packet."""
        self._scheduled = False
        if self._packed or self._detaching:
            return  # `_send` goes on with them
        later: list[Tunnel] = []
        while self._waiting and self._detaching < self._most:
            tunnel = next(iter(self._waiting))
            del self._waiting[tunnel]
            if tunnel not in self._core.tunnels or not tunnel.movable:
                continue  # it has ended
            self._core.adopting += 1
            self._detaching += 1
            try:
                under_way = tunnel.detach(partial(self._detached, tunnel))
            except Exception as error:
                self._core.internal(error)
                under_way = False
            if not under_way:
                self._core.adopting -= 1
                self._detaching -= 1
                later.append(tunnel)
        self._waiting.update(dict.fromkeys(later))
        if self._waiting and not self._detaching:
            self._soon(_RETRY)

    def _detached(self, tunnel: Tunnel, halves: Halves | None) -> None:
        self._detaching -= 1
        if halves is not None:
            try:
                self._packed.append(pack(tunnel, halves))
            except Exception as error:
                channel.close_all([half.descriptor for half in halves])
                tunnel.exchange.crashed(error)
                halves = None
        if halves is None:
            self._arrived()
        if not self._detaching:
            self._send()

    def _send(self) -> None:
        """Send what is packed, as far as there is room."""
        while self._packed:
            target = self._target() if self._fits is not None else None
            if target is None:
                self._take_back()
                break
            batch: list[Packed] = []
            size = 0
            for packed in self._packed[: self._most]:
                batch.append(packed)
                size += min(len(packed.blob) * 4 // 3, _INLINE * 4 // 3) + 1024
                if size >= _PACKET:
                    break
            sent = False
            try:
                sent = self._send_batch(target, batch)
            except Exception as error:
                self._core.internal(error)
                self._tries = _TRIES
            if sent:
                self._tries = 0
                del self._packed[: len(batch)]
                continue
            self._tries += 1
            if self._tries >= _TRIES:
                self._tries = 0
                self._fits = None
                self._waiting.clear()
                log.warning("tunnels are served to their end here: no other worker takes them")
                self._take_back()
                break
            self._core.loop.call_later(_RETRY, self._send)
            return
        if self._waiting:
            self._soon()

    def _send_batch(self, target: int, batch: list[Packed]) -> bool:
        descriptors: list[int] = []
        files: list[int] = []
        entries: list[dict[str, Any]] = []
        try:
            for packed in batch:
                entry = dict(packed.entry)
                descriptors += packed.descriptors
                if len(packed.blob) <= _INLINE:
                    entry["blob"] = base64.b64encode(packed.blob).decode()
                else:
                    files.append(_file(packed.blob))
                    descriptors.append(files[-1])
                entries.append(entry)
            if not channel.send_connections(self._inboxes[target], {"tunnels": entries}, descriptors):
                return False
        finally:
            channel.close_all(files)
        for packed in batch:
            channel.close_all(packed.descriptors)
            self._core.counters[Field.HANDED_OVER] += 1
            self._arrived()
        return True

    def _take_back(self) -> None:
        """What is packed goes on here."""
        while self._packed:
            self._adopt(self._packed.pop())

    def _arrived(self) -> None:
        """One isn't on its way any more."""
        self._core.adopting -= 1
        self._core.emptier()

    # What comes

    def take(self, header: dict[str, Any], fds: list[int]) -> None:
        """Go on with the tunnels of a packet; their descriptors are taken from ``fds``."""
        for entry in header["tunnels"]:
            blob = entry.pop("blob", None)
            if len(fds) < (2 if blob is not None else 3):
                log.error("tunnels were lost in a hand-over: no descriptors for them")
                lose(entry, self._board)
                continue
            near, far = fds.pop(0), fds.pop(0)
            data = base64.b64decode(blob) if blob is not None else _contents(fds.pop(0))
            self._core.adopting += 1
            self._core.counters[Field.ADOPTED] += 1
            self._adopt(Packed(entry, data, (near, far)))

    def _adopt(self, packed: Packed) -> None:
        core = self._core
        entry = packed.entry
        try:
            bind, backend = self._binds.get(entry["bind"]), self._backends.get(entry["backend"])
            if bind is None or backend is None:
                log.error("a tunnel of %s is cut: there is no such bind or backend", entry["bind"])
            else:
                exchange: Exchange = core.spare.pop() if core.spare else Exchange(core)
                unpacked = unpack(packed, exchange, bind, backend, self._board, self._row)
                core.spawn(self._open(unpacked, bind, backend))
                return
        except Exception as error:
            core.internal(error)
        lose(entry, self._board)
        channel.close_all(packed.descriptors)
        self._arrived()

    async def _open(self, unpacked: Unpacked, bind: Bind, backend: Backend) -> None:
        """Have transports for both connections, and relay again."""
        core, exchange = self._core, unpacked.exchange
        near_half, far_half = unpacked.halves
        client = TcpConnection(core, bind, unpacked.facts.told)
        exchange.client = client
        descriptors = [near_half.descriptor, far_half.descriptor]
        near: ConnectionPipe | None = None
        try:
            made = partial(client.go_on, unpacked.facts)
            near = await self._pipe(near_half, descriptors, made, client)
            far = await self._pipe(far_half, descriptors)
            tunnel = Tunnel(core, near, far, unpacked.protocol, exchange.tunnel_over, unpacked.idle)
            tunnel.server, tunnel.exchange = exchange.tx.server, exchange
            tunnel.go_on(unpacked.halves, unpacked.deadline)
            tunnel.start()
        except OSError as error:
            text = f"a tunnel ended while it was handed over: {in_words(error)}"
            core.say(logging.INFO, "adopt", text)
            if near is not None:
                near.abort()
            reason = Reason.CLIENT_GONE if near is None else Reason.SERVER_GONE
            exchange.tunnel_over(reason, near_half.came, far_half.came)
        except Exception as error:
            if near is not None:
                near.abort()
            exchange.crashed(error)
        else:
            server = exchange.tx.server
            if server is not None and server.down:  # meanwhile, or before this worker has heard of it
                for call in backend.on_down:
                    call(server)
        finally:
            channel.close_all(descriptors)
            self._arrived()

    async def _pipe(
        self,
        half: Half,
        descriptors: list[int],
        made: Callable[[asyncio.Transport], None] = lambda transport: None,
        owner: Owner | None = None,
    ) -> ConnectionPipe:
        opening = _Opening(self._core, half, made, owner)
        sock = socket.socket(fileno=half.descriptor)
        descriptors.remove(half.descriptor)  # it is the socket's now
        try:
            sock.setblocking(False)
            await self._core.loop.connect_accepted_socket(lambda: opening, sock)
        except BaseException:
            sock.close()
            raise
        assert opening.pipe is not None
        return opening.pipe


class _Opening(asyncio.Protocol):
    """What a transport has for a protocol until it is known: then it gets its pipe."""

    def __init__(
        self, core: Core, half: Half, made: Callable[[asyncio.Transport], None], owner: Owner | None
    ) -> None:
        self._core = core
        self._half = half
        self._made = made
        self._owner = owner
        self.pipe: ConnectionPipe | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        to = cast(asyncio.Transport, transport)
        to.set_write_buffer_limits(WRITE_BUFFER)
        self._made(to)
        half, owner = self._half, self._owner
        self.pipe = ConnectionPipe(self._core, to, eof=half.eof, owner=owner, rest=half.rest)


def _file(data: bytes) -> int:
    """A file in memory with these bytes; gives its descriptor.

    Raises:
        OSError: there is no descriptor or no memory left.
    """
    file = os.memfd_create("tunnel", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as out:
            out.write(data)
    except BaseException:
        os.close(file)
        raise
    return file


def _contents(file: int) -> bytes:
    """The bytes of such a file, which is closed."""
    with open(file, "rb") as came:
        came.seek(0)
        return came.read()
