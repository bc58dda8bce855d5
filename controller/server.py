"""The controller's I/O: listens, checks who is there, passes messages to the lease table, sends grants.

One peer can cost little: a line is bounded, a hello must come soon, a peer that doesn't read is dropped, the
number of peers is bounded. Nothing that a peer sends ends the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import socket
import ssl
import stat
import struct
import time
from dataclasses import dataclass

from controller.address import Address, vsock_pair
from controller.leases import LeaseTable
from controller.protocol import (
    Error,
    Grant,
    Hello,
    LineDecoder,
    Message,
    ProtocolError,
    Report,
    Status,
    StatusRequest,
    encode,
)
from controller.sources import Source

TICK = 0.25
HELLO_SECONDS = 5.0
IDLE_SECONDS = 10.0
MAX_PEERS = 1024
_MAX_UNSENT = 65536
_RENEW = 0.5  # seconds after which an unchanged grant is sent again


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


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a unix socket (man 7 unix, SO_PEERCRED)."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


class ControllerServer:
    """Serves one source to many balancers."""

    def __init__(self, source: Source, access: Access | None = None) -> None:
        self.source = source
        self.table = LeaseTable()
        self.address: Address | None = None
        self._access = access or Access()
        self._peers: set[_Peer] = set()
        self._server: asyncio.AbstractServer | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._made = ""
        self._keys = 0

    async def start(self, address: Address) -> None:
        """Listen on ``address`` (a TCP port of 0 takes a free one; see ``self.address``).

        Raises:
            OSError: the address can't be listened on.
        """
        loop = asyncio.get_running_loop()
        if address.kind == "unix":
            _remove_stale(address.host)
            before = os.umask(0o177)
            try:
                self._server = await loop.create_unix_server(self._peer, address.host)
            finally:
                os.umask(before)
            if self._access.uids:
                os.chmod(address.host, 0o666)  # the peer's credentials decide
            self._made = address.host
        elif address.kind == "tcp":
            tls = self._access.tls
            self._server = await loop.create_server(
                *(self._peer, address.host, address.port),
                ssl=tls,
                ssl_handshake_timeout=HELLO_SECONDS if tls is not None else None,
            )
            port = self._server.sockets[0].getsockname()[1]
            address = Address("tcp", address.host, port)
        else:
            sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            try:
                sock.bind(vsock_pair(address))
                self._server = await loop.create_server(self._peer, sock=sock)
            except OSError:
                sock.close()
                raise
        self.address = address
        self._ticking = loop.create_task(self._tick_forever())

    async def close(self) -> None:
        """Stop listening and let every peer go."""
        if self._ticking is not None:
            self._ticking.cancel()
        if self._server is not None:
            self._server.close()
        for peer in list(self._peers):
            peer.transport.abort()
        if self._made:
            with contextlib.suppress(OSError):
                os.unlink(self._made)

    def _peer(self) -> _Peer:
        self._keys += 1
        return _Peer(self, f"peer-{self._keys}")

    async def _tick_forever(self) -> None:
        while True:
            now = time.monotonic()
            self.source.sample(now)
            self.share(now)
            for peer in list(self._peers):
                peer.check(now)
            await asyncio.sleep(TICK)

    def share(self, now: float) -> None:
        """Work the leases out anew and tell whom it concerns."""
        capacity = self.source.capacity(self.table.used())
        grants = self.table.tick(now, capacity, self.source.idle())
        for peer in self._peers:
            if peer.key in grants:
                peer.grant(grants[peer.key], now)

    def status(self) -> Status:
        """All there is to see."""
        leases = [
            {
                "name": holder.hello.name,
                "min": holder.hello.min,
                "max": holder.hello.max,
                "weight": holder.hello.weight,
                "workers": holder.report.workers,
                "busy": round(holder.report.busy, 3),
                "pressure": round(holder.report.pressure, 3),
                "cores": holder.cores,
            }
            for holder in self.table.holders.values()
        ]
        source = self.source
        return Status(source.name, source.usable(), round(source.idle(), 3), leases, source.per_cpu())


class _Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: ControllerServer, key: str) -> None:
        self.key = key
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self._server = server
        self._decoder = LineDecoder()
        self._trusted = False
        self._greeted = False
        self._connected = self._heard = time.monotonic()
        self._granted: Grant | None = None
        self._granted_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        server = self._server
        server._peers.add(self)
        access = server._access
        if len(server._peers) > MAX_PEERS:
            self._refuse("full", f"more than {MAX_PEERS} peers")
        elif server.address is not None and server.address.kind == "unix":
            uid = peer_uid(transport.get_extra_info("socket"))
            self._trusted = uid in (0, os.geteuid()) or uid in access.uids
            if not self._trusted:
                self._refuse("uid", f"user {uid} may not use this controller (--allow-uid {uid})")
        elif access.tls is not None and access.tls.verify_mode is ssl.CERT_REQUIRED:
            self._trusted = True  # the handshake has checked the certificate
        elif server.address is not None and server.address.kind == "vsock" and not access.token:
            self._trusted = True  # only this host's guests can reach it

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._peers.discard(self)
        self._server.table.leave(self.key)

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
        for message in self._decoder.feed(data):
            if self.transport.is_closing():
                return
            try:
                if isinstance(message, ProtocolError):
                    raise message
                self._take(message)
            except ProtocolError as error:
                self._send(Error(error.code, error.message[:1000]))
                if error.fatal or not self._trusted:
                    self.transport.close()  # a stranger has one try

    def _take(self, message: Message) -> None:
        server = self._server
        now = time.monotonic()
        if isinstance(message, Hello | StatusRequest):
            self._check_token(message.token)
        if not self._trusted:
            raise ProtocolError("token", "say hello with the right token first", fatal=True)
        if isinstance(message, Hello):
            self._greeted = True
            server.table.join(self.key, message, now)
            server.share(now)
        elif isinstance(message, Report):
            if not self._greeted:
                raise ProtocolError("hello", "say hello before you report")
            if self.key not in server.table.holders:
                self._greeted = False
                raise ProtocolError("lease", "your lease has expired; say hello again", fatal=True)
            server.table.report(self.key, message, now)
            server.share(now)
        elif isinstance(message, StatusRequest):
            self._send(server.status())
        else:
            raise ProtocolError("type", f"{message.type} is for balancers to receive")

    def _check_token(self, token: str) -> None:
        expected = self._server._access.token
        if self._trusted or not expected:
            return
        if not hmac.compare_digest(token.encode(), expected.encode()):
            raise ProtocolError("token", "wrong token", fatal=True)
        self._trusted = True

    def grant(self, grant: Grant, now: float) -> None:
        """Send a grant on change, and again before the lease runs out."""
        same = self._granted is not None and (grant.cores, grant.idle_cores) == (
            self._granted.cores,
            self._granted.idle_cores,
        )
        if same and now - self._granted_at < _RENEW:
            return
        self._granted, self._granted_at = grant, now
        self._send(grant)

    def check(self, now: float) -> None:
        """Drop a peer that says nothing or takes nothing."""
        silent = now - self._heard > IDLE_SECONDS
        # A stranger that sends a byte now and then would keep its place for ever.
        late = not self._greeted and now - self._connected > HELLO_SECONDS
        if silent or late or self.transport.get_write_buffer_size() > _MAX_UNSENT:
            self.transport.abort()

    def _send(self, message: Message) -> None:
        if not self.transport.is_closing():
            self.transport.write(encode(message))

    def _refuse(self, code: str, message: str) -> None:
        self._send(Error(code, message))
        self.transport.close()


def _remove_stale(path: str) -> None:
    """Remove the socket of a controller that is gone; a living one's makes ``bind`` fail as it should."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return
