"""What real peers of HTTP/2 do: early answers, malformed messages, refusals, connections that are dead."""

from __future__ import annotations

import h2.events
import hpack
import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame

from pylb.config.model import Timeouts
from pylb.scoreboard import Field
from pylb.worker.client.http2stream import LINGER, LINGER_BYTES
from tests.http.wire import Wire
from tests.worker.test_http2_sides import GET, POST, Http2Client, Http2Server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def resets(client: Http2Client) -> list[int]:
    """The codes of the streams that were reset."""
    return [event.error_code for event in client.seen(h2.events.StreamReset)]


# Clients


def test_an_early_answer_is_followed_by_no_reset_at_once() -> None:
    """curl 7.88 would lose it, node's client would hang."""
    wire = Wire()
    client = Http2Client(wire)
    number = client.asks(POST, end=False)
    client.says(number, b"x" * 1000)
    client.answered(number, b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
    assert client.statuses() == [b"413"]
    assert client.seen(h2.events.StreamEnded) and resets(client) == []
    sent = 0
    while sent < LINGER_BYTES // 2:  # what comes is dropped, and its window given back
        size = min(client.h2.local_flow_control_window(number), 16384)
        client.says(number, b"x" * size)
        sent += size
    client.says(number, b"", True)
    assert resets(client) == [] and not client.protocol.streams
    assert client.asks() and len(client.protocol.streams) == 1


@pytest.mark.parametrize("how", ["time", "bytes"])
def test_who_goes_on_after_an_early_answer_is_reset_in_the_end(how: str) -> None:
    wire = Wire()
    client = Http2Client(wire)
    number = client.asks(POST, end=False)
    client.answered(number, b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
    if how == "time":
        wire.worker.now = LINGER + 1
        assert client.protocol.due() < wire.worker.now
        client.protocol.expire()
    while how == "bytes" and client.protocol.streams:
        client.h2.send_data(number, b"x" * min(client.h2.local_flow_control_window(number), 16384))
        client.talk()
    assert resets(client) == [ErrorCodes.NO_ERROR]
    assert wire.worker.counters[Field.TIMEOUTS] == 0


def test_content_length_0_with_a_later_end_of_the_stream_is_a_finished_body() -> None:
    """As curl asks for a Digest's challenge."""
    wire = Wire()
    client = Http2Client(wire)
    number = client.asks([*POST, (b"content-length", b"0")], end=False)
    client.answered(number, OK)
    assert client.statuses() == [b"200"]
    client.says(number, b"", True)
    assert resets(client) == [] and not client.protocol.streams
    assert len(wire.worker.spare) == 1


BAD_FIELDS = [
    *((b"connection", b"close"), (b"x-Upper", b"1"), (b"x", b" y"), (b":path", b"/"), (b"te", b"gzip")),
]


@pytest.mark.parametrize("bad", BAD_FIELDS)
def test_a_malformed_request_ends_its_own_stream_only(bad: tuple[bytes, bytes]) -> None:
    wire = Wire()
    client = Http2Client(wire)
    good = client.asks()
    frame = HeadersFrame(3, hpack.Encoder().encode([*GET, bad]), flags={"END_HEADERS", "END_STREAM"})
    client.protocol.data_received(frame.serialize())
    wire.worker.stand_in.run()
    sent = client.transport.take()
    assert b"\x88" not in sent  # no 200
    assert RstStreamFrame(3, ErrorCodes.PROTOCOL_ERROR).serialize() in sent
    client.answered(good, OK)
    assert client.statuses()[-1] == b"200"
    assert wire.worker.counters[Field.REFUSED] == 1


def test_trailers_with_pseudo_fields_end_their_stream_only() -> None:
    wire = Wire()
    client = Http2Client(wire)
    good = client.asks()
    wire._refill()
    bad = client.asks(POST, end=False)
    frame = HeadersFrame(bad, hpack.Encoder().encode([(b":path", b"/")]), flags={"END_HEADERS", "END_STREAM"})
    client.protocol.data_received(frame.serialize())
    wire.worker.stand_in.run()
    assert RstStreamFrame(bad, ErrorCodes.PROTOCOL_ERROR).serialize() in client.transport.take()
    client.answered(good, OK)
    assert client.statuses()[-1] == b"200"


def test_a_client_that_reads_nothing_holds_its_servers_however_many_streams_it_has() -> None:
    wire = Wire()
    client = Http2Client(wire, window=0)
    numbers = []
    for _ in range(60):
        wire._refill()
        numbers.append(client.asks())
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 65000
    servers = [client.server(number) for number in numbers]
    for server in servers:
        server.data_received(half)
    read = [server.transport.reading for server in servers]
    assert not any(read[20:])
    assert client.protocol.queued < 60 * 65000 + 1
    client.h2.update_settings({4: 1 << 20})
    client.h2.increment_flow_control_window(1 << 26)
    client.talk()
    assert all(server.transport.reading for server in servers)


def test_streams_are_used_again() -> None:
    wire = Wire()
    client = Http2Client(wire)
    streams = set()
    for _ in range(5):
        number = client.asks()
        streams.add(id(client.protocol.streams[number]))
        client.answered(number, OK)
    assert len(streams) == 1
    assert client.statuses() == [b"200"] * 5


# Servers


def raw(server: Http2Server, *frames: Frame) -> None:
    """Frames of any kind come from the server."""
    server.protocol.data_received(b"".join(frame.serialize() for frame in frames))
    server.wire.worker.stand_in.run()
    server.transport.take()


def asked(server: Http2Server, request: bytes = ASK) -> int:
    """The stream of a request."""
    server.wire.near.protocol.data_received(request)
    number: int = server.seen(h2.events.RequestReceived)[-1].stream_id
    return number


def headers(number: int, *fields: tuple[bytes, bytes], end: bool = False) -> HeadersFrame:
    block = hpack.Encoder().encode(list(fields))
    return HeadersFrame(number, block, flags={"END_HEADERS", *(["END_STREAM"] if end else [])})


STATUS = (b":status", b"200")
LENGTH = (b"content-length", b"5")


@pytest.mark.parametrize(
    "frames",
    [
        *([headers(1, STATUS, bad, end=True)] for bad in BAD_FIELDS),
        [headers(1, (b"x", b"y"), end=True)],
        [headers(1, STATUS, *[(b"x-%d" % count, b"a" * 500) for count in range(45)], end=True)],
        [headers(1, STATUS, LENGTH), DataFrame(1, b"abc", flags={"END_STREAM"})],
        [headers(1, STATUS, LENGTH), DataFrame(1, b"abcdef", flags={"END_STREAM"})],
        [headers(1, STATUS, LENGTH, end=True)],
        [headers(1, STATUS), headers(1, STATUS)],
        [headers(1, STATUS), headers(1, STATUS, end=True)],
        [headers(1, (b":status", b"103"), end=True)],
        [headers(1, (b":status", b"101"))],
        [DataFrame(1, b"abc")],
    ],
)
def test_a_malformed_response_ends_its_own_stream_only(frames: list[Frame]) -> None:
    wire = Wire()
    server = Http2Server(wire)
    asked(server)
    connection = server.protocol
    raw(server, *frames)
    assert not connection.streams and not connection.closed and not connection.over
    assert connection.free
    assert not server.transport.closed
    assert wire.upstream.errors == 1
    assert not wire.near.written.endswith(b"0\r\n\r\n")


def test_several_1xx_come_before_the_response() -> None:
    wire = Wire()
    server = Http2Server(wire)
    number = asked(server)
    early = headers(number, (b":status", b"103"), (b"link", b"</a>"))
    raw(server, early, early, headers(number, STATUS, (b"content-length", b"0"), end=True))
    assert wire.statuses() == [103, 103, 200]


def test_no_error_after_a_whole_response_without_its_end_is_its_end() -> None:
    wire = Wire()
    server = Http2Server(wire)
    number = asked(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
    raw(server, headers(number, STATUS, LENGTH), DataFrame(number, b"hello"), RstStreamFrame(number, 0))
    assert wire.near.written.endswith(b"\r\n\r\nhello")
    assert not server.protocol.streams and wire.upstream.active[0] == 0


def test_no_error_before_the_response_is_whole_does_not_hang() -> None:
    wire = Wire()
    server = Http2Server(wire)
    number = asked(server)
    raw(server, RstStreamFrame(number, 0))
    assert wire.statuses() == [502]
    assert not server.protocol.streams


def test_early_answers_to_uploads_dont_fill_the_servers_stream_limit() -> None:
    wire = Wire()
    server = Http2Server(wire)
    for _ in range(150):
        client = Http2Client(wire)
        number = client.asks(POST, end=False)
        asked_number = server.seen(h2.events.RequestReceived)[-1].stream_id
        server.h2.send_headers(asked_number, [(b":status", b"403")], end_stream=True)
        server.talk()
        client.talk()
        assert client.statuses() == [b"403"] and number
        assert not server.protocol.streams
        server.next_side()


def test_a_silent_connection_gets_no_new_streams_until_it_answers_a_ping() -> None:
    wire = Wire()
    server = Http2Server(wire)
    asked(server)
    wire.worker.now = wire.worker.timeouts.server + 1
    wire.client.expire()  # the exchange's deadline
    assert wire.statuses() == [504]
    assert not server.protocol.free
    assert server.seen(h2.events.PingReceived)
    assert server.protocol.free  # it has answered

    asked_again = Http2Server(wire)
    asked(asked_again)
    wire.worker.now += wire.worker.timeouts.server + 1
    wire.client.expire()
    wire.worker.now += wire.worker.timeouts.connect
    assert asked_again.protocol.due() <= wire.worker.now
    asked_again.protocol.expire()
    assert asked_again.transport.aborted


def test_an_answer_to_a_ping_that_is_late_behind_data_is_waited_for() -> None:
    wire = Wire()
    server = Http2Server(wire)
    number = asked(server)
    other = Http2Client(wire)
    server.next_side()
    other.asks()
    wire.worker.now = wire.worker.timeouts.server + 1
    wire.client.expire()
    wire.worker.stand_in.run()
    wire.worker.now += wire.worker.timeouts.connect - 1
    server.protocol.data_received(headers(number + 2, STATUS).serialize())
    wire.worker.now += 2
    server.protocol.expire()
    assert not server.transport.closed and not server.protocol.free
    wire.worker.now += wire.worker.timeouts.connect
    server.protocol.expire()
    assert server.transport.aborted


# Pings, where they are switched on


@pytest.fixture
def pinging(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """A worker that pings after 7 seconds."""
    monkeypatch.setattr("tests.http.wire.Timeouts", lambda: Timeouts(http2_ping=7.0))
    return Wire()


def quiet(one: Http2Client | Http2Server, seconds: float) -> bool:
    """Time passes, and the worker looks at the connection; whether it was asked by a PING."""
    core = one.core
    core.now += seconds
    if one.protocol.due() <= core.now:
        one.protocol.expire()
    core.stand_in.run()
    return PING in one.transport.written


PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00"


@pytest.mark.parametrize("lives", [True, False])
def test_a_silent_server_is_asked_whether_it_lives(pinging: Wire, lives: bool) -> None:
    server = Http2Server(pinging)
    assert not quiet(server, 3.0)  # nobody waits for it
    number = asked(server)
    server.talk()
    assert not quiet(server, 6.0)
    raw(server, headers(number, STATUS))
    assert not quiet(server, 6.0)
    assert quiet(server, 1.1)
    assert not server.protocol.free
    if lives:
        server.talk()
        assert server.protocol.free and not quiet(server, 6.0) and quiet(server, 1.1)
    else:
        server.transport.take()
        assert not quiet(server, pinging.worker.timeouts.connect + 0.1)
        assert server.transport.aborted


@pytest.mark.parametrize("lives", [True, False])
def test_a_silent_client_is_asked_whether_it_lives(pinging: Wire, lives: bool) -> None:
    client = Http2Client(pinging)
    assert not quiet(client, 8.0)  # it has no streams, and so its own deadline
    client.asks()
    assert not quiet(client, 6.0) and quiet(client, 1.1)
    if lives:
        client.talk()
        assert not quiet(client, 6.0) and quiet(client, 1.1)
        client.talk()
        assert not client.transport.closed and client.protocol.streams
    else:
        assert quiet(client, pinging.worker.timeouts.connect + 0.1)
        assert client.transport.aborted


def test_without_the_option_nobody_is_asked() -> None:
    wire = Wire()
    server, client = Http2Server(wire), Http2Client(wire)
    client.asks()
    asked_of = wire.worker.timeouts.server - 1
    assert not quiet(client, asked_of) and not quiet(server, 0.0)


def test_window_of_the_shared_connection_is_not_exhausted_by_slow_clients() -> None:
    """90 clients that don't read; another one's response comes whole."""
    wire = Wire()
    server = Http2Server(wire)
    slow = [Http2Client(wire, window=0) for _ in range(90)]
    for client in slow:
        server.next_side()
        client.asks()
    numbers = [event.stream_id for event in server.seen(h2.events.RequestReceived)]
    for number in numbers:
        server.h2.send_headers(number, [STATUS])
        server.talk()
        while window := server.h2.local_flow_control_window(number):
            server.h2.send_data(number, b"x" * min(window, 16384))
            server.talk()
            if number == numbers[-1] and window < 16384:
                break
    server.next_side()
    last = Http2Client(wire)
    last.asks()
    number = server.seen(h2.events.RequestReceived)[-1].stream_id
    server.h2.send_headers(number, [STATUS])
    server.h2.send_data(number, b"hello", end_stream=True)
    server.talk()
    assert b"".join(event.data for event in last.seen(h2.events.DataReceived)) == b"hello"
