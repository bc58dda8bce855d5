"""The codec of HTTP/1 towards clients, over a transport that keeps what is written, with fake exchanges."""

from __future__ import annotations

from typing import Any

from pylb.config.model import Limits
from pylb.worker.client.http1 import Http1Connection
from tests.http.wire import Transport, Wire
from tests.worker.stand_ins import OK, FakeExchange

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"
OLD_KEPT = b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class Line:
    """A codec with its transport; each of its exchanges is a fake one."""

    def __init__(self, limits: Limits | None = None) -> None:
        wire = Wire(limits)
        self.core = wire.worker
        self.codec: Http1Connection = wire.client
        self.transport: Transport = wire.near
        self.exchanges: list[FakeExchange] = []
        self.raises = ""

    def begin(self, core: object, facts: object, frontend: object) -> Any:
        """In the place of `exchange.begin`."""
        exchange = FakeExchange()
        exchange.raises = self.raises
        self.exchanges.append(exchange)
        return exchange

    @property
    def told(self) -> list[tuple[Any, ...]]:
        """What all exchanges were told since the last look."""
        return [one for exchange in self.exchanges for one in exchange.take()]

    def comes(self, *pieces: bytes) -> list[tuple[Any, ...]]:
        """Bytes come from the client; what exchanges are told."""
        for piece in pieces:
            self.transport.protocol.data_received(piece)
        self.core.stand_in.run()
        return self.told

    def answer(self) -> bytes:
        """Answer what is under way; the bytes that go out."""
        self.codec.respond(OK, OK.out + b"ok", len(OK.out), True)
        self.core.stand_in.run()
        return self.transport.take()
