"""Hand-over: giving client connections to other workers, and taking theirs (promises I1 and I2).

A connection moves at a message boundary: reading is stopped, what was written has left, no request is
under way. Then its descriptor travels with the bytes that were read and not yet parsed, and only when the
kernel has it in the other worker's inbox is this worker's copy closed. The inbox is kept open by the
supervisor, so a connection in it outlives both workers.

Tunnels move, too, when the worker leaves: `tunnels` does that.

Floor: above the client side, of which it knows HTTP/1's codec; below the process. Who gets how many
connections is the supervisor's decision.
"""

from __future__ import annotations

import base64
import itertools
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from pylb.log import log
from pylb.net import channel
from pylb.scoreboard import Field, RowField, Scoreboard
from pylb.worker.backend import Backend
from pylb.worker.client.http1 import Http1Connection
from pylb.worker.core import ClientConnection, Core
from pylb.worker.frontend import Bind
from pylb.worker.reasons import in_words
from pylb.worker.tunnel import Tunnel
from pylb.worker.tunnels import Tunnels

_RETRY = 0.01  # seconds until a full inbox or an unwritten response is looked at again
# Base64 bytes from which a packet is full, and bytes of one connection; with the names of 200 binds beside
# them the sum stays below `channel.MAX_PACKET`.
_PENDING_LIMIT = 96 * 1024
_LARGEST = 64 * 1024


class HandOver:
    """One worker's outgoing and incoming connections.

    Args:
        row: the worker's own.
        inbox: where other workers' connections arrive.
        inboxes: sending ends of all inboxes, by row.
        binds: by key, those that connections from other workers may have come by.
        backends: by name, those that tunnels from other workers may be of.
    """

    def __init__(
        self,
        core: Core,
        board: Scoreboard,
        row: int,
        inbox: socket.socket,
        inboxes: list[socket.socket],
        binds: dict[str, Bind],
        backends: dict[str, Backend],
    ) -> None:
        self._core = core
        self._board = board
        self._row = row
        self._inbox = inbox
        self._inboxes = inboxes
        self._binds = binds
        self._offered: deque[tuple[Http1Connection, int]] = deque()
        self._scheduled = False
        self._quota: dict[int, int] = {}
        self._targets: list[int] | None = None
        self._turn = itertools.count()
        self._tunnels = Tunnels(core, board, row, inboxes, binds, backends, self._taker)
        self.deaf = False
        """Whether the inbox isn't read, since the descriptors wouldn't suffice."""

    # What moves

    def level(self, target: int, count: int, excess: int, lively: int) -> None:
        """Give ``count`` connections to the worker of a row, idle ones first.

        Args:
            excess: how many connections are too many here, over all targets. As far as those that can move
                don't suffice, clients of the others are asked to connect anew.
            lively: how many clients are asked at most.
        """
        if target == self._row or self._core.leaving:
            return
        self._recall(excess, lively)
        already = sum(1 for _, row in self._offered if row == target)
        if count <= already:
            return
        self._quota[target] = count - already
        self._core.moves = True
        for client in list(self._core.clients):
            if not self._quota:
                break
            if client.movable and not client.busy:
                self.offer(client)

    def _recall(self, excess: int, lively: int) -> None:
        core = self._core
        # What has been under way for long isn't expected to end in time to move.
        moving = sum(client.movable and not client.long for client in core.clients)
        core.recalls.order(min(excess - moving, lively), core.clients, core.loop.time())

    def empty(self, targets: list[int], fits: Callable[[str, str], bool]) -> None:
        """Give every connection away, in turn to ``targets``.

        Args:
            fits: whether they take tunnels that came by a bind (its key) and go to a backend (its name).
        """
        self._quota.clear()
        self._targets = targets or None
        self._core.moves = True
        for client in list(self._core.clients):
            if client.movable and not client.busy:
                self.offer(client)
        if targets:
            self._tunnels.empty(fits)

    def forget_quota(self) -> None:
        """A levelling order is for the moment; the supervisor renews it."""
        self._core.recalls.forget(self._core.loop.time())
        if self._quota:
            self._quota.clear()
        if self._targets is None:
            self._core.moves = False

    def keep(self) -> None:
        """Give nothing more away: the others leave as well."""
        self._targets = None
        self._quota.clear()
        self._core.moves = False
        self._tunnels.keep()
        while self._offered:
            client, _ = self._offered.popleft()
            if not client.closed and not client.transport.is_closing():
                self._stay(client)

    def offer(self, client: ClientConnection | Tunnel) -> None:
        """Let a connection at a message boundary go, or a tunnel, if one is wanted elsewhere."""
        if isinstance(client, Tunnel):
            self._tunnels.offer(client)
            return
        if not isinstance(client, Http1Connection) or client.busy or client.closed or client.moving:
            return
        if len(client.buffer) > _LARGEST:
            # More than fits beside others in a packet. It is offered again after its next request.
            self._core.loop.call_soon(client.go_on)
            return
        target = self._next_target()
        if target is None:
            self._core.moves = False
            client.go_on()
            return
        client.moving = True
        client.transport.pause_reading()
        self._offered.append((client, target))
        if not self._scheduled:
            self._scheduled = True
            # Not now: what was just written leaves at the end of this turn of the loop.
            self._core.loop.call_soon(self._send)

    def _stuck(self, row: int) -> bool:
        """Whether the worker of a row shows no sign of life."""
        return bool(self._board.note(row)[RowField.STUCK])

    def _taker(self) -> int | None:
        """The row of the worker that takes what this one has to give away as it leaves."""
        return None if self._targets is None else self._next_target()

    def _next_target(self) -> int | None:
        """The row of the worker that the next connection goes to; None when it stays."""
        if self._targets is not None:
            well = [row for row in self._targets if not self._stuck(row)] or self._targets
            return well[next(self._turn) % len(well)]
        for target in list(self._quota):
            self._quota[target] -= 1
            stuck = self._stuck(target)
            if stuck or not self._quota[target]:
                del self._quota[target]
            if not stuck:
                return target
        return None

    def _stay(self, client: Http1Connection) -> None:
        """A connection that was offered isn't given away after all."""
        client.moving = False
        client.transport.resume_reading()
        client.go_on()

    def _send(self) -> None:
        self._scheduled = False
        waiting: list[tuple[Http1Connection, int]] = []
        batches: dict[int, list[Http1Connection]] = {}
        while self._offered:
            client, target = self._offered.popleft()
            if client.closed or client.transport.is_closing():
                continue
            if self._stuck(target):
                other = self._next_target()
                if other is None:
                    self._stay(client)
                    continue
                target = other
            if client.transport.get_write_buffer_size():
                waiting.append((client, target))
            else:
                batches.setdefault(target, []).append(client)
        for target, clients in batches.items():
            while clients:
                batch: list[Http1Connection] = []
                size = 0
                while clients and len(batch) < self._core.descriptors.packet and size < _PENDING_LIMIT:
                    client = clients.pop()
                    batch.append(client)
                    size += len(client.buffer) * 4 // 3
                try:
                    sent = self._send_batch(target, batch)
                except Exception as error:
                    self._core.internal(error)
                    for client in batch:
                        self._keep(client)
                    continue
                if not sent:
                    waiting += [(client, target) for client in batch + clients]
                    break
        if waiting:
            self._offered.extend(waiting)
            self._scheduled = True
            self._core.loop.call_later(_RETRY, self._send)

    def _send_batch(self, target: int, batch: list[Http1Connection]) -> bool:
        header = {
            "binds": [client.bind.key for client in batch],
            "peers": [client.told for client in batch],
            "born": [int(client.born) for client in batch],
            "pending": [base64.b64encode(client.buffer).decode() for client in batch],
        }
        fds = [client.transport.get_extra_info("socket").fileno() for client in batch]
        if not channel.send_connections(self._inboxes[target], header, fds):
            return False
        self._core.counters[Field.HANDED_OVER] += len(batch)
        for client in batch:
            try:
                client.buffer = b""
            finally:
                client.cut_off()  # closes this process's descriptor without a shutdown
        return True

    def _keep(self, client: Http1Connection) -> None:
        """A connection that could not be packed goes on here."""
        try:
            client.moving = False
            client.transport.resume_reading()
            client.go_on()
        except Exception as error:
            client.crashed(error)

    # What comes

    def listen(self) -> None:
        """Take what comes to the inbox, from now on."""
        self.deaf = False
        self._core.loop.add_reader(self._inbox.fileno(), self.receive)

    def receive(self) -> None:
        """Adopt all connections that wait in the inbox, as far as the descriptors suffice."""
        core = self._core
        while True:
            if core.descriptors.full(core.held() + core.descriptors.packet):
                # The inbox keeps them; the worker looks again with each tick.
                self.deaf = True
                core.loop.remove_reader(self._inbox.fileno())
                return
            packet = channel.recv_connections(self._inbox)
            if packet is None:
                return
            header, fds = packet
            try:
                if "tunnels" in header:
                    self._tunnels.take(header, fds)
                    continue
                columns = (header["binds"], header["peers"], header["born"], header["pending"])
                for bind, peer, born, pending in zip(*columns, strict=True):
                    if not fds:
                        log.error("connections were lost in a hand-over: no descriptors for them")
                        break
                    sock = socket.socket(fileno=fds.pop(0))
                    sock.setblocking(False)
                    core.spawn(self._adopt(sock, bind, peer, born, base64.b64decode(pending)))
                    core.adopting += 1
            except Exception as error:
                core.internal(error)
            finally:
                channel.close_all(fds)

    async def _adopt(
        self, sock: socket.socket, bind: str, peer: list[Any] | None, born: int, pending: bytes
    ) -> None:
        core = self._core
        try:
            known = self._binds.get(bind)
            if known is None:
                log.info("connection of %s closed: it is no longer bound", bind)
                sock.close()
                return
            whose = (peer[0], peer[1]) if peer else None
            _, client = await core.loop.connect_accepted_socket(
                lambda: Http1Connection(core, known, whose), sock
            )
            core.counters[Field.ADOPTED] += 1
            client.born, client.recall_at, client.fresh = born, core.recall_at(born), False
            if pending:
                client.data_received(pending)
            elif core.moves:
                self.offer(client)
            if core.stopping:
                core.loop.call_later(core.spread, client.drain)
        except OSError as error:
            core.say(logging.INFO, "adopt", f"a connection ended while it was handed over: {in_words(error)}")
            sock.close()
        except Exception:
            sock.close()
            raise
        finally:
            core.adopting -= 1
            core.emptier()
