"""A worker's connections without sockets: what a client sends, and what reaches the server and comes back.

The objects are the real ones (`Http1Connection`, `Exchange`, `Http1ServerConnection`); only transports and
the loop are stand-ins, so that a case costs microseconds.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
from collections.abc import Callable, Coroutine
from typing import Any, cast

import h11

from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Frontend, Limits, Pool, Server, Timeouts
from pylb.scoreboard import REASONS, Field, Scoreboard, ServerField
from pylb.worker import backend, phases
from pylb.worker.client.http1 import Http1Connection
from pylb.worker.core import Core
from pylb.worker.descriptors import Descriptors
from pylb.worker.frontend import Bind
from pylb.worker.server.http1 import Http1ServerConnection

_CONFIG = BackendConfig(
    name="b",
    balance="roundrobin",
    servers=(Server(name="s", address=parse_address("127.0.0.1:9")),),
    pool=Pool(reuse="always"),
)
_FRONTEND = Frontend(name="f", bind=(parse_address("127.0.0.1:80"),), backend="b")


@functools.cache
def _board(process: int) -> Scoreboard:
    """One for each process: a forked one would share it with its parent."""
    return Scoreboard(1)


class Task:
    """A task that ends when the test says so; by itself it does nothing."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.coroutine = coroutine
        self.cancelled = False

    def run(self) -> None:
        """Run it to its end; nothing in it may have to wait."""
        try:
            self.coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("the task waits")

    def cancel(self) -> None:
        """As asyncio's."""
        self.cancelled = True
        self.coroutine.close()


class Loop:
    """Runs what is to be called soon when asked to; nothing is later, and tasks are the test's to run."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.later: list[tuple[float, Callable[..., object], tuple[Any, ...]]] = []
        self.tasks: list[Task] = []
        self.clock = 0.0

    def time(self) -> float:
        """Its clock."""
        return self.clock

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        """As asyncio's."""
        self.soon.append((callback, arguments))

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> None:
        """As asyncio's."""
        self.later.append((delay, callback, arguments))

    def create_task(self, coroutine: Coroutine[Any, Any, None]) -> Task:
        """As asyncio's, but it doesn't begin."""
        task = Task(coroutine)
        self.tasks.append(task)
        return task

    def run(self) -> None:
        """Call what is to be called soon, and what follows of that."""
        while self.soon:
            callback, arguments = self.soon.pop(0)
            callback(*arguments)

    def run_later(self) -> None:
        """The time of everything that is to be called later has come."""
        later, self.later = self.later, []
        for _, callback, arguments in later:
            callback(*arguments)
        self.run()

    def run_tasks(self) -> None:
        """Run all tasks to their ends, and those that they begin."""
        while self.tasks:
            task = self.tasks.pop(0)
            if not task.cancelled:
                task.run()
        self.run()


class TestCore(Core):
    """A core of which nothing is shared, with its clock at 0, and for which an error of pylb's own is one."""

    __test__ = False

    def __init__(self, timeouts: Timeouts | None = None, limits: Limits | None = None) -> None:
        self.stand_in = Loop()
        super().__init__(
            cast(asyncio.AbstractEventLoop, self.stand_in),
            *(timeouts or Timeouts(), limits or Limits(), 2.0),
            Descriptors(1 << 16, 0),
        )
        self.said: list[str] = []
        self.errors: list[BaseException] | None = None
        """Errors of pylb's own, where the test expects some."""

    def say(self, level: int, kind: object, text: str) -> None:
        self.said.append(text)

    def internal(self, error: BaseException) -> None:
        if self.errors is None:
            raise error
        self.errors.append(error)
        self.counters[Field.INTERNAL] += 1


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.aborted = False
        self.finished = False
        """Whether this side was shut."""
        self.half_close = True
        self.unsent = 0
        self.reading = True
        self.protocol: Any = None
        self.socket: Any = None
        """What the kernel has of it."""

    def write(self, data: bytes) -> None:
        """As asyncio's; so are all below."""
        self.written += bytes(data)

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.written += b"".join(bytes(piece) for piece in pieces)

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("192.0.2.9", 5), "socket": self.socket}.get(name)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def write_eof(self) -> None:
        self.finished = True

    def can_write_eof(self) -> bool:
        return self.half_close

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int) -> None:
        """None here."""

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def take(self) -> bytes:
        """What was written since the last look."""
        written, self.written = self.written, b""
        return written


class Wire:
    """One client and a server that answers nothing by itself (``answer`` does).

    Args:
        frontend: what differs from the usual in its configuration.
    """

    def __init__(self, limits: Limits | None = None, **frontend: Any) -> None:
        core = self.worker = TestCore(limits=limits)
        config = _FRONTEND.model_copy(update=frontend) if frontend else _FRONTEND
        board = _board(os.getpid())
        self.backend = backend.Backend(_CONFIG, board, lambda server: 0, 0, None, core.timeouts)
        self.upstream = self.backend.servers[0]
        board.server_column(ServerField.ACTIVE, 0)[0] = 0
        self.frontend = phases.compiled(config, {"b": self.backend}, core)
        bind = Bind("127.0.0.1:80", config, self.frontend, {}, core.head_limits)
        self.client = Http1Connection(core, bind)
        self.near = Transport()
        self.near.protocol = self.client
        self.client.connection_made(cast(asyncio.BaseTransport, self.near))
        self.servers: list[Transport] = []
        self._refill()

    def _refill(self) -> None:
        """There is always a pooled connection, so that nothing has to connect."""
        if not self.upstream.pool.idle:
            transport = Transport()
            connection = Http1ServerConnection(self.worker, self.upstream)
            connection.connection_made(cast(asyncio.BaseTransport, transport))
            transport.protocol = connection
            self.servers.append(transport)
            self.upstream.pool.idle[connection] = None

    @property
    def client_closed(self) -> bool:
        """Whether nothing more is sent to the client."""
        return self.near.closed or self.near.finished

    @property
    def server(self) -> Http1ServerConnection | None:
        """The connection to the server that has the request."""
        exchange = self.client.exchange
        return None if exchange is None else cast("Http1ServerConnection | None", exchange.server)

    def client_sends(self, data: bytes) -> None:
        """Bytes from the client."""
        if not self.client_closed:
            self.near.protocol.data_received(data)
            self.worker.stand_in.run()
            self._refill()

    def server_sends(self, data: bytes) -> None:
        """Bytes from the server that has the request."""
        server = self.server
        if server is not None:
            server.data_received(data)
            self.worker.stand_in.run()
            self._refill()

    def answer(self) -> bool:
        """Answer the request under way, if it is complete; whether there was one."""
        if self.server is None or not self.client.body_done:
            return False
        self.server_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        return True

    def statuses(self) -> list[int]:
        """Of all responses that the client got."""
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", self.near.written)]

    def refused(self) -> dict[str, int]:
        """How many requests were refused, by reason."""
        counters = self.worker.counters[Field.REFUSED_FOR :]
        return {reason: count for reason, count in zip(REASONS, counters, strict=False) if count}

    def complete_requests(self) -> list[bytes]:
        """Heads and bodies of all requests that h11 reads from what servers got; raises if it can't."""
        found = []
        for transport in self.servers:
            reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
            reader.receive_data(transport.written)
            head = body = b""
            while True:
                event = reader.next_event()
                if isinstance(event, h11.Request):
                    head = b"%s %s HTTP/%s\r\n" % (event.method, event.target, event.http_version)
                    head += b"".join(b"%s: %s\r\n" % (n.title(), v) for n, v in event.headers)
                    body = b""
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    found.append(head + b"\r\n" + body)
                    reader.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                    reader.send(h11.EndOfMessage())
                    if reader.our_state is h11.MUST_CLOSE:
                        break
                    reader.start_next_cycle()
                else:
                    break
        return found
