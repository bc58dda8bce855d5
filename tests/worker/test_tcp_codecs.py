"""The TCP codecs, one on each side of a real exchange: bytes in at one end, bytes out at the other."""

from __future__ import annotations

import errno
import math

import pytest

from pylb.scoreboard import Field
from pylb.worker.reasons import Reason
from tests.http.wire import Transport
from tests.net.test_clienthello import hello
from tests.worker.tcp_line import TIMEOUTS, Line

HELLO = hello("a.example")


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(monkeypatch).begin()


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(monkeypatch, sni=True).begin()


# Which server


async def test_without_server_names_the_first_byte_is_not_waited_for(line: Line) -> None:
    assert line.client.due() == TIMEOUTS.connect * 2 + 1
    line.connect()
    line.comes(line.near, b"in")
    line.comes(line.far, b"out!")
    assert (line.far.written, line.near.written) == (b"in", b"out!")
    line.near.close()
    assert line.over() == (None, "-", 2, 4)
    assert [line.core.counters[field] for field in (Field.BYTES_IN, Field.BYTES_OUT)] == [2, 4]


@pytest.mark.parametrize(
    ("pieces", "asked"),
    [
        ([HELLO], "named"),
        ([HELLO + b"more"], "named"),
        ([bytes([byte]) for byte in HELLO + b"more"], "named"),
        ([hello("b.example")], "usual"),
        ([hello(None)], "usual"),
        ([b"SSH-2.0-x\r\n"], "usual"),
        ([HELLO[:3], b"x" * 70_000], "usual"),
    ],
    ids=["whole", "more", "bytes", "another", "no name", "no TLS", "broken"],
)
async def test_the_name_in_a_client_hello_says_which_backend(
    named: Line, pieces: list[bytes], asked: str
) -> None:
    for piece in pieces:
        named.comes(named.near, piece)
    named.connect()
    assert named.asked == [asked] and named.far.written == b"".join(pieces)


async def test_the_name_has_a_deadline_that_its_pieces_do_not_move(named: Line) -> None:
    named.core.now = 4.0
    named.comes(named.near, *(bytes([byte]) for byte in HELLO[:-1]))
    assert named.client.due() == TIMEOUTS.request
    named.core.now = 5.1
    named.client.expire()
    named.settle()
    assert named.near.aborted and named.asked == [] and named.accounts == [(Reason.CLIENT_LATE, "R", 0, 0)]
    assert named.core.counters[Field.TIMEOUTS] == 1 and named.client.due() == math.inf


# Until there is a tunnel


async def test_a_client_that_sends_much_is_not_read_until_there_is_a_server(line: Line) -> None:
    sent = b""
    while line.near.reading and len(sent) < 200_000:
        line.comes(line.near, piece := bytes([len(sent) % 251]) * 10_000)
        sent += piece
    assert len(sent) == 70_000
    line.connect()
    assert line.far.written == sent and line.near.reading


async def test_a_client_that_leaves_while_it_is_connected_for(line: Line) -> None:
    line.comes(line.near, b"in")
    (task,) = line.core.stand_in.tasks
    line.near.close()
    line.settle()
    assert task.cancelled
    line.connect()
    assert line.asked == [] and line.accounts == [(Reason.CLIENT_GONE, "C", 0, 0)]


@pytest.mark.parametrize("half_close", [True, False])
async def test_a_client_that_ends_while_it_is_connected_for(line: Line, half_close: bool) -> None:
    """What it has sent arrives, and it is answered; with TLS there is no half-close, so it is gone."""
    line.near.half_close = half_close
    line.comes(line.near, b"in")
    line.ends(line.near)
    line.settle()
    line.connect()
    if half_close:
        assert line.far.written == b"in" and line.far.finished and not line.far.closed
        line.comes(line.far, b"out!")
        line.ends(line.far)
    assert line.near.written == (b"out!" if half_close else b"")
    assert line.over() == ((None, "-", 2, 4) if half_close else (Reason.CLIENT_GONE, "C", 0, 0))


async def test_a_client_that_ends_before_it_has_said_its_name(named: Line) -> None:
    named.comes(named.near, HELLO[:-1])
    named.ends(named.near)
    named.settle()
    assert named.near.closed and named.asked == [] and named.accounts == [(Reason.CLIENT_GONE, "R", 0, 0)]


@pytest.mark.parametrize("ends", [False, True])
async def test_what_a_server_says_first_is_kept_for_the_tunnel(line: Line, ends: bool) -> None:
    def greets(far: Transport) -> None:
        line.comes(far, b"220 ")
        assert not far.reading
        far.protocol.data_received(b"hello")  # was on its way already
        if ends:
            line.ends(far)

    line.connect(greets)
    assert line.near.written == b"220 hello" and line.far.reading
    assert line.near.finished is ends and not line.near.closed
    line.comes(line.near, b"in")
    assert line.far.written == b"in"
    line.ends(line.near)
    if not ends:
        line.ends(line.far)
    assert line.over() == (None, "-", 2, 9)


async def test_a_server_that_is_gone_before_it_is_used_is_followed_by_another(line: Line) -> None:
    line.comes(line.near, b"in")
    line.connect(lambda far: far.protocol.connection_lost(None), lambda far: None)
    assert line.asked == ["usual", "usual"] and line.far.written == b"in"
    assert line.core.counters[Field.RETRIES] == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Refused"), Reason.CONNECT_FAILED),
        (TimeoutError(), Reason.CONNECT_LATE),
    ],
)
async def test_without_a_server_the_client_is_closed(line: Line, error: OSError, reason: Reason) -> None:
    line.comes(line.near, b"in")
    line.connect(error, error)
    assert line.near.aborted and line.near.written == b""
    assert line.over()[:2] == (reason, "C")
    assert line.core.counters[Field.BYTES_IN] == 2  # was read, though nobody got it
    assert line.core.counters[Field.STATUS_5XX] == 0  # nothing was said
    assert line.core.counters[Field.REQUESTS] == 1


# The tunnel


@pytest.mark.parametrize("first", ["near", "far"])
async def test_each_direction_ends_for_itself(line: Line, first: str) -> None:
    line.connect()
    one, other = (line.near, line.far) if first == "near" else (line.far, line.near)
    line.comes(one, b"1234")
    line.ends(one)
    assert other.finished and not other.closed and not one.closed
    line.comes(other, b"1234")
    line.ends(other)
    assert one.written == other.written == b"1234"
    assert line.over() == (None, "-", 4, 4)
