"""One connection to the controller: checks who is there, passes on what it says, sends what it is granted.

It can cost little: a line is bounded, so is what it sends between two ticks and what it leaves unread, and a
hello must come soon. Nothing that it sends ends the server. It knows the places and the sharing
that it belongs to, and not the server that accepted it.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import ssl
import time

from controller.access import Access, credentials
from controller.address import Address
from controller.leases import Holder
from controller.places import Places
from controller.protocol import (
    Error,
    Hello,
    LineDecoder,
    Message,
    ProtocolError,
    Report,
    StatusRequest,
    encode,
)
from controller.sharing import Sharing

HELLO_SECONDS = 5.0
IDLE_SECONDS = 10.0
READ = 16384  # bytes at once, into a buffer that all peers share
MOST_READ = 65536  # bytes of one peer between two ticks; the rest waits in the kernel
MOST_ERRORS = 10  # answers to mistakes of one peer between two ticks
_MAX_UNSENT = 65536
_RENEW = 0.5  # seconds after which an unchanged grant is sent again
_LINGER = 1.0  # seconds


class Peer(asyncio.BufferedProtocol):
    """One connection.

    Args:
        key: names it in the lease table.
        address: that it came to, the listener's.
        access: who may talk to the controller.
        places: who has a place.
        sharing: whom it tells what a balancer says.
        buffer: of `READ` bytes, which all peers of a loop share: what is read is taken out of it at once.
    """

    def __init__(
        self,
        key: str,
        address: Address,
        access: Access,
        places: Places[Peer],
        sharing: Sharing,
        buffer: bytearray,
    ) -> None:
        self.key = key
        self.who = ""
        """Where it comes from, for people."""
        self.pid = 0
        """The process at the other end of a unix socket; 0 where it is another kind of connection."""
        self.placed = False
        self.opening: asyncio.Task[None] | None = None
        self._address = address
        self._access = access
        self._places = places
        self._sharing = sharing
        self._buffer = buffer
        self._transport: asyncio.Transport | None = None
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
        access = self._access
        try:
            if self._address.path:
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
            elif self._address.kind == "vsock" and not access.token:
                self._trust()  # only this host's guests can reach it
        except ProtocolError as error:
            self._send(Error(error.code, error.message))
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.leave(self)
        self._sharing.left(self.key)

    def drop(self) -> None:
        """End the connection, or the handshake that should become one, at once."""
        self._places.leave(self)
        if self._transport is not None:
            self._transport.abort()
        elif self.opening is not None:
            self.opening.cancel()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert self._transport is not None
        self._heard = time.monotonic()
        self._read += nbytes
        if self._read > MOST_READ:
            self._transport.pause_reading()  # until the next tick
        if self._ending is not None:
            return
        for message in self._decoder.feed(bytes(self._buffer[:nbytes])):
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
        if isinstance(message, Hello | StatusRequest):
            self._check_token(message.token)
        if not self._trusted:
            raise ProtocolError("token", "say hello with the right token first", fatal=True)
        if isinstance(message, Hello):
            self._greeted, self._session = True, message.session
            self._granted = None  # a hello is always answered
            self._places.greet(self)
            self._sharing.greeted(self, message)
        elif isinstance(message, Report):
            if not self._greeted:
                raise ProtocolError("hello", "say hello before you report")
            # With sessions the same connection may go on: a port has no other, and one on TCP is as good.
            fatal = not self._session
            try:
                self._sharing.reported(self.key, message)
            except KeyError:
                self._greeted = False
                raise ProtocolError("lease", "your lease has expired; say hello again", fatal) from None
            except ValueError as error:
                self._greeted = False
                raise ProtocolError("lease", f"{error}; say hello again", fatal) from None
        elif isinstance(message, StatusRequest):
            self._send_status()
        else:
            raise ProtocolError("type", f"{message.type} is for balancers to receive")

    def _check_token(self, token: str) -> None:
        expected = self._access.token
        if self._trusted or not expected:
            return
        if not hmac.compare_digest(token.encode(), expected.encode()):
            raise ProtocolError("token", "wrong token", fatal=True)
        self._trust()

    def _trust(self) -> None:
        """It has shown who it is, and gets a place if there is one."""
        self._trusted, gone = self._places.trust(self)
        if gone is not None:
            gone.drop()
        if not self._trusted:
            message = f"all {self._places.most_trusted} places are taken"
            raise ProtocolError("full", message, fatal=True)

    def grant(self, holder: Holder, now: float) -> None:
        """Send a grant on change, and again before the lease runs out."""
        granted = holder.cores, holder.idle
        if granted == self._granted and now - self._granted_at < _RENEW:
            return
        self._granted, self._granted_at = granted, now
        self._send(self._sharing.table.grant(self.key))

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
        answer = self._first(encode(self._sharing.status()))
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
        """Send nothing more. What it still sends is read for a moment, or the kernel drops the answer."""
        assert self._transport is not None
        self._sharing.left(self.key)
        if self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
        elif self._ending is None:
            self._ending = time.monotonic()
            self._transport.write_eof()
