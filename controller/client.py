"""The balancer's end of the protocol: connects, says hello, reports, and holds the last grant.

Nothing that the controller does or fails to do raises to the caller (the controller is advice). A grant
is void when its lease is over, also while the connection looks alive: a frozen controller sends no renewal.

A stream may hold what was meant for another: a port of a virtual machine outlives the balancer, the
controller, and the machine's pauses. So each hello has a session, each report a number, and a grant says
which report it answers; from when that was sent its lease counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import random
import secrets
import socket
import ssl
import time
from dataclasses import replace

from controller.address import Address, vsock_pair
from controller.protocol import Error, Grant, Hello, LineDecoder, Message, ProtocolError, Report, encode
from controller.serial import open_serial

_RETRY_FIRST = 0.1
_RETRY_MOST = 5.0
_RETRY_PORT = 1.0  # a port says nothing when its other end comes back
_SILENCE = 10.0  # seconds without a word after which the connection is made anew
_MAX_UNSENT = 65536
_HELLO_EVERY = 0.5  # seconds between two hellos on one stream
_REMEMBERED = 256  # reports for which it is known when they were sent
_BEGIN_ANEW = frozenset({"hello", "lease", "json"})  # errors of a controller that doesn't know this one


async def open_stream(
    address: Address, tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a controller.

    Raises:
        OSError: it can't be reached, or TLS failed.
    """
    if address.path:
        return await asyncio.open_unix_connection(sock=_connect_unix(address.path))
    if address.kind == "serial":
        return await open_serial(address.host)
    if address.kind == "tcp":
        return await asyncio.open_connection(address.host, address.port, ssl=tls)
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, vsock_pair(address))
    except OSError:
        sock.close()
        raise
    return await asyncio.open_connection(sock=sock)


def _connect_unix(path: str) -> socket.socket:
    """Connect at once: a unix socket that doesn't has its queue full, which asyncio takes for "under way"."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        raise OSError(errno.EAGAIN, "too many connections wait to be accepted") from None
    except OSError:
        sock.close()
        raise
    return sock


def client_tls(ca: str, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """TLS towards a controller whose certificate ``ca`` signed; with ``cert`` also showing a certificate."""
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert:
        context.load_cert_chain(cert, key)
    return context


class ControllerClient:
    """Keeps one connection to a controller, with exponential back-off."""

    def __init__(self, address: Address, hello: Hello, tls: ssl.SSLContext | None = None) -> None:
        self.connected = False
        self.description = str(address)
        self.problem = ""
        self.since = math.inf
        """When the present connection's first grant came, monotonic seconds."""
        self.hello = hello
        self._address = address
        self._tls = tls
        self._writer: asyncio.StreamWriter | None = None
        self._grant: Grant | None = None
        self._granted_at = 0.0
        """When the report was sent that the grant answers."""
        self._report: Report | None = None
        self._session = ""
        self._seq = 0
        self._sent: dict[int, float] = {}
        """When each report of this session was sent; 0 is the hello."""
        self._greeted_at = -math.inf
        self._hello_due = False
        self._knows_sessions = False

    def report(self, report: Report) -> None:
        """Send a report if there is a connection; the caller does so on change and every second."""
        self._report = report
        writer = self._writer
        if writer is None or writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() > _MAX_UNSENT:
            writer.transport.abort()  # it doesn't read: a frozen peer
        elif not self._hello_due:
            self._send_report(writer, report)
        elif time.monotonic() - self._greeted_at >= _HELLO_EVERY:
            self._greet(writer)

    def _greet(self, writer: asyncio.StreamWriter) -> None:
        """Send a hello and the last report: without that the controller would lease out the cores that this
        balancer uses."""
        self._session, self._seq = secrets.token_hex(8), 0
        self._greeted_at = time.monotonic()
        self._sent = {0: self._greeted_at}
        self._hello_due = False
        # The empty line ends what another one may have begun on this stream.
        writer.write(b"\n" + encode(replace(self.hello, session=self._session)))
        if self._report is not None:
            self._send_report(writer, self._report)

    def _send_report(self, writer: asyncio.StreamWriter, report: Report) -> None:
        self._seq += 1
        self._sent[self._seq] = time.monotonic()
        self._sent.pop(self._seq - _REMEMBERED, None)
        writer.write(encode(replace(report, seq=self._seq)))

    def current(self, now: float) -> Grant | None:
        """The grant in force at monotonic time ``now``, None when its lease is over."""
        if self._grant is None or now - self._granted_at > self._grant.lease:
            return None
        return self._grant

    async def run(self) -> None:
        """Connect and listen, for ever."""
        wait = _RETRY_FIRST
        while True:
            try:
                reader, writer = await asyncio.wait_for(open_stream(self._address, self._tls), 5)
                self._writer = writer
                self.problem = ""
                self._knows_sessions = False
                self._greet(writer)
                if await self._listen(reader):
                    wait = _RETRY_FIRST
            except TimeoutError:
                self.problem = "it is silent"
            except OSError as error:
                self.problem = error.strerror or str(error)
            finally:
                self.connected = False
                if self._writer is not None:
                    with contextlib.suppress(Exception):
                        self._writer.transport.abort()
                self._writer = None
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, _RETRY_PORT if self._address.kind == "serial" else _RETRY_MOST)

    async def _listen(self, reader: asyncio.StreamReader) -> bool:
        """Read until the connection ends; whether the controller ever granted anything."""
        decoder = LineDecoder()
        granted = False
        while True:
            data = await asyncio.wait_for(reader.read(65536), _SILENCE)
            if not data:
                self.problem = self.problem or "the controller closed the connection"
                return granted
            for message in decoder.feed(data):
                if isinstance(message, ProtocolError) and message.fatal:
                    self.problem = message.message
                    return granted
                granted = self._take(message) or granted

    def _take(self, message: Message | ProtocolError) -> bool:
        if isinstance(message, Grant):
            return self._take_grant(message)
        if isinstance(message, ProtocolError | Error):
            self.problem = f"{message.code}: {message.message}"
        if isinstance(message, Error) and message.code in _BEGIN_ANEW:
            self._grant = None
            self.connected = False
            self._hello_due = True
            writer = self._writer
            if writer is not None and time.monotonic() - self._greeted_at >= _HELLO_EVERY:
                self._greet(writer)
        return False

    def _take_grant(self, grant: Grant) -> bool:
        """Keep it if it answers this session and is still in force."""
        now = sent = time.monotonic()
        if grant.session or self._knows_sessions:
            if grant.session != self._session or grant.seq not in self._sent:
                return False  # for a process before this one, or from before the machine was set back
            self._knows_sessions = True
            sent = self._sent[grant.seq]
        # else: a controller that knows no sessions
        if now - sent > grant.lease:
            return False
        self._grant, self._granted_at = grant, sent
        if not self.connected:
            self.since = now
        self.connected = True
        self.problem = ""
        return True
