"""One check under way: a connection, perhaps with TLS, on which an exchange takes place.

Below `checks`. A probe is driven by its socket's readiness alone, without tasks, futures and streams: a
thousand servers are checked every two seconds. It takes `LARGEST` bytes at most; its time is bounded by who
started it.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pylb.control.poll import ENDED, READ, WRITE, Poll
from pylb.health.exchange import LARGEST, Exchange, Verdict
from pylb.log import log

_PIECE = 16384  # bytes that are read at a time


@dataclass(frozen=True, slots=True)
class Way:
    """How a probe gets to its server."""

    family: int
    to: Any
    """The socket address."""
    header: bytes = b""
    """The PROXY header with which its connection begins."""
    context: ssl.SSLContext | None = None
    name: str | None = None
    """Of the server, for TLS."""


class Probe:
    """One check.

    Args:
        done: called once with the verdict, when the connection has been closed.
    """

    __slots__ = (
        *("_poll", "_way", "_exchange", "_done", "_sock", "_fd", "_out", "_watched", "_taken"),
        *("_tls", "_incoming", "_outgoing", "_state"),
    )

    def __init__(
        self,
        poll: Poll,
        way: Way,
        exchange: Exchange,
        done: Callable[[Verdict], None],
    ) -> None:
        self._poll = poll
        self._way = way
        self._exchange = exchange
        self._done: Callable[[Verdict], None] | None = done
        self._sock: socket.socket | None = None
        self._fd = -1
        self._out = b""
        self._watched = 0
        """What is waited for; only while it connects not for reading, too."""
        self._taken = 0
        self._state = "it doesn't take a connection"
        self._tls: ssl.SSLObject | None = None
        self._incoming: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None

    def start(self) -> None:
        """Connect; ``done`` may be called before this returns."""
        try:
            sock = self._sock = socket.socket(self._way.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._fd = sock.fileno()
            sock.connect(self._way.to)
        except BlockingIOError as error:
            if self._way.family == socket.AF_UNIX:  # EAGAIN: its queue is full (man 2 connect)
                self._fail(_said(error))
                return
            self._watch(WRITE)
        except OSError as error:
            self._fail(_said(error))
        else:
            self._guarded(self._stands)

    def _watch(self, events: int) -> None:
        """Wait for these events."""
        if events != self._watched:
            self._watched = events
            self._poll.watch(self._fd, events, self._ready)

    def _ready(self, event: int) -> None:
        """The socket can be read, written to, or is at its end."""
        if not self._watched & READ:
            self._guarded(self._connected)
            return
        if event & (READ | ENDED):
            self._guarded(self._readable)
        if event & WRITE and self._done is not None:
            self._guarded(self._flush)

    def _guarded(self, step: Callable[[], None]) -> None:
        """Take a step; an error of pylb's own costs this one check."""
        try:
            step()
        except Exception as error:
            log.exception("a health check failed unexpectedly")
            self._fail(f"pylb's own error: {error.__context__ or error!r:.100}")

    def late(self, seconds: float) -> None:
        """The time is up."""
        self._fail(f"{self._state} within {seconds:g} s")

    def cancel(self) -> None:
        """End it without a verdict."""
        self._done = None
        self._close()

    def _connected(self) -> None:
        """The socket is writable for the first time: it is connected, or it failed."""
        assert self._sock is not None
        error = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._fail(os.strerror(error).lower())
            return
        self._stands()

    def _stands(self) -> None:
        """The connection stands."""
        way = self._way
        self._out = way.header
        if way.context is None:
            self._begin()
            return
        self._state = "no TLS handshake"
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._tls = way.context.wrap_bio(self._incoming, self._outgoing, server_hostname=way.name)
        except ValueError as error:  # a name that can't be in a certificate
            self._fail(str(error))
            return
        self._shake()

    def _begin(self) -> None:
        """The exchange's turn."""
        self._state = "no answer"
        self._say(self._exchange.begin())
        self._go_on()

    def _go_on(self) -> None:
        """After each step: end with the verdict, or send what there is and read."""
        verdict = self._exchange.verdict
        if verdict is None:
            self._flush()
            return
        if self._exchange.bye or self._out:
            self._say(self._exchange.bye)
            self._flush()
        self._end(verdict)

    def _shake(self) -> None:
        """Go on with the handshake."""
        assert self._tls is not None and self._outgoing is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._out += self._outgoing.read()
            self._go_on()
            return
        except ssl.SSLError as error:
            self._out += self._outgoing.read()  # an alert, from which the server's log says what was wrong
            self._flush()
            self._fail(f"TLS: {_of_tls(error)}")
            return
        self._out += self._outgoing.read()
        self._begin()
        if self._done is not None:  # what came right behind the handshake
            self._decrypt()

    def _say(self, data: bytes) -> None:
        """Put bytes of the exchange into what is sent."""
        if self._tls is None or not data:
            self._out += data
            return
        assert self._outgoing is not None
        try:
            self._tls.write(data)
        except ssl.SSLError:
            return  # reading tells
        self._out += self._outgoing.read()

    def _flush(self) -> None:
        """Send what the socket takes."""
        if self._out and self._sock is not None:
            try:
                self._out = self._out[self._sock.send(self._out) :]
            except BlockingIOError:
                pass
            except OSError as error:
                # An answer may have come before the connection broke.
                self._out = b""
                if not self._watched & READ:
                    self._fail(_said(error))
                    return
        if self._done is not None and self._exchange.verdict is None:
            self._watch(READ | WRITE if self._out else READ)

    def _readable(self) -> None:
        """Bytes, the end or an error have come."""
        assert self._sock is not None
        try:
            data = self._sock.recv(min(_PIECE, LARGEST - self._taken))
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(_said(error))
            return
        self._taken += len(data)
        if self._incoming is not None:
            self._incoming.write(data)
            if not data:
                self._incoming.write_eof()
            if self._state == "no TLS handshake":
                self._shake()
            else:
                self._decrypt()
        elif data:
            self._take(data)
        if (not data or self._taken >= LARGEST) and self._done is not None and self._exchange.verdict is None:
            self._exchange.ended()
            self._go_on()

    def _decrypt(self) -> None:
        """Give the exchange what is readable of the encrypted bytes."""
        assert self._tls is not None and self._outgoing is not None
        while self._done is not None:
            try:
                data = self._tls.read(_PIECE)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError as error:  # a broken record, or an end without a farewell
                if self._incoming is None or not self._incoming.eof:
                    self._fail(f"TLS: {_of_tls(error)}")
                break
            if not data:
                break
            self._take(data)
        self._out += self._outgoing.read()

    def _take(self, data: bytes) -> None:
        self._state = "no whole answer"
        self._say(self._exchange.came(data))
        self._go_on()

    def _fail(self, reason: str) -> None:
        self._end(Verdict(False, reason))

    def _end(self, verdict: Verdict) -> None:
        """Close, and tell; once."""
        done, self._done = self._done, None
        self._close()
        if done is not None:
            done(verdict)

    def _close(self) -> None:
        if self._sock is None:
            return
        if self._watched:
            self._poll.forget(self._fd)
        self._sock.close()
        self._sock = None


def _said(error: OSError) -> str:
    """What the system says, in lower case as in the middle of a sentence."""
    return (error.strerror or str(error)).lower()


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    return (error.reason or str(error)).replace("_", " ").lower()
