"""HTTP/1 towards clients: writes responses (RFC 9112).

How a response's end is shown (by its length, in chunks, or by a close), what is joined into one write, and
which bytes pass as they came.

Floor: client side, below the reader of requests. Knows of a request only its head, and whether all of it has
come.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod

from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.scoreboard import Field
from pylb.worker import core as core_
from pylb.worker.pieces import MUCH, queued
from pylb.worker.sides import ClientSide, Spans, Trailers, contents

# A plain integer: an enum member costs a lookup and an __index__ call each time.
_BYTES_OUT = int(Field.BYTES_OUT)

# Up to here head and body are joined into one write; a larger piece is not worth copying.
_JOIN = 16384


class Responses(ClientSide, core_.ClientConnection):
    """The part of a connection that writes."""

    __slots__ = ("counters", "transport", "head", "body_done", "close_after", "chunking")

    def __init__(self, counters: list[int]) -> None:
        # of the connection
        self.counters = counters
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        # of the request
        self.head: RequestHead = None  # type: ignore[assignment]  # likewise
        self.body_done = True
        self.close_after = False
        self.chunking = False  # the response's body is to be put into chunks

    def respond(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        request = self.head
        if end and not self.body_done:
            self.close_after = True  # the rest of the request will be dropped
        elif end and at and not head.changed and not self.close_after and request.http11:
            # The usual: all of it is here and nothing is to be added, so the bytes pass as they came.
            self.counters[_BYTES_OUT] += len(buffer)
            self.transport.write(buffer)
            self._next()
            return
        out = head.out
        if head.content_length < 0:
            if not head.chunked:
                self.close_after = True  # nothing else can show the body's end
            elif request.http11:
                self.chunking = spans is None
            else:
                self.close_after = True
                out = _without_chunked(out)
                buffer, at, spans = contents(buffer, spans) if spans is not None else buffer[at:], 0, None
        if self.close_after:
            out = out[:-2] + b"Connection: close\r\n\r\n"
        elif not request.http11:
            out = out[:-2] + b"Connection: keep-alive\r\n\r\n"
        elif at and not head.changed and not self.chunking:
            out, at = b"", 0  # the buffer begins with it
        size = len(buffer) - at
        if size:
            # Head and body go out in one system call, which is one packet, too.
            if self.chunking:
                out = b"%b%x\r\n%b\r\n" % (out, size, buffer[at:])
            elif size < _JOIN:
                out = out + buffer[at:] if at else out + buffer if out else buffer
            else:
                self.counters[_BYTES_OUT] += len(out) + size
                if out:
                    self.transport.writelines((out, memoryview(buffer)[at:]))
                else:
                    self.transport.write(buffer)
                out = b""
        if out:
            self.counters[_BYTES_OUT] += len(out)
            self.transport.write(out)
        if end:
            self._next()

    def interim(self, head: ResponseHead) -> None:
        if self.head.http11:
            self._write(head.out)

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        if spans is not None:
            if not self.head.http11:
                buffer = contents(buffer, spans)
            self.chunking = False  # what comes is framed, to its end
        elif self.chunking:
            buffer = b"%x\r\n%b\r\n" % (len(buffer), buffer)
        if buffer:
            self._write(buffer)

    def end(self, trailers: Trailers) -> None:
        if self.chunking:
            self._write(b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n")
        if not self.body_done:
            self.close_after = True
        self._next()

    def _write(self, data: bytes) -> None:
        self.counters[_BYTES_OUT] += len(data)
        self.transport.write(data)

    def last(self) -> None:
        self.close_after = True

    @property
    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    @property
    def lags(self) -> bool:
        return queued(self.transport) >= MUCH

    @abstractmethod
    def _next(self) -> None:
        """The response is whole: go on to the next request, or close."""


def _without_chunked(head: bytes) -> bytes:
    """A response head for a client of HTTP/1.0, whose body's end the close shows."""
    start = head.lower().index(b"\ntransfer-encoding:") + 1
    return head[:start] + head[head.index(b"\n", start) + 1 :]
