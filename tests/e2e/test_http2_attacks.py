"""HTTP/2 clients that attack: each ends its own connection, and no server reads what was not checked."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from bench.rig.balancer import Balancer
from tests.e2e.http2client import Client, Fields, nothing_left
from tests.e2e.origin import Origin


@pytest.fixture(scope="module")
def running_for_all() -> Iterator[tuple[Balancer, Origin]]:
    """One for all of these."""
    origin = Origin()
    one = Balancer("--workers", "1", servers=(origin.address,))
    yield one, origin
    one.stop()
    origin.stop()


@pytest.fixture
def running(running_for_all: tuple[Balancer, Origin]) -> Balancer:
    """It, when nobody is connected any more."""
    nothing_left(running_for_all[0], 0)
    return running_for_all[0]


@pytest.fixture
def origin(running_for_all: tuple[Balancer, Origin]) -> Origin:
    """Its server, which has seen no request yet."""
    running_for_all[1].heads.clear()
    return running_for_all[1]


@pytest.fixture
def refused(running: Balancer) -> int:
    """How many requests were refused before."""
    accepted = running.status()["totals"]["accepted"]
    with socket.create_connection(("127.0.0.1", running.port), timeout=50):
        # The worker has written its counters since.
        status = running.wait("accepted", lambda status: status["totals"]["accepted"] > accepted)
        return int(status["totals"]["refused"])


def test_bytes_that_would_split_a_head_are_refused(client: Client, origin: Origin) -> None:
    for bad in (("x", "a\r\ny: b"), ("x", "a\nb"), ("x\r\ny", "a"), ("x", "\x00"), ("x y", "1"), ("", "1")):
        attacker = Client(client.sock.getpeername()[1])
        number = attacker.request("/", bad)
        with contextlib.suppress(ConnectionError, EOFError):
            assert attacker.answer(number)[0][0] == (":status", "400")
        attacker.sock.close()
    assert origin.heads == []
    assert client.answer(client.request("/"))[0][0] == (":status", "200")


# Attacks. Each must end its own connection and nobody else's.


def attacked(running: Balancer, refused: int, client: Client, attacker: Client) -> None:
    """The attacker is cut off, which is counted, and an ordinary client notices nothing."""
    codes = attacker.until_closed()
    assert codes == [] or int(h2.errors.ErrorCodes.NO_ERROR) not in codes
    assert client.answer(client.request("/"))[0][0] == (":status", "200")
    attacker.sock.close()
    nothing_left(running, 1)
    running.wait("counted", lambda status: status["totals"]["refused"] > refused)


def test_rapid_reset(running: Balancer, refused: int, client: Client) -> None:
    """CVE-2023-44487."""
    attacker = Client(running.port)
    with contextlib.suppress(ConnectionError):
        for _ in range(2000):
            number = attacker.h2.get_next_available_stream_id()
            attacker.h2.send_headers(
                number,
                [(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", "/held")],
                end_stream=True,
            )
            attacker.h2.reset_stream(number)
        attacker.flush()
    attacked(running, refused, client, attacker)


def test_a_flood_of_continuation(running: Balancer, refused: int, client: Client) -> None:
    """CVE-2024-27316 and its kin."""
    attacker = Client(running.port)
    start = HeadersFrame(1)
    start.data = b"\x82"
    frames: list[Frame] = [start]
    for _ in range(10_000):
        more = ContinuationFrame(1)
        more.data = b"\x00\x01a\x01b"
        frames.append(more)
    attacker.send_raw(*frames)
    attacked(running, refused, client, attacker)


def test_an_hpack_bomb(running: Balancer, refused: int, client: Client) -> None:
    """CVE-2016-6581: one long field in the table, then many one-byte references to it."""
    attacker = Client(running.port)
    frame = HeadersFrame(1, flags={"END_HEADERS", "END_STREAM"})
    frame.data = b"\x82\x86\x84\x41\x01t" + b"\x40\x01a\x7f\x81\x1e" + b"v" * 4000 + b"\xbe" * 12000
    frame.data = frame.data[:16000]
    attacker.send_raw(frame)
    attacked(running, refused, client, attacker)


FLOODS: dict[str, Frame] = {
    "ping": PingFrame(0, b"12345678"),
    "ping answers": PingFrame(0, b"12345678", flags={"ACK"}),
    "settings": SettingsFrame(0, {3: 100}),
    "settings answers": SettingsFrame(0, flags={"ACK"}),
    "empty data": DataFrame(1),
    "window": WindowUpdateFrame(0, 1),
    "window of a stream that is over": WindowUpdateFrame(3, 1),
    "resets of a stream that is over": RstStreamFrame(3, 8),
    "resets of a stream that never was": RstStreamFrame(9, 8),
    "data of a stream that is over": DataFrame(3, b"x"),
    "priorities": PriorityFrame(5, 0, 1, False),
    "goaway": GoAwayFrame(0),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_cheap_frames(running: Balancer, refused: int, client: Client, kind: str) -> None:
    """CVE-2019-9512, -9515, -9518."""
    attacker = Client(running.port)
    attacker.request("/echo", method="POST", end=False)
    attacker.answer(attacker.request("/"))
    attacker.send_raw(*[FLOODS[kind]] * 20_000)
    attacked(running, refused, client, attacker)


def test_a_fast_download_with_many_window_updates_is_no_flood(client: Client) -> None:
    """Go's client sends one for each 4 KiB that were read, for the stream and for the connection."""
    number = client.request("/bytes/20000000")
    got = 0
    while got < 20_000_000:
        assert client.receive()
        for event in client.events:
            assert not isinstance(event, h2.events.ConnectionTerminated)
            if isinstance(event, h2.events.DataReceived):
                got += len(event.data or b"")
                left = event.flow_controlled_length or 0
                while left:
                    piece = min(4096, left)
                    left -= piece
                    with contextlib.suppress(h2.exceptions.StreamClosedError):  # the end came too
                        client.h2.increment_flow_control_window(piece, number)
                    client.h2.increment_flow_control_window(piece)
        client.events.clear()
        client.flush()


# Ways to have a server of HTTP/1.1 read another request than the one that was checked


@pytest.mark.parametrize("protocol", ["h2c", "not a token", "websocket"])
def test_a_connect_that_is_no_tunnel_carries_no_bytes(
    client: Client, origin: Origin, running: Balancer, protocol: str
) -> None:
    """The data of an extended CONNECT are not a body; before a tunnel stands they may reach nobody."""
    number = client.h2.get_next_available_stream_id()
    head = [(":method", "CONNECT"), (":protocol", protocol), (":scheme", "http"), (":authority", "a")]
    client.h2.send_headers(number, [*head, (":path", "/first")])
    client.h2.send_data(number, b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", end_stream=True)
    client.flush()
    with contextlib.suppress(ConnectionError):
        client.answer(number)
    nothing_left(running, 1)
    assert client.answer(client.request("/after"))[0][0] == (":status", "200")
    assert not any(b"/smuggled" in head for head in origin.heads)


def test_a_connect_whose_upgrade_is_declined_is_not_a_tunnel(client: Client, running: Balancer) -> None:
    """A 2xx would say that there is one."""
    for path in ("/", "/chunked", "/204"):
        number = client.h2.get_next_available_stream_id()
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "a")]
        client.h2.send_headers(number, [*head, (":path", path)])
        client.flush()
        assert client.answer(number)[0][0] == (":status", "502")
    nothing_left(running, 1)


@pytest.mark.parametrize("how", ["no body", "short of it", "short, with trailers", "more"])
def test_a_body_of_another_length_than_said_is_not_passed_on(
    client: Client, origin: Origin, running: Balancer, refused: int, how: str
) -> None:
    """RFC 9113 §8.1.1; the server would take the next request for the rest of this one."""
    attacker = Client(running.port)
    length = ("content-length", "30")
    number = attacker.request("/", length, method="POST", end=how == "no body")
    if how != "no body":
        attacker.h2.send_data(number, b"x" * (40 if how == "more" else 10), end_stream=how == "short of it")
        if how == "short, with trailers":
            attacker.h2.send_headers(number, [("x-sum", "1")], end_stream=True)
        attacker.flush()
    with contextlib.suppress(ConnectionError, EOFError):
        assert attacker.answer(number)[0][0] == (":status", "400")
    attacker.sock.close()
    running.wait("refused", lambda status: status["totals"]["refused"] == refused + 1)
    nothing_left(running, 1)
    assert client.answer(client.request("/after"))[1] == b"/after"


GET: Fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]


def but(name: str, value: str) -> Fields:
    """GET, with one pseudo-header field changed."""
    return [(other, value if other == name else old) for other, old in GET]


@pytest.mark.parametrize(
    "fields",
    [
        *(but(":method", method) for method in ("GET /x HTTP/1.1\r\nA:", "GE T", "G\tT", "", "TRACE")),
        but(":method", "CONNECT"),
        *(but(":path", path) for path in ("", "x", "*", "/ HTTP/1.1", "/\r\nA: b", "/\t", "/#x", "/\x7f")),
        *(but(":path", path) for path in ("http://b/", "//\x00", "/\xff")),
        *(but(":authority", host) for host in ("a b", "u@a", "a/b", "a\r\nX: y", "a:b", "a\\b", "\xe9")),
        [*GET, ("host", "b")],
        [*GET, ("host", "b"), ("host", "a")],
        [*GET, (":path", "/b")],
        [*GET, (":authority", "b")],
        [*GET, ("x", "y"), (":path", "/b")],
        [*GET, (":unknown", "x")],
        [*GET, (":status", "200")],
        *([*GET, (name, "x")] for name in ("X-Upper", "x ", " x", "x:", "x\r\ny", "x\ty", "", "x\x00")),
        [*GET, ("\xe9", "x")],
        *([*GET, ("x", value)] for value in ("a\r\nb: c", "a\nb", "a\rb", "a\x00", "a\x01", "a\x7f", " a")),
        [*GET, ("x", "a ")],
        *([*GET, (name, "x")] for name in ("connection", "keep-alive", "proxy-connection", "upgrade")),
        [*GET, ("transfer-encoding", "chunked")],
        [*GET, ("te", "gzip")],
        [*GET, ("te", "trailers, chunked")],
        *([*GET, ("content-length", value)] for value in ("1", "+0", "-0", "0x0", "0, 0", "", " 0", "\xb2")),
        [*GET, ("content-length", "0 ")],
        [*GET, ("content-length", "0"), ("content-length", "0")],
        [*GET, ("content-length", "0"), ("content-length", "5")],
        [*GET, ("expect", "x")],
        GET[:3],
        GET[1:],
        [GET[0], *GET[2:]],
    ],
)
def test_what_http_1_could_read_otherwise_is_not_passed_on(
    running: Balancer, origin: Origin, fields: Fields
) -> None:
    attacker = Client(running.port)
    number = attacker.h2.get_next_available_stream_id()
    attacker.h2.send_headers(number, fields, end_stream=True)
    attacker.flush()
    with contextlib.suppress(ConnectionError, EOFError):
        assert attacker.answer(number)[0][0][1] in ("400", "405", "417")
    attacker.sock.close()
    assert origin.heads == []
