"""One request and its response: choosing a server, sending, trying again, counting.

`Exchange` is the part of the client side that does not depend on how the client speaks, `HttpExchange`
what all of HTTP shares: an HTTP/1 connection (`client.py`) is one exchange after the other, an HTTP/2 stream
is one of its own. A server connection knows its client as an `HttpExchange`. In TCP mode (`tcp.py`) an
exchange goes over into a tunnel.
"""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pylb.http.request import IDEMPOTENT
from pylb.http.response import ResponseHead
from pylb.latency import LAST, SUM
from pylb.net.tls import asked_name
from pylb.scoreboard import Field
from pylb.worker.descriptors import OUT_OF_DESCRIPTORS
from pylb.worker.reasons import in_words

if TYPE_CHECKING:
    from pylb.worker.http2server import Http2ServerStream
    from pylb.worker.main import Worker
    from pylb.worker.pool import Backend, Upstream
    from pylb.worker.server import ServerConnection

# Plain integers: an enum member costs a lookup and an __index__ call each time.
_REQUESTS = int(Field.REQUESTS)
_STATUS = int(Field.STATUS_1XX) - 1

_SLACK = 1.0  # seconds that a task may be late

_now_ns = time.monotonic_ns

Endpoint = tuple[str, int]


class Exchange(ABC):
    """A request on its way; the same object serves for the next one when that is over."""

    __slots__ = (
        "worker",
        "backend",
        "counters",
        "closed",
        # request
        "method",
        "outgoing",
        "replayable",
        "body_done",
        "busy",
        "started_ns",
        # server
        "upstream",
        "server",
        "connecting",
        "connect_deadline",
        "tried",
        # response
        "response_started",
        "close_after",
        "plain",
        "dechunk",
        "trailer_lines",
    )

    server_may_speak_first = False

    def __init__(self, worker: Worker, backend: Backend) -> None:
        self.worker = worker
        self.backend = backend
        self.counters = worker.counters
        self.closed = False  # the client has gone
        self.method = b""
        self.outgoing = b""  # head and first body bytes, kept until the response starts
        self.replayable = False  # outgoing is the whole request
        self.body_done = True
        self.busy = False
        self.started_ns = 0
        self.upstream: Upstream | None = None
        self.server: ServerConnection | Http2ServerStream | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.connect_deadline = math.inf  # by which one of the tries must have succeeded
        self.tried: frozenset[int] = frozenset()
        self.response_started = False
        self.close_after = False
        self.plain = True  # HTTP/1.1: a response head that needs no word of ours can pass as it is
        self.dechunk = False  # the client does not understand chunks
        self.trailer_lines: list[bytes] = []

    # What the client side does with it

    @abstractmethod
    def take(self, server: ServerConnection | Http2ServerStream) -> None:
        """There is a connection to the server."""

    @abstractmethod
    def write_error(self, status: int) -> None:
        """Send a response of pylb's own."""

    @abstractmethod
    def endpoints(self) -> tuple[Endpoint | None, Endpoint | None]:
        """The client's address and port, and those that it connected to, for a PROXY header."""

    @abstractmethod
    def client_tls(self) -> dict[str, bytes]:
        """What the client said in its TLS handshake (``alpn``, ``authority``), for a PROXY header."""

    @abstractmethod
    def update_reading(self) -> None:
        """Read from the client only while there is room for what it sends."""

    @abstractmethod
    def over(self, abort: bool) -> None:
        """What follows when the exchange has ended; with ``abort`` in the middle of a response."""

    @abstractmethod
    def cut_off(self) -> None:
        """End the connection (of HTTP/2 the stream) at once, whatever state it is in."""

    # To the server

    def send(self, fresh: bool = False) -> None:
        """Pick a server and give it the request; ``fresh`` on a connection of its own."""
        index = self.backend.balancer.pick(self.tried)
        if index is None:
            self.fail(503)
            return
        upstream = self.upstream = self.backend.upstreams[index]
        upstream.active[upstream.row] += 1
        upstream.requests += 1
        pool = upstream.pool
        if pool and not fresh:
            server = self.server = pool.pop()
            self.take(server)
            return
        worker = self.worker
        if self.connect_deadline == math.inf:
            self.connect_deadline = worker.now + worker.timeouts.connect * (1 + self.backend.retries) + _SLACK
        worker.connecting.add(self)
        self.connecting = worker.loop.create_task(self._connect(upstream, index))

    async def _connect(self, upstream: Upstream, index: int) -> None:
        worker = self.worker
        try:
            try:
                server = await upstream.connect(worker, worker.timeouts.connect, self)
            except (OSError, TimeoutError) as error:
                self._not_connected(upstream, index, error)
                return
            self.connecting = None
            self.connect_deadline = math.inf
            worker.connecting.discard(self)
            self.server = server
            if upstream.failing:
                upstream.works(worker)
            self.take(server)
            self.update_reading()
        except Exception as error:
            self.connecting = None  # this task is not to be cancelled, it ends
            self.crashed(error)

    def _not_connected(self, upstream: Upstream, index: int, error: OSError) -> None:
        """Try another server, or give up."""
        worker = self.worker
        self.connecting = None
        deadline = self.connect_deadline
        self.leave_server()
        if error.errno in OUT_OF_DESCRIPTORS:  # no server's fault, and no other one can be connected to
            worker.out_of_descriptors(error)
            self.fail(503)
            return
        upstream.errors += 1
        upstream.failed(worker, "connect", in_words(error))
        self.tried |= {index}
        if len(self.tried) <= self.backend.retries and len(self.tried) < len(self.backend.upstreams):
            self.counters[Field.RETRIES] += 1
            self.connect_deadline = deadline
            self.send()
        else:
            self.fail(504 if isinstance(error, TimeoutError) else 503)

    def connect_expired(self) -> None:
        """All tries together have taken too long; each has a limit of its own, so something is wrong."""
        try:
            self.counters[Field.TIMEOUTS] += 1
            self.leave_server()
            self.fail(504)
        except Exception as error:
            self.crashed(error)

    def leave_server(self) -> None:
        """Let go of the server, whatever it is doing."""
        # What is counted comes first: it must be right whatever happens below.
        upstream = self.upstream
        if upstream is not None:
            self.upstream = None
            upstream.active[upstream.row] -= 1
        connecting, self.connecting = self.connecting, None
        server, self.server = self.server, None
        if self.connect_deadline != math.inf:
            self.connect_deadline = math.inf
            self.worker.connecting.discard(self)
        if connecting is not None:
            connecting.cancel()
        if server is not None:
            server.abort()

    def tunnel_over(self) -> None:
        """Both sides of a tunnel have closed."""
        self.server = None
        self.leave_server()
        self.closed = True
        self.done()

    # Ends

    def crashed(self, error: Exception) -> None:
        """An error of our own: the request under way is answered with 500, or its connection ends."""
        worker = self.worker
        worker.internal(error)
        try:
            self.leave_server()
            if self.busy and not self.response_started and not self.closed:
                self.close_after = True
                self.fail(500)
                return
        except Exception as another:
            worker.internal(another)
        try:
            self.cut_off()
        except Exception as another:
            worker.internal(another)

    def fail(self, status: int, times: list[int] | None = None) -> None:
        """Answer the request with an error of pylb's own."""
        if not self.closed:
            self.counters[_STATUS + status // 100] += 1
            self.write_error(status)
        self.done(times=times)

    def done(self, abort: bool = False, times: list[int] | None = None) -> None:
        """Count the request and let the client side go on; ``times`` are those it is one of, if not the
        backend's."""
        self.counters[_REQUESTS] += 1
        if times is None:
            times = self.backend.times
        spent = (_now_ns() - self.started_ns) // 1000
        times[SUM] += spent
        bits = spent.bit_length()  # as in `latency.bucket`
        if bits < 7:
            times[0] += 1
        else:
            index = 4 * bits + (spent >> bits - 3) - 31
            times[index if index < LAST else LAST] += 1
        self.busy = False
        self.outgoing = b""
        if self.trailer_lines:
            self.trailer_lines = []
        self.over(abort)


class HttpExchange(Exchange):
    """An exchange that is a request and its response."""

    __slots__ = ()

    # What the client side does with it

    @abstractmethod
    def write(self, data: bytes | memoryview) -> None:
        """Send bytes of a response's body to the client."""

    @abstractmethod
    def write_head(self, head: ResponseHead, body: bytes | memoryview) -> None:
        """Send a response's head, adapted to the client, and what has come of the body with it."""

    @abstractmethod
    def write_interim(self, head: ResponseHead) -> None:
        """Send a 1xx response."""

    def write_trailers(self, lines: list[bytes]) -> None:
        """The trailer fields of a body that was not passed on in chunks, before the response is done."""
        self.trailer_lines = lines

    def before_open_end(self) -> None:
        """A body comes whose end only a close can show to a client of HTTP/1."""

    def wants_upgrade(self, head: ResponseHead) -> bool:
        """Whether the client has asked for the protocol that the server changes to."""
        return False

    @abstractmethod
    def tunnel(self, server: ServerConnection, head: ResponseHead, rest: bytes) -> None:
        """The server has agreed to change the protocol."""

    # To the server

    def take(self, server: ServerConnection | Http2ServerStream) -> None:
        server.begin(self, self.outgoing)

    # From the server

    def response_done(self, reusable: bool) -> None:
        """The last byte of the response was written."""
        server = self.server
        assert server is not None
        self.counters[_STATUS + server.head.status // 100] += 1
        self.server = None
        upstream = self.upstream
        assert upstream is not None
        upstream.active[upstream.row] -= 1
        self.upstream = None
        if reusable and self.body_done and not server.closed:
            server.release()
        else:
            server.abort()
        self.done()

    def server_lost(self) -> None:
        """The server's connection ended before its response did."""
        server = self.server
        assert server is not None
        stale = server.reused and not self.response_started and not server.buffer
        if stale and self.replayable and self.method in IDEMPOTENT:
            # The server closed an idle connection while the request was on its way (RFC 9112 §9.3.1).
            self.leave_server()
            self.counters[Field.RETRIES] += 1
            self.send(fresh=True)
        else:
            server.upstream.failed(self.worker, "lost", "closed the connection before its response was whole")
            self.server_failed(502)

    def server_failed(self, status: int) -> None:
        """The server gave no usable response; answer with ``status`` if that is still possible."""
        upstream = self.upstream
        if upstream is not None:
            upstream.errors += 1
        if status == 504:
            self.counters[Field.TIMEOUTS] += 1
        self.leave_server()
        if self.response_started:
            self.counters[Field.ABORTED] += 1
            self.done(abort=True)
        else:
            self.fail(status)


def tls_facts(transport: asyncio.BaseTransport) -> dict[str, bytes]:
    """`Exchange.client_tls` of a connection whose TLS ends here."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return {}
    return {"alpn": (tls.selected_alpn_protocol() or "").encode(), "authority": asked_name(tls).encode()}


def endpoint(transport: asyncio.BaseTransport, which: str) -> Endpoint | None:
    """``peername`` or ``sockname`` as address and port; None for a unix socket."""
    name = transport.get_extra_info(which)
    return (name[0], name[1]) if isinstance(name, tuple) else None
