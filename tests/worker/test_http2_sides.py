"""What the HTTP/2 sides and their exchanges say to each other, without sockets."""

from __future__ import annotations

import asyncio
import math
from typing import Any, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

from pylb.scoreboard import Field
from pylb.worker.client.http2 import Http2Connection
from pylb.worker.pool import Pooled
from pylb.worker.server.http2 import Http2ServerConnection
from pylb.worker.server.http2stream import Http2ServerStream
from pylb.worker.tunnel import Tunnel
from tests.http.wire import Transport, Wire

Fields = list[tuple[bytes, bytes]]
HEAD: Fields = [(b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
GET: Fields = [(b":method", b"GET"), *HEAD]
POST: Fields = [(b":method", b"POST"), *HEAD]
CONNECT: Fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *HEAD]
SWITCH = b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


class Peer:
    """h2 at the other end of a connection of pylb's."""

    def __init__(self, wire: Wire, protocol: Any, client: bool, window: int = 65535) -> None:
        self.wire = wire
        self.core = wire.worker
        self.protocol = protocol
        self.transport = Transport()
        protocol.connection_made(cast(asyncio.BaseTransport, self.transport))
        config = h2.config.H2Configuration(client_side=client, header_encoding=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(
            client=client, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.talk()

    def talk(self) -> None:
        """Bytes go to and fro until both have said all."""
        while True:
            self.core.stand_in.run()
            self.events += self.h2.receive_data(self.transport.take())
            data = self.h2.data_to_send()
            if not data:
                return
            self.protocol.data_received(data)

    def seen(self, kind: type[h2.events.Event]) -> list[Any]:
        """The events of a kind that have come."""
        self.talk()
        return [event for event in self.events if isinstance(event, kind)]

    def statuses(self) -> list[bytes]:
        """Of all responses that have come."""
        return [dict(event.headers)[b":status"] for event in self.seen(h2.events.ResponseReceived)]


class Http2Client(Peer):
    """An HTTP/2 client before the HTTP/1 servers of a `Wire`."""

    def __init__(self, wire: Wire, window: int = 65535) -> None:
        bind, facts = wire.client.bind, wire.client.facts
        super().__init__(wire, Http2Connection(wire.worker, bind, facts), True, window)

    def asks(self, headers: Fields = GET, end: bool = True) -> int:
        """Begin a stream."""
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, headers, end_stream=end)
        self.talk()
        return number

    def says(self, number: int, data: bytes, end: bool = False) -> None:
        """Send a piece of a body."""
        self.h2.send_data(number, data, end_stream=end)
        self.talk()

    def server(self, number: int) -> Any:
        """The connection to the server that has a stream's request."""
        exchange = self.protocol.streams[number].exchange
        return None if exchange is None else exchange.server

    def answered(self, number: int, data: bytes) -> None:
        """Bytes come from the server that has a stream's request."""
        server = self.server(number)
        self.wire._refill()
        server.data_received(data)
        self.talk()


def _counted(wire: Wire, *fields: Field) -> list[int]:
    return [wire.worker.counters[field] for field in fields]


@pytest.mark.parametrize("response", [b"Content-Length: 2\r\n\r\nok", b"Content-Length: 2\r\n\r\no"])
def test_a_connect_that_is_answered_without_a_tunnel_is_a_bad_gateway_once(response: bytes) -> None:
    wire = Wire()
    client = Http2Client(wire)
    number = client.asks(CONNECT, end=False)
    client.answered(number, b"HTTP/1.1 200 OK\r\n" + response)
    assert client.statuses() == [b"502"]
    assert _counted(wire, Field.REQUESTS, Field.STATUS_2XX, Field.STATUS_5XX) == [1, 0, 1]
    assert (wire.upstream.errors, wire.upstream.active[0]) == (1, 0)
    assert len(wire.worker.spare) == 1


def test_a_server_that_is_connected_to_while_the_client_does_not_read_is_not_read() -> None:
    wire = Wire()
    client = Http2Client(wire)
    wire.upstream.pool.idle.clear()
    number = client.asks()
    client.protocol.pause_writing()
    exchange = client.protocol.streams[number].exchange
    wire._refill()
    exchange._send(wire.upstream.pool.idle.popitem()[0])
    assert not wire.servers[-1].reading
    assert exchange.due() == wire.worker.timeouts.client
    client.protocol.resume_writing()
    assert wire.servers[-1].reading
    assert exchange.due() == wire.worker.timeouts.server
    exchange.connecting.cancel()


def test_who_sends_and_does_not_read_is_waited_for_as_a_client() -> None:
    """Neither a piece of the request nor its end makes a server late that isn't read."""
    wire = Wire()
    client = Http2Client(wire)
    number = client.asks(POST, end=False)
    client.answered(number, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    client.protocol.pause_writing()
    stream = client.protocol.streams[number]
    for end in (False, True):
        client.says(number, b"x", end)
        assert stream.exchange.server_deadline == math.inf
        assert stream.due() == wire.worker.timeouts.client
    wire.worker.now = wire.worker.timeouts.client + 1
    client.protocol.expire()
    assert _counted(wire, Field.TIMEOUTS, Field.ABORTED) == [1, 1]
    assert not client.protocol.streams


def test_a_response_that_waits_for_the_window_holds_the_server_and_then_its_own_deadline() -> None:
    wire = Wire()
    client = Http2Client(wire, window=0)
    number = client.asks()
    size = 1 << 20
    client.answered(number, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * (size // 2))
    server = client.server(number)
    assert not server.transport.reading
    server.data_received(b"x" * (size - size // 2))  # what was on its way
    stream = client.protocol.streams[number]
    assert stream.exchange is None
    assert stream.due() == wire.worker.timeouts.client
    assert _counted(wire, Field.REQUESTS, Field.STATUS_2XX) == [1, 1]
    wire.worker.now = wire.worker.timeouts.client + 1
    client.protocol.expire()
    (reset,) = client.seen(h2.events.StreamReset)
    assert reset.error_code == h2.errors.ErrorCodes.CANCEL
    assert not client.protocol.busy
    assert _counted(wire, Field.REQUESTS, Field.TIMEOUTS) == [1, 1]


def test_the_windows_of_a_client_follow_what_the_server_takes() -> None:
    wire = Wire()
    client = Http2Client(wire)
    number = client.asks(POST, end=False)
    client.server(number).pause_writing()
    window = client.h2.local_flow_control_window(number)
    while client.h2.local_flow_control_window(number):
        size = min(client.h2.local_flow_control_window(number), client.h2.max_outbound_frame_size)
        client.says(number, b"x" * size)
    client.server(number).resume_writing()
    client.talk()
    assert client.h2.local_flow_control_window(number) > window // 2


def test_a_reset_lets_go_of_the_server_and_counts_once() -> None:
    wire = Wire()
    client = Http2Client(wire)
    number = client.asks()
    server = client.server(number)
    client.h2.reset_stream(number)
    client.talk()
    assert server.closed
    assert _counted(wire, Field.REQUESTS, Field.ABORTED) == [1, 1]
    assert wire.upstream.active[0] == 0


def test_the_bytes_of_a_tunnel_are_counted_once() -> None:
    """As frames, of which each has nine bytes more (RFC 9113 §4.1)."""
    wire = Wire()
    client = Http2Client(wire)
    number = client.asks(CONNECT, end=False)
    server = client.server(number)
    client.answered(number, SWITCH)
    came, went = _counted(wire, Field.BYTES_IN, Field.BYTES_OUT)
    client.says(number, b"in")
    assert _counted(wire, Field.BYTES_IN, Field.BYTES_OUT) == [came + 9 + 2, went]
    server.transport.protocol.data_received(b"out!")
    client.talk()
    assert _counted(wire, Field.BYTES_IN, Field.BYTES_OUT) == [came + 9 + 2, went + 9 + 4]


def test_a_tunnel_ends_when_the_client_has_taken_all() -> None:
    wire = Wire()
    client = Http2Client(wire, window=10)
    number = client.asks(CONNECT, end=False)
    client.says(number, b"early")
    server = client.server(number)
    client.answered(number, SWITCH)
    assert server.transport.take().endswith(b"early")
    (tunnel,) = cast(set[Tunnel], wire.worker.tunnels)
    pipe = server.transport.protocol
    pipe.data_received(b"0123456789last")
    assert not pipe.eof_received()
    pipe.connection_lost(None)
    client.talk()
    assert tunnel in wire.worker.tunnels
    assert not client.seen(h2.events.StreamEnded)
    client.h2.acknowledge_received_data(10, number)
    assert b"".join(event.data for event in client.seen(h2.events.DataReceived)) == b"0123456789last"
    assert client.seen(h2.events.StreamEnded)
    assert not wire.worker.tunnels
    assert _counted(wire, Field.REQUESTS, Field.ABORTED) == [1, 0]


class _PooledStream(Http2ServerStream, Pooled):
    """A stream that waits in the pool, so that nothing has to connect."""

    def expire(self) -> None:
        """Never."""


class Http2Server(Peer):
    """An HTTP/2 server behind the HTTP/1 client of a `Wire`."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire, Http2ServerConnection(wire.worker, wire.upstream), False)
        self.next_side()

    def next_side(self) -> None:
        """What `connect` would give for the next request."""
        self.wire.upstream.pool.idle = {_PooledStream(self.protocol): None}


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_refused_stream_is_sent_again_whatever_its_method(method: bytes) -> None:
    """The server says that it has not looked at it (RFC 9113 §8.7)."""
    wire = Wire()
    server = Http2Server(wire)
    wire.near.protocol.data_received(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    (first,) = server.seen(h2.events.RequestReceived)
    server.h2.reset_stream(first.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
    server.talk()
    (task,) = wire.worker.stand_in.tasks  # a connection is looked for
    assert wire.statuses() == []
    assert wire.worker.counters[Field.RETRIES] == 1
    task.cancel()


def test_a_body_in_chunks_arrives_as_data_and_comes_back_in_chunks() -> None:
    wire = Wire()
    server = Http2Server(wire)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    for piece in (head + b"3\r\nab", b"c\r\n2\r\nde\r\n", b"0\r\nx-sum: 5\r\n\r\n"):
        wire.near.protocol.data_received(piece)
    assert b"".join(event.data for event in server.seen(h2.events.DataReceived)) == b"abcde"
    (trailers,) = server.seen(h2.events.TrailersReceived)
    assert trailers.headers == [(b"x-sum", b"5")]
    (ended,) = server.seen(h2.events.StreamEnded)
    server.h2.send_headers(ended.stream_id, [(b":status", b"200")])
    server.h2.send_data(ended.stream_id, b"fghij")
    server.h2.send_headers(ended.stream_id, [(b"x-sum", b"6")], end_stream=True)
    server.talk()
    assert wire.near.written.endswith(b"\r\n\r\n5\r\nfghij\r\n0\r\nx-sum: 6\r\n\r\n")
    assert not wire.client.busy
    assert not server.protocol.streams


def test_a_server_that_answers_before_the_requests_end_has_its_stream_reset() -> None:
    wire = Wire()
    server = Http2Server(wire)
    wire.near.protocol.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
    (asked,) = server.seen(h2.events.RequestReceived)
    server.h2.send_headers(asked.stream_id, [(b":status", b"403")], end_stream=True)
    (reset,) = server.seen(h2.events.StreamReset)
    assert reset.error_code == h2.errors.ErrorCodes.CANCEL
    assert wire.statuses() == [403]
    assert not server.protocol.streams


def test_the_window_of_a_server_is_shut_while_the_client_does_not_read() -> None:
    wire = Wire()
    server = Http2Server(wire)
    wire.near.protocol.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    (asked,) = server.seen(h2.events.RequestReceived)
    server.h2.send_headers(asked.stream_id, [(b":status", b"200")])
    wire.client.pause_writing()
    while server.h2.local_flow_control_window(asked.stream_id):
        window = server.h2.local_flow_control_window(asked.stream_id)
        server.h2.send_data(asked.stream_id, b"x" * min(window, server.h2.max_outbound_frame_size))
        server.talk()
    wire.client.resume_writing()
    server.talk()
    assert server.h2.local_flow_control_window(asked.stream_id)
