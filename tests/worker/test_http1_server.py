"""HTTP/1 towards servers: bytes in and what the codec tells its exchange; the vocabulary in and bytes out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.config.model import Limits
from pylb.worker.reasons import Reason
from tests.worker.server_line import CHUNKED, HINTS, OK, OPEN, SIZED, SWITCH, UPGRADE, Line
from tests.worker.stand_ins import GET, HEAD, POST, Fault


@pytest.fixture
def line() -> Line:
    return Line()


# Responses


def test_a_small_response_passes_as_it_came(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    assert line.transport.take() == GET.printed()
    assert line.comes(OK + b"ok") == [("response", 200, b"ok", True)]
    assert line.exchange.buffers == [(OK + b"ok", len(OK))]
    assert line.pooled and line.codec.due() == line.core.timeouts.server_idle


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ((OK, b"o", b"k"), [("response", 200, b"", False), ("response_body", b"o"), ("response_body", b"k")]),
        ((OK[:20], OK[20:] + b"ok"), [("response", 200, b"ok", True)]),
        (
            (CHUNKED + b"2\r\nok\r\n", b"1\r\n!\r\n", b"0\r\nA: b\r\n\r\n"),
            [("response", 200, b"ok", False), ("response_body", b"!")],
        ),
        ((CHUNKED + b"2;x=y\r\nok\r\n0\r\n\r\n",), [("response", 200, b"ok", False)]),
        ((HINTS + HINTS, OK + b"ok"), [("interim", 103), ("interim", 103), ("response", 200, b"ok", True)]),
        ((HINTS + OK + b"ok",), [("interim", 103), ("response", 200, b"ok", True)]),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), [("response", 204, b"", True)]),
        ((b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",), [("response", 304, b"", True)]),
    ],
)
def test_what_is_told_of_a_response(line: Line, pieces: tuple[bytes, ...], told: list[object]) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    got = line.comes(*pieces)
    assert got[: len(told)] == told
    if len(got) > len(told):
        (end,) = got[len(told) :]
        assert end == ("response_end", [b"A: b"] if b"A: b" in pieces[-1] else [])
    assert line.pooled and not line.transport.closed


def test_connections_of_one_backend_share_the_head_that_all_answer_with(line: Line) -> None:
    other = Line(core=line.core)
    for one in (line, other):
        one.codec.request(one.exchange, GET, b"", True)
        assert one.comes(OK + b"ok") == [("response", 200, b"ok", True)]
    assert other.codec.head is line.codec.head and other.codec.raw_head is line.codec.raw_head
    other.fresh()
    other.codec.request(other.exchange, HEAD, b"", True)  # the same bytes are another message now
    assert other.comes(OK) == [("response", 200, b"", True)]
    line.fresh()
    line.codec.request(line.exchange, GET, b"", True)
    assert line.comes(OK, b"ok")[-1] == ("response_end", [])


def test_the_answer_to_head_has_no_body_whatever_it_says(line: Line) -> None:
    line.codec.request(line.exchange, HEAD, b"", True)
    assert line.comes(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n") == [("response", 200, b"", True)]
    assert line.pooled
    # The same head again is the answer to another method now.
    line.codec.request(line.fresh(), GET, b"", True)
    assert line.comes(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"hello") == [
        *(("response", 200, b"", False), ("response_body", b"hello"), ("response_end", [])),
    ]


def test_a_body_to_the_end_of_the_connection(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    assert line.comes(OPEN + b"as", b"much") == [("response", 200, b"as", False), ("response_body", b"much")]
    assert not line.codec.eof_received()
    assert line.exchange.take() == [("response_end", [])]
    assert line.transport.closed and not line.pooled
    line.codec.connection_lost(None)
    assert line.exchange.take() == []


@given(
    st.lists(st.binary(min_size=1, max_size=30), max_size=5),
    st.sampled_from(["length", "chunked"]),
    st.lists(st.integers(1, 40), max_size=20),
)
def test_however_a_response_is_cut_its_body_is_the_same(
    pieces: list[bytes], framing: str, cuts: list[int]
) -> None:
    body = b"".join(pieces)
    if framing == "length":
        raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    else:
        raw = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    line = Line()
    line.codec.request(line.exchange, GET, b"", True)
    position = 0
    for size in [*cuts, len(raw)]:
        if position < len(raw):
            line.codec.data_received(raw[position : position + size])
        position += size
    assert line.exchange.got("response") == body
    assert line.exchange.words()[-1] == "response_end" or line.exchange.told[-1][-1] is True
    assert line.pooled


# What ends the connection


def test_what_comes_behind_a_response_is_told_to_nobody(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    assert line.comes(OK + b"ok!") == [("response", 200, b"ok", True)]
    assert line.transport.closed and not line.pooled


def test_what_nobody_has_asked_for_closes(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    line.comes(OK + b"ok")
    assert line.comes(b"H") == []
    assert line.transport.closed and not line.pooled


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
def test_who_serves_again(private: bool, close: bytes) -> None:
    line = Line(private)
    line.codec.request(line.exchange, GET, b"", True)
    told = line.comes(b"HTTP/1.1 200 OK\r\n" + close + b"Content-Length: 0\r\n\r\n")
    assert line.pooled is (not private and not close)
    assert (("keep", False) in told) is (private and not close)
    assert line.transport.closed is bool(close)


def test_an_answer_before_the_end_of_the_request_ends_the_connection(line: Line) -> None:
    line.codec.request(line.exchange, POST, b"part", False)
    assert line.comes(OK + b"ok") == [("response", 200, b"ok", True)]
    assert line.transport.closed and not line.pooled


@pytest.mark.parametrize("end", ["eof", "lost", "broken"])
@pytest.mark.parametrize(
    ("reused", "came", "reason"),
    [
        (False, b"", Reason.SERVER_GONE),
        (True, b"", Reason.SERVER_STALE),
        (True, b"\r\n", Reason.SERVER_STALE),
        (True, HINTS, Reason.SERVER_GONE),
        (True, b"HTTP/1", Reason.SERVER_GONE),
        (True, OK + b"o", Reason.SERVER_GONE),
        (True, CHUNKED + b"1\r\nx\r\n", Reason.SERVER_GONE),
    ],
)
def test_why_a_server_is_gone(line: Line, end: str, reused: bool, came: bytes, reason: Reason) -> None:
    if reused:
        line.codec.request(line.exchange, GET, b"", True)
        line.comes(OK + b"ok")
        line.server.pool.leave(line.codec)
    exchange = line.fresh()
    line.codec.request(exchange, GET, b"", True)
    if came:
        line.comes(came)
    if end == "eof":
        line.codec.eof_received()
    line.codec.connection_lost(ConnectionResetError() if end == "broken" else None)
    assert exchange.told[-1] == ("server_gone", reason)
    assert line.transport.closed and not line.pooled
    assert line.codec not in line.core.server_connections


def test_an_open_end_that_broke_is_no_end(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    line.comes(OPEN + b"as")
    line.codec.connection_lost(ConnectionResetError())
    assert line.exchange.take() == [("server_gone", Reason.SERVER_GONE)]


@pytest.mark.parametrize(
    "pieces",
    [
        (b"NONSENSE\r\n\r\n",),
        (OK.replace(b"\r\n\r\n", b"\r\nA: " + b"b" * 2000 + b"\r\n\r\n"),),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 500, b"b" * 600),
        (CHUNKED + b"zz\r\n",),
        (SWITCH,),
    ],
)
def test_bad_responses(pieces: tuple[bytes, ...]) -> None:
    line = Line(limits=Limits(header_bytes=1000))
    line.codec.request(line.exchange, GET, b"", True)
    assert line.comes(*pieces) == [("server_gone", Reason.SERVER_BAD)]
    assert line.transport.closed and not line.pooled


def test_chunks_that_break_later(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    assert line.comes(CHUNKED + b"2\r\nok\r\n", b"zz\r\n") == [
        *(("response", 200, b"ok", False), ("server_gone", Reason.SERVER_BAD)),
    ]


def test_the_pool_forgets_what_the_server_has_closed(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    line.comes(OK + b"ok")
    line.codec.eof_received()
    assert not line.pooled and line.codec.closed


def test_what_is_idle_for_too_long_is_closed(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    assert line.codec.due() > 1000  # the exchange has a deadline
    line.comes(OK + b"ok")
    assert line.codec.due() < math.inf
    line.codec.expire()
    assert not line.pooled and line.transport.closed


# Requests


@pytest.mark.parametrize(("head", "body"), [(GET, b""), (SIZED, b"0123456789"), (SIZED, b"x" * 20_000)])
def test_a_request_goes_out_with_its_body(line: Line, head: object, body: bytes) -> None:
    line.codec.request(line.exchange, head, body, True)  # type: ignore[arg-type]
    assert line.transport.take() == head.printed() + body  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("first", "pieces", "trailers"),
    [(b"", [b"one", b"two"], []), (b"one", [b"two"], [b"A: b", b"C: d"]), (b"one", [], [b"A: b"])],
)
def test_a_body_of_unknown_length_goes_out_in_chunks(
    line: Line, first: bytes, pieces: list[bytes], trailers: list[bytes]
) -> None:
    line.codec.request(line.exchange, POST, first, False)
    for piece in pieces:
        line.codec.body(piece)
    line.codec.end(trailers)
    end = b"0\r\n" + b"".join(one + b"\r\n" for one in trailers) + b"\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in [first, *pieces] if one)
    assert line.transport.take() == POST.printed() + chunks + end
    line.comes(OK + b"ok")
    assert line.pooled


@pytest.mark.parametrize("body", [b"one", b""])
def test_a_body_of_unknown_length_that_is_whole_at_once(line: Line, body: bytes) -> None:
    """As it comes by HTTP/2, and while a server is connected to."""
    line.codec.request(line.exchange, POST, body, True)
    chunk = b"3\r\none\r\n" if body else b""
    assert line.transport.take() == POST.printed() + chunk + b"0\r\n\r\n"
    line.comes(OK + b"ok")
    assert line.pooled


def test_a_body_that_came_in_chunks_goes_out_as_it_came(line: Line) -> None:
    line.codec.request(line.exchange, POST, b"3;x=y\r\none\r", False, [(7, 10)])
    line.codec.body(b"\n", [])
    line.codec.body(b"0004\r\ntwo!\r\n0\r\nA: b\r\n\r\n", [(6, 10)])
    line.codec.end([b"A: b"])
    assert line.transport.take() == POST.printed() + (b"3;x=y\r\none\r\n0004\r\ntwo!\r\n0\r\nA: b\r\n\r\n")
    line.comes(OK + b"ok")
    assert line.pooled


def test_in_chunks_from_the_second_piece_on(line: Line) -> None:
    line.codec.request(line.exchange, POST, b"", False)
    line.codec.body(b"3\r\none\r\n0\r\n\r\n", [(3, 6)])
    line.codec.end([])
    assert line.transport.take() == POST.printed() + b"3\r\none\r\n0\r\n\r\n"


def test_how_one_request_was_framed_is_not_how_the_next_one_is(line: Line) -> None:
    line.codec.request(line.exchange, POST, b"one", True)
    line.comes(OK + b"ok")
    line.transport.take()
    line.server.pool.leave(line.codec)
    line.codec.request(line.fresh(), SIZED, b"", False)
    line.codec.body(b"0123456789")
    line.codec.end([])
    assert line.transport.take() == SIZED.printed() + b"0123456789"


def test_a_body_of_known_length_goes_out_as_it_is(line: Line) -> None:
    line.codec.request(line.exchange, SIZED, b"0123", False)
    line.codec.body(b"456789")
    line.codec.end([])
    assert line.transport.take() == SIZED.printed() + b"0123456789"
    line.comes(OK + b"ok")
    assert line.pooled


# Flow control, tunnels, errors


def test_pause_and_resume(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    line.codec.pause()
    assert not line.transport.reading
    line.codec.resume()
    assert line.transport.reading
    line.codec.pause_writing()
    line.codec.resume_writing()
    assert line.exchange.take() == [("server_full",), ("server_ready",)]


def test_one_that_was_held_back_by_the_last_piece_is_read_again(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    line.exchange.answers["response_body"] = line.codec.pause
    line.comes(OK, b"ok")
    assert line.pooled and line.transport.reading


def test_an_idle_connection_has_nobody_to_hold_back(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    line.comes(OK + b"ok")
    line.codec.pause_writing()
    line.codec.resume_writing()
    assert line.exchange.take() == []


def test_an_upgrade_becomes_a_pipe_with_what_has_come_already(line: Line) -> None:
    line.codec.request(line.exchange, UPGRADE, b"", True)
    assert b"Upgrade: x\r\n" in line.transport.take()
    assert line.comes(SWITCH + b"early") == [("switched", b"x")]
    line.codec.tunnel()
    assert line.codec not in line.core.server_connections
    assert line.codec.closed and not line.transport.closed
    line.codec.abort()  # it is not its own any more
    assert not line.transport.closed


def test_a_client_that_leaves_closes_it(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    line.codec.abort()
    assert line.transport.aborted
    line.codec.connection_lost(None)
    assert line.exchange.take() == []


@pytest.mark.parametrize("word", ["response", "interim", "response_body", "response_end"])
def test_an_error_of_the_exchange_is_handed_back_to_it(line: Line, word: str) -> None:
    exchange = line.exchange
    exchange.raises = word
    line.codec.request(exchange, GET, b"", True)
    told = line.comes(HINTS + CHUNKED + b"1\r\na\r\n")
    if not line.transport.closed:
        told = line.comes(b"1\r\nb\r\n0\r\n\r\n")
    assert told[-1] == ("crashed", Fault)
    assert line.transport.aborted and not line.pooled


@pytest.mark.parametrize("callback", ["eof_received", "pause_writing", "resume_writing"])
def test_an_error_in_a_callback_is_handed_back_too(line: Line, callback: str) -> None:
    word = {"eof_received": "server_gone", "pause_writing": "server_full", "resume_writing": "server_ready"}
    line.codec.request(line.exchange, GET, b"", True)
    line.exchange.raises = word[callback]
    getattr(line.codec, callback)()
    assert line.exchange.take()[-1] == ("crashed", Fault)
    assert line.transport.aborted


def test_an_error_without_an_exchange_is_counted(line: Line) -> None:
    line.core.errors = []
    line.codec.request(line.exchange, GET, b"", True)
    line.comes(OK + b"ok")
    abort = line.transport.abort

    def raises_once() -> None:
        line.transport.abort = abort  # type: ignore[method-assign]
        raise Fault

    line.transport.abort = raises_once  # type: ignore[method-assign]
    line.codec.expire()
    assert [type(error) for error in line.core.errors] == [Fault]
    assert line.transport.aborted and not line.pooled
