"""A line for the tests of HTTP/1 towards servers: a codec with its transport and its exchange."""

from __future__ import annotations

import asyncio
from typing import cast

from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Limits, Server
from pylb.scoreboard import Scoreboard
from pylb.worker.backend import Backend
from pylb.worker.server.http1 import Http1ServerConnection
from tests.http.wire import TestCore, Transport
from tests.worker.stand_ins import FakeExchange, request_head

_BOARD = Scoreboard(1)
_CONFIG = BackendConfig(name="b", servers=(Server(name="s", address=parse_address("127.0.0.1:9")),))
SIZED = request_head(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
UPGRADE = request_head(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OPEN = b"HTTP/1.1 200 OK\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\n\r\n"
SWITCH = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"


class Line:
    """A codec with its transport and its exchange."""

    def __init__(
        self, private: bool = False, limits: Limits | None = None, core: TestCore | None = None
    ) -> None:
        self.core = core or TestCore(limits=limits)
        (self.server,) = Backend(_CONFIG, _BOARD, lambda server: 0, 0).servers
        self.codec = Http1ServerConnection(self.core, self.server, private)
        self.transport = Transport()
        self.codec.connection_made(cast(asyncio.BaseTransport, self.transport))
        self.exchange = self.fresh()

    def fresh(self) -> FakeExchange:
        """A next exchange, which lets the codec go as the real one does."""
        exchange = self.exchange = FakeExchange()

        def release() -> None:
            if exchange.told[-1][0] == "response_end" or exchange.told[-1][3]:
                self.codec.release()

        exchange.answers = {
            "response": release,
            "response_end": release,
            "server_gone": self.codec.abort,
            "client_gone": self.codec.abort,
        }
        return exchange

    @property
    def pooled(self) -> bool:
        """Whether the next request may go there."""
        return self.codec in self.server.pool.idle

    def comes(self, *pieces: bytes) -> list[tuple[object, ...]]:
        """Bytes come from the server; what the exchange is told."""
        for piece in pieces:
            self.codec.data_received(piece)
        return self.exchange.take()
