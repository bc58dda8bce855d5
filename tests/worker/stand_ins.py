"""Fake sides, a fake exchange and fake pipes: they note what they are told.

A fake side plays its part of `pylb.worker.sides` without bytes or connections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pylb.http.errors import Refused
from pylb.http.request import HeadLimits, RequestHead
from pylb.http.response import ResponseHead, read_response
from pylb.worker.facts import Client
from pylb.worker.pool import Pooled
from pylb.worker.reasons import Reason
from pylb.worker.sides import (
    ClientSide,
    FromClient,
    FromPipe,
    FromServer,
    Pipe,
    ServerSide,
    Spans,
    Trailers,
    contents,
)  # fmt: skip
from pylb.worker.transaction import Transaction


class Fault(Exception):
    """What nobody expects."""


def request_head(raw: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") -> RequestHead:
    """A request's head, read."""
    head = RequestHead(b"192.0.2.9", b"127.0.0.1:80", b"http", HeadLimits())
    head.read(raw)
    return head


def response_head(
    raw: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", to_head: bool = False
) -> ResponseHead:
    """A response's head, read."""
    return read_response(raw, to_head)


GET = request_head()
POST = request_head(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
PUT = request_head(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
HEAD = request_head(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
OK = response_head()
STREAM = response_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
HINTS = response_head(b"HTTP/1.1 103 Early Hints\r\n\r\n")
SWITCH = response_head(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")


def _contents(buffer: bytes, at: int, spans: Spans) -> bytes:
    return buffer[at:] if spans is None else contents(buffer, spans)


class Told:
    """Notes what it is told, and raises once at a word of the test's choice."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.raises = ""

    def hear(self, word: str, *what: Any) -> None:
        """One of the vocabulary's words."""
        self.told.append((word, *what))
        if word == self.raises:
            self.raises = ""
            raise Fault(word)

    def words(self) -> list[str]:
        """What was said, without its arguments."""
        return [word for word, *_ in self.told]

    def take(self) -> list[tuple[Any, ...]]:
        """What was said since the last look."""
        told, self.told = self.told, []
        return told


class FakePipe(Told, Pipe):
    """One end of a tunnel; ``half_close`` says whether it can end one direction."""

    def __init__(self, half_close: bool = True) -> None:
        super().__init__()
        self.listener: FromPipe | None = None
        self.half_close = half_close
        self.sent = b""
        self.paused = False
        self.finished = False
        self.closed = False

    def start(self, listener: FromPipe) -> None:
        self.listener = listener
        self.hear("start")

    def send(self, data: bytes) -> None:
        assert not self.closed and not self.finished
        self.sent += data
        self.hear("send", data)

    def finish(self) -> bool:
        assert not self.closed
        self.finished = self.finished or self.half_close
        self.hear("finish")
        return self.half_close

    def close(self) -> None:
        self.closed = True
        self.hear("close")

    def abort(self) -> None:
        self.closed = True
        self.hear("abort")

    def pause(self) -> None:
        self.paused = True
        self.hear("pause")

    def resume(self) -> None:
        self.paused = False
        self.hear("resume")

    @property
    def closing(self) -> bool:
        return self.closed


class FakeClient(Told, ClientSide):
    """A client side."""

    def __init__(self, facts: Client) -> None:
        super().__init__()
        self.facts = facts
        self.pipe = FakePipe()
        self.left = 0
        self.over = False
        """Whether the exchange is over for it."""

    def respond(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        assert not self.over
        self.over = end
        self.hear("respond", head.status, _contents(buffer, at, spans), end)

    def interim(self, head: ResponseHead) -> None:
        assert not self.over
        self.hear("interim", head.status)

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        assert not self.over
        self.hear("body", contents(buffer, spans))

    def end(self, trailers: Trailers) -> None:
        assert not self.over
        self.over = True
        self.hear("end", list(trailers))

    def tunnel(self, head: ResponseHead) -> Pipe:
        self.hear("tunnel", head.status)
        return self.pipe

    def stay(self) -> None:
        self.hear("stay")

    def last(self) -> None:
        self.hear("last")

    def abort(self, reason: Reason) -> None:
        self.over = True
        self.hear("abort", reason)

    def pause(self) -> None:
        self.hear("pause")

    def resume(self) -> None:
        self.hear("resume")

    @property
    def unsent(self) -> int:
        return self.left

    @property
    def response(self) -> bytes:
        """The body of the response, so far."""
        return b"".join(
            one[2] if one[0] == "respond" else one[1] for one in self.told if one[0] in ("respond", "body")
        )


class FakeServer(Told, Pooled):
    """A server side."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.pipe = FakePipe()
        self.free = True
        """Whether it works for nobody."""
        self.left = 0

    def request(
        self, exchange: FromServer, head: RequestHead, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        self.free = False
        self.hear("request", head.method, contents(buffer, spans), end)

    def body(self, buffer: bytes, spans: Spans = None) -> None:
        assert not self.free
        self.hear("body", contents(buffer, spans))

    def end(self, trailers: Trailers) -> None:
        assert not self.free
        self.hear("end", list(trailers))

    def expire(self) -> None:
        self.closed = True
        self.hear("expire")

    @property
    def unsent(self) -> int:
        return self.left

    def tunnel(self) -> Pipe:
        self.hear("tunnel")
        self.free = True
        return self.pipe

    def release(self) -> None:
        self.free = True
        self.hear("release")

    def abort(self) -> None:
        self.free = self.closed = True
        self.hear("abort")

    def pause(self) -> None:
        assert not self.free
        self.hear("pause")

    def resume(self) -> None:
        assert not self.free
        self.hear("resume")

    @property
    def received(self) -> bytes:
        """The body of the request, so far."""
        return b"".join(
            one[2] if one[0] == "request" else one[1] for one in self.told if one[0] in ("request", "body")
        )


class FakeExchange(Told, FromClient, FromServer):
    """An exchange as either codec knows it.

    ``answers`` plays what it does at a word: a client's codec is given the exchange's words back from there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tx = Transaction()
        self.client: ClientSide | None = None
        self.at = math.inf
        self.buffers: list[tuple[bytes, int]] = []
        """What responses came in, and where in it their bodies begin."""
        self.answers: dict[str, Callable[[], object]] = {}

    def hear(self, word: str, *what: Any) -> None:
        super().hear(word, *what)
        if word in self.answers:
            self.answers[word]()

    # From a client side

    def request(
        self, client: ClientSide, head: RequestHead | None, buffer: bytes, end: bool, spans: Spans = None
    ) -> None:
        self.client = client
        self.hear("request", head.method if head is not None else None, contents(buffer, spans), end)

    def request_body(self, buffer: bytes, spans: Spans = None) -> None:
        piece = contents(buffer, spans)
        if piece:  # else it is framing only
            self.hear("request_body", piece)

    def request_end(self, trailers: Trailers) -> None:
        self.hear("request_end", list(trailers))

    def refuse(self, refused: Refused, client: ClientSide | None = None) -> None:
        self.client = client or self.client
        self.hear("refuse", refused.status, refused.reason)

    def client_gone(self, reason: Reason) -> None:
        self.hear("client_gone", reason)

    def never(self, reason: Reason) -> None:
        """As `Exchange`'s."""
        self.hear("never", reason)

    def client_full(self) -> None:
        self.hear("client_full")

    def client_ready(self) -> None:
        self.hear("client_ready")

    def due(self) -> float:
        """As `Exchange`'s."""
        return self.at

    def expire(self) -> None:
        """As `Exchange`'s."""
        self.hear("expire")

    # From a server side

    def response(self, head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        self.buffers.append((buffer, at))
        self.hear("response", head.status, _contents(buffer, at, spans), end)

    def interim(self, head: ResponseHead) -> None:
        self.hear("interim", head.status)

    def response_body(self, buffer: bytes, spans: Spans = None) -> None:
        piece = contents(buffer, spans)
        if piece:
            self.hear("response_body", piece)

    def response_end(self, trailers: Trailers) -> None:
        self.hear("response_end", list(trailers))

    def switched(self, head: ResponseHead) -> None:
        self.hear("switched", head.upgrade)

    def keep(self, side: ServerSide, server: object, personal: bool) -> None:
        self.hear("keep", personal)

    def server_gone(self, reason: Reason, why: str) -> None:
        self.hear("server_gone", reason)

    def server_full(self) -> None:
        self.hear("server_full")

    def server_ready(self) -> None:
        self.hear("server_ready")

    def crashed(self, error: Exception) -> None:
        self.told.append(("crashed", type(error)))

    # What came

    def got(self, word: str) -> bytes:
        """The body that was told by ``word`` and by ``word_body``."""
        return b"".join(
            one[2] if one[0] == word else one[1] for one in self.told if one[0] in (word, f"{word}_body")
        )
