"""The controller's I/O: listens, checks who is there, passes messages to the lease table, sends grants.

One peer can cost little. A line is bounded, so is what a peer sends in a while and what it leaves unread; a
hello must come soon; strangers, handshakes of TLS included, have places of their own (`controller.places`). A
report costs the same however many balancers there are: cores are shared anew at most every `SHARE_EVERY`
seconds, for all reports since. Nothing that a peer sends ends the server.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from controller.act.actor import Actor
from controller.act.policy import Balancer
from controller.address import Address
from controller.descriptors import descriptors_in_use
from controller.leases import Holder, LeaseTable
from controller.listening import Listening
from controller.places import Places, within
from controller.protocol import (
    Error,
    Hello,
    LineDecoder,
    Message,
    ProtocolError,
    Report,
    Status,
    StatusRequest,
    encode,
)
from controller.sources import Hosting, Source
from controller.sources.quota import whole_cores

TICK = 0.25
SHARE_EVERY = 0.025
"""Seconds between two sharings; a report waits for the next one."""
HELLO_SECONDS = 5.0
IDLE_SECONDS = 10.0
READ = 16384  # bytes at once, into a buffer that all peers share
MOST_READ = 65536  # bytes of one peer between two ticks; the rest waits in the kernel
MOST_ERRORS = 10  # answers to mistakes of one peer between two ticks
_MAX_UNSENT = 65536
_RENEW = 0.5  # seconds after which an unchanged grant is sent again
_LINGER = 1.0  # seconds
_PAUSE = 1.0  # seconds without accepting when descriptors have run out all the same
_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger("controller")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may talk to the controller.

    Over a unix socket the same user, root and ``uids``; over TCP whoever knows ``token`` or, with ``tls``
    made by `server_tls`, shows a certificate of the CA.
    """

    token: str = ""
    tls: ssl.SSLContext | None = None
    uids: frozenset[int] = frozenset()


def server_tls(cert: str, key: str, ca: str | None) -> ssl.SSLContext:
    """TLS for the listener; with ``ca`` peers must show a certificate that it signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca)
    return context


def credentials(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a unix socket (man 7 unix, SO_PEERCRED)."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


class ControllerServer:
    """Serves one source to many balancers; ``actor`` acts for those under pressure, where that is wanted."""

    def __init__(self, source: Source, access: Access | None = None, actor: Actor | None = None) -> None:
        self.source = source
        self._actor = actor
        self._host = source if isinstance(source, Hosting) else None
        self.table = LeaseTable()
        self.addresses: list[Address] = []
        """Where it listens."""
        self.access = access or Access()
        self.places: Places[_Peer] = Places()
        self.buffer = bytearray(READ)
        self._listening = Listening()
        self._ticking: asyncio.Task[None] | None = None
        self._keys = 0
        self._sharing: asyncio.TimerHandle | None = None
        self._shared_at = 0.0
        self._problem = ""
        self._same: set[str] = set()

    @property
    def address(self) -> Address | None:
        """The first one of `addresses`."""
        return self.addresses[0] if self.addresses else None

    async def start(self, *addresses: Address) -> None:
        """Listen on all of them (a TCP port of 0 takes a free one; see `addresses`).

        Raises:
            OSError: one can't be listened on, and then none is; its ``filename`` is the address.
        """
        mode = 0o666 if self.access.uids else 0o600  # with other users the peer's credentials decide
        for address in addresses:
            try:
                self.addresses.append(await self._listening.add(address, mode))
            except OSError as error:
                self._stop_listening()
                raise OSError(error.errno, error.strerror or str(error), str(address)) from None
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        used = descriptors_in_use()
        self.places = Places(*within(limit if limit != resource.RLIM_INFINITY else 1 << 20, used))
        loop = asyncio.get_running_loop()
        for sock in self._listening.sockets:
            loop.add_reader(sock, self._accept, sock)
        self._ticking = loop.create_task(self._tick_forever())
        if self._actor is not None:
            self._actor.start()

    def _stop_listening(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._listening.sockets:
            loop.remove_reader(sock)
        self._listening.close()
        self.addresses.clear()

    async def close(self) -> None:
        """Stop listening and let every peer go."""
        if self._ticking is not None:
            self._ticking.cancel()
        if self._sharing is not None:
            self._sharing.cancel()
        self._stop_listening()
        for peer in self.places.all():
            peer.drop()
        if self._actor is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._actor.close)

    def _accept(self, listener: socket.socket) -> None:
        """Take one connection; its place is a stranger's until it has shown who it is."""
        loop = asyncio.get_running_loop()
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF:
                loop.remove_reader(listener)
                loop.call_later(_PAUSE, self._accept_again, listener)
                log.warning("can't accept: %s; trying again in %g s", error.strerror, _PAUSE)
            return  # else: it left again
        sock.setblocking(False)
        self._keys += 1
        address = self._listening.sockets[listener]
        peer = _Peer(self, f"peer-{self._keys}", address)
        gone = self.places.come(peer)
        if gone is not None:
            gone.drop()
        peer.opening = loop.create_task(self._open(peer, sock, address))
        peer.opening.add_done_callback(lambda task: self._opened(peer, sock, task))

    async def _open(self, peer: _Peer, sock: socket.socket, address: Address) -> None:
        tls = self.access.tls if address.kind == "tcp" else None
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: peer,
            sock,
            ssl=tls,
            ssl_handshake_timeout=HELLO_SECONDS if tls is not None else None,
            ssl_shutdown_timeout=HELLO_SECONDS if tls is not None else None,
        )

    def _opened(self, peer: _Peer, sock: socket.socket, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is not None:  # no TLS, or it left; not worth a line each
            self.places.leave(peer)
            sock.close()

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def _tick_forever(self) -> None:
        while True:
            now = time.monotonic()
            try:
                self.source.sample(now)
            except Exception as error:  # whatever a source meets, leases run out and balancers come and go
                self._say(f"source {self.source.name}: {error!r}")
            self.share()
            for peer in self.places.all():
                self._place(peer)
                peer.check(now)
            await asyncio.sleep(TICK)

    def _place(self, peer: _Peer) -> None:
        """Ask again for the machine of a balancer that had none: it, or the source, may have just begun."""
        holder = self.table.holders.get(peer.key)
        if self._host is None or holder is None or peer.placed or not peer.pid:
            return
        if (machine := self._host.machine(peer.pid)) is not None:
            holder.machine = machine
            peer.placed = True

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.error("%s", problem)

    def changed(self) -> None:
        """Something came that the leases depend on: share soon, once for all that comes until then."""
        if self._sharing is None:
            wait = self._shared_at + SHARE_EVERY - time.monotonic()
            self._sharing = asyncio.get_running_loop().call_later(max(0.0, wait), self.share)

    def share(self) -> None:
        """Work the leases out anew and tell whom it concerns."""
        if self._sharing is not None:
            self._sharing.cancel()
            self._sharing = None
        self._shared_at = now = time.monotonic()
        source = self.source
        try:
            used = self.table.used()
            capacity, idle = source.capacity(used), source.idle()
            bounds = {} if self._host is None else self._host.bounds(used)
            needs = {} if self._host is None else self._host.needs()
            usable = float(whole_cores(source.usable()))
        except Exception as error:  # grants run out
            self._say(f"source {source.name}: {error!r}")
            self.table.expire(now)
            self._act(now, {})
            return
        self.table.settle(now, capacity, idle, usable, bounds, needs)
        self._act(now, needs)
        for peer in self.places.all():
            holder = self.table.holders.get(peer.key)
            if holder is not None:
                peer.grant(holder, now)

    def _act(self, now: float, needs: Mapping[str, tuple[float, float]]) -> None:
        """Have the host act for those that hold a lease, by their last reports."""
        if self._actor is None:
            return
        seen = []
        for holder in self.table.holders.values():
            if holder.machine in needs:
                used, need = needs[holder.machine]
                report, cores = holder.report, holder.cores + holder.idle
                waited = max(0.0, need - used)
                who = holder.machine, holder.hello.name
                seen.append(Balancer(*who, report.workers, report.pressure, cores, used, waited))
        self._actor.look(now, seen)

    def greeted(self, peer: _Peer, hello: Hello) -> None:
        """A balancer has said who it is."""
        if len(self._same) < 1000 and hello.name not in self._same:
            others = (key for key, holder in self.table.holders.items() if holder.hello.name == hello.name)
            if any(key != peer.key for key in others):
                self._same.add(hello.name)
                log.warning(
                    "a second balancer (%s) calls itself %r: they count as two on one machine",
                    *(peer.who, hello.name),
                )
        machine = None
        if self._host is not None:
            # Never by what it says: it would get another one's cores. Without a machine it gets one core.
            machine = self._host.machine(peer.pid)
            peer.placed = machine is not None
            machine = machine or f"no machine: {peer.who}"
        self.table.join(peer.key, hello, time.monotonic(), machine)
        self.changed()

    def status(self) -> Status:
        """All there is to see."""
        leases = [
            {
                "name": holder.hello.name,
                "machine": holder.machine,
                "peer": peer.who,
                "min": holder.hello.min,
                "max": holder.hello.max,
                "weight": holder.hello.weight,
                "workers": holder.report.workers,
                "busy": round(holder.report.busy, 3),
                "pressure": round(holder.report.pressure, 3),
                "cores": holder.cores,
            }
            for peer in self.places.all()
            if (holder := self.table.holders.get(peer.key)) is not None
        ]
        source = self.source
        idle = round(source.idle(), 3)
        status = Status(source.name, source.usable(), idle, leases, source.per_cpu())
        if self._actor is None:
            return status
        return replace(status, preferred=self._actor.preferred, actions=self._actor.actions)


class _Peer(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, server: ControllerServer, key: str, address: Address) -> None:
        """``address`` is the listener's that it came by."""
        self.key = key
        self.who = ""
        """Where it comes from, for people."""
        self.pid = 0
        """The process at the other end of a unix socket; 0 where it is another kind of connection."""
        self.placed = False
        """Whether the machine that it runs in is known."""
        self.opening: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._server = server
        self._address = address
        self._decoder = LineDecoder()
        self._trusted = False
        self._greeted = False
        self._session = ""
        self._begun = False  # anything sent
        self._quiet = False  # its silence means nothing
        self._ending: float | None = None
        self._connected = self._heard = time.monotonic()
        self._read = 0
        self._errors = 0
        self._most_unsent = _MAX_UNSENT
        self._granted: tuple[int, int] | None = None
        self._granted_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no asyncio.Transport
        server = self._server
        access, address = server.access, self._address
        try:
            if address.path:
                pid, uid = credentials(transport.get_extra_info("socket"))
                self.pid, self.who = pid, f"process {pid}, user {uid}"
                # When the other end has gone, the kernel says so. A machine's port without a balancer stays.
                self._quiet = True
                if uid not in (0, os.geteuid()) and uid not in access.uids:
                    raise ProtocolError("uid", f"user {uid} may not use this controller (--allow-uid {uid})")
                self._trust()
                return
            name = transport.get_extra_info("peername")
            self.who = ":".join(str(part) for part in name[:2]) if isinstance(name, tuple) else str(name)
            if access.tls is not None and access.tls.verify_mode is ssl.CERT_REQUIRED:
                self._trust()  # the handshake has checked the certificate
            elif address.kind == "vsock" and not access.token:
                self._trust()  # only this host's guests can reach it
        except ProtocolError as error:
            self._send(Error(error.code, error.message))
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.places.leave(self)
        self._leave()

    def _leave(self) -> None:
        if self.key in self._server.table.holders:
            self._server.table.leave(self.key)
            self._server.changed()

    def drop(self) -> None:
        """End the connection, or the handshake that should become one, at once."""
        self._server.places.leave(self)
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert self._transport is not None
        self._heard = time.monotonic()
        self._read += nbytes
        if self._read > MOST_READ:
            self._transport.pause_reading()  # until the next tick
        if self._ending is not None:
            return
        for message in self._decoder.feed(bytes(self._server.buffer[:nbytes])):
            if self._ending is not None or self._transport.is_closing():
                return
            try:
                if isinstance(message, ProtocolError):
                    raise message
                self._take(message)
            except ProtocolError as error:
                self._errors += 1
                if self._errors <= MOST_ERRORS or error.fatal:
                    self._send(Error(error.code, error.message[:1000]))
                if error.fatal or not self._trusted:
                    self._end()  # a stranger has one try

    def _take(self, message: Message) -> None:
        server = self._server
        if isinstance(message, Hello | StatusRequest):
            self._check_token(message.token)
        if not self._trusted:
            raise ProtocolError("token", "say hello with the right token first", fatal=True)
        if isinstance(message, Hello):
            self._greeted, self._session = True, message.session
            self._granted = None  # a hello is always answered
            server.places.greet(self)
            server.greeted(self, message)
        elif isinstance(message, Report):
            if not self._greeted:
                raise ProtocolError("hello", "say hello before you report")
            # With sessions the same connection may go on: a port has no other, and one on TCP is as good.
            fatal = not self._session
            try:
                server.table.report(self.key, message, time.monotonic())
            except KeyError:
                self._greeted = False
                raise ProtocolError("lease", "your lease has expired; say hello again", fatal) from None
            except ValueError as error:
                self._greeted = False
                raise ProtocolError("lease", f"{error}; say hello again", fatal) from None
            finally:
                server.changed()
        elif isinstance(message, StatusRequest):
            self._send_status()
        else:
            raise ProtocolError("type", f"{message.type} is for balancers to receive")

    def _check_token(self, token: str) -> None:
        expected = self._server.access.token
        if self._trusted or not expected:
            return
        if not hmac.compare_digest(token.encode(), expected.encode()):
            raise ProtocolError("token", "wrong token", fatal=True)
        self._trust()

    def _trust(self) -> None:
        """It has shown who it is, and gets a place if there is one."""
        self._trusted, gone = self._server.places.trust(self)
        if gone is not None:
            gone.drop()
        if not self._trusted:
            message = f"all {self._server.places.most_trusted} places are taken"
            raise ProtocolError("full", message, fatal=True)

    def grant(self, holder: Holder, now: float) -> None:
        """Send a grant on change, and again before the lease runs out."""
        granted = holder.cores, holder.idle
        if granted == self._granted and now - self._granted_at < _RENEW:
            return
        self._granted, self._granted_at = granted, now
        self._send(self._server.table.grant(self.key))

    def check(self, now: float) -> None:
        """Drop a peer that says nothing or takes nothing; read on from one that has said much."""
        transport = self._transport
        if transport is None:
            return  # the handshake has its own limit
        if self._read > MOST_READ:
            transport.resume_reading()
        self._read = self._errors = 0
        silent = now - self._heard > IDLE_SECONDS
        # A stranger that sends a byte now and then would keep its place for ever.
        late = not self._greeted and now - self._connected > HELLO_SECONDS
        if self._ending is not None:
            if now - self._ending > _LINGER:
                self.drop()
        elif (silent or late) and not (self._quiet and self._trusted):
            self.drop()
        elif not (unsent := transport.get_write_buffer_size()):
            self._most_unsent = _MAX_UNSENT
        elif unsent > self._most_unsent:
            self.drop()

    def _send_status(self) -> None:
        assert self._transport is not None
        if self._transport.get_write_buffer_size():
            raise ProtocolError("status", "read the last answer first")
        answer = self._first(encode(self._server.status()))
        self._most_unsent = len(answer) + _MAX_UNSENT
        self._transport.write(answer)

    def _send(self, message: Message) -> None:
        assert self._transport is not None
        if self._transport.get_write_buffer_size() > self._most_unsent:
            self.drop()
        elif self._ending is None and not self._transport.is_closing():
            self._transport.write(self._first(encode(message)))

    def _first(self, line: bytes) -> bytes:
        """With an empty line before the first one: half a line may lie there, where bytes are passed on."""
        begun, self._begun = self._begun, True
        return line if begun else b"\n" + line

    def _end(self) -> None:
        """Say no more. What it still sends is read for a moment, or the kernel throws our answer away."""
        assert self._transport is not None
        self._leave()
        if self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
        elif self._ending is None:
            self._ending = time.monotonic()
            self._transport.write_eof()
