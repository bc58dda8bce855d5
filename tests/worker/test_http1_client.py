"""HTTP/1 towards clients: bytes in, and what the codec tells its exchange; ends, tunnels, errors."""

from __future__ import annotations

import asyncio
import math
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.config.model import Limits
from pylb.http.errors import error
from pylb.http.request import RequestHead
from pylb.scoreboard import Field
from pylb.worker.client import http1requests
from pylb.worker.reasons import Reason
from pylb.worker.sides import FromPipe
from pylb.worker.tunnel import Tunnel
from tests.worker.http1_line import CHUNKED, GET, POST, Line
from tests.worker.stand_ins import SWITCH, FakePipe, Fault

# Requests


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ((GET,), [("request", b"GET", b"", True)]),
        ((b"\r\n" + GET[:3], GET[3:]), [("request", b"GET", b"", True)]),
        ((POST + b"0123456789",), [("request", b"POST", b"0123456789", True)]),
        (
            (POST + b"01234", b"56789"),
            [("request", b"POST", b"01234", False), ("request_body", b"56789"), ("request_end", [])],
        ),
        ((POST, b"01"), [("request", b"POST", b"", False), ("request_body", b"01")]),
        ((CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",), [("request", b"POST", b"abc", True)]),
        (
            (CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n\r\n",),
            [("request", b"POST", b"abc", False), ("request_end", [b"A: b"])],
        ),
        # The trailers have come, and the empty line behind them has not.
        (
            (CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n",),
            [("request", b"POST", b"abc", False)],
        ),
        (
            (CHUNKED, b"3\r\na", b"bc\r\n0\r\n", b"A: b\r\n\r\n"),
            [
                *(("request", b"POST", b"", False), ("request_body", b"a"), ("request_body", b"bc")),
                ("request_end", [b"A: b"]),
            ],
        ),
    ],
)
def test_what_is_told_of_a_request(line: Line, pieces: tuple[bytes, ...], told: list[Any]) -> None:
    assert line.comes(*pieces) == told
    assert line.core.counters[Field.BYTES_IN] == sum(map(len, pieces))
    assert line.codec.busy


@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=20), max_size=3), min_size=1, max_size=4),
    st.booleans(),
    st.lists(st.integers(1, 60), max_size=30),
)
def test_however_requests_are_cut_they_are_the_same(
    bodies: list[list[bytes]], chunked: bool, cuts: list[int]
) -> None:
    """Several on one connection, each answered when it is whole."""
    raw = b""
    for pieces in bodies:
        body = b"".join(pieces)
        if chunked:
            raw += CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"
        else:
            raw += b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    line = Line()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http1requests, "begin", line.begin)
        position = 0
        for size in [*cuts, len(raw)]:
            if position < len(raw):
                line.codec.data_received(raw[position : position + size])
            position += size
            while line.codec.exchange is not None and line.codec.body_done:
                line.answer()
    assert [one.got("request") for one in line.exchanges] == [b"".join(pieces) for pieces in bodies]
    for one in line.exchanges:
        ends = [told for told in one.told if told[0] == "request_end" or told[-1] is True]
        assert len(ends) == 1
    assert not line.codec.busy and line.codec.buffer == b""


def test_the_beginning_of_a_head_in_pieces_is_noted(line: Line) -> None:
    line.comes(GET[:5])
    assert line.codec.due() == line.core.timeouts.request
    line.comes(GET[5:])
    (exchange,) = line.exchanges
    assert exchange.tx.first_byte_ns > 0
    line.answer()
    line.comes(GET)
    assert line.exchanges[1].tx.first_byte_ns == 0


@pytest.mark.parametrize(
    ("pieces", "status", "reason"),
    [
        ((b"NONSENSE\r\n\r\n",), 400, "request_line"),
        ((b"GET /" + b"a" * 9000,), 414, "line_bytes"),
        ((b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 4000,), 431, "header_bytes"),
        ((CHUNKED + b"zz\r\n",), 400, "chunk"),
    ],
)
def test_what_is_refused(line: Line, pieces: tuple[bytes, ...], status: int, reason: str) -> None:
    assert line.comes(*pieces) == [("refuse", status, reason)]
    line.codec.respond(error(status).head, error(status).body, 0, True)
    assert b"\r\nConnection: close\r\n" in line.transport.take()
    assert line.transport.finished  # and what still comes is read and dropped
    assert line.comes(GET) == []


def test_chunks_that_break_later_are_refused(line: Line) -> None:
    assert line.comes(CHUNKED, b"3\r\nabcd") == [("request", b"POST", b"", False), ("refuse", 400, "chunk")]


# One after the other


def test_pipelined_requests_wait_for_their_turn(line: Line) -> None:
    assert line.comes(GET + POST + b"01234", b"56789" + GET) == [("request", b"GET", b"", True)]
    line.answer()
    assert line.told == [("request", b"POST", b"0123456789", True)]
    line.answer()
    assert line.told == [("request", b"GET", b"", True)]
    line.answer()
    assert not line.codec.busy and line.told == []


def test_it_reads_ahead_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(Limits(pipelined_bytes=1000))
    monkeypatch.setattr(http1requests, "begin", line.begin)
    line.comes(GET)
    line.comes(GET * 20)
    assert line.transport.reading
    line.comes(GET * 30)
    assert not line.transport.reading
    line.codec.resume()  # says the exchange, but it is the codec that has too much
    assert not line.transport.reading
    for _ in range(50):
        line.answer()
    assert line.transport.reading
    assert len(line.exchanges) == 51


def test_pause_and_resume(line: Line) -> None:
    line.comes(POST)
    line.codec.pause()
    assert not line.transport.reading
    line.codec.resume()
    assert line.transport.reading
    line.codec.pause_writing()
    line.codec.resume_writing()
    assert line.told == [("client_full",), ("client_ready",)]


def test_one_that_is_paused_at_the_end_is_read_again(line: Line) -> None:
    line.comes(POST + b"01234")
    line.codec.pause()
    line.comes(b"56789")
    line.answer()
    assert line.transport.reading


def test_nothing_more_is_read_from_who_does_not_take_the_response(line: Line) -> None:
    line.comes(GET + GET)
    line.codec.pause_writing()
    line.answer()
    assert line.told == [("client_full",)]
    assert line.codec.due() < math.inf
    line.codec.resume_writing()
    line.core.stand_in.run()
    assert line.told == [("request", b"GET", b"", True)]


# Ends


@pytest.mark.parametrize("half_close", [True, False])
def test_a_half_closed_client_gets_its_answer(line: Line, half_close: bool) -> None:
    """Not with TLS, which has no half-close."""
    line.transport.half_close = half_close
    line.comes(GET)
    assert bool(line.codec.eof_received()) is half_close
    assert line.told == []
    line.answer()
    assert line.transport.closed


def test_a_client_that_closes_within_its_body_is_cut_off(line: Line) -> None:
    line.comes(POST + b"half")
    assert not line.codec.eof_received()
    assert line.transport.aborted
    line.codec.connection_lost(None)
    assert line.told == [("client_gone", Reason.CLIENT_GONE)]


def test_pipelined_requests_are_served_after_a_half_close(line: Line) -> None:
    line.comes(GET + GET)
    assert line.codec.eof_received()
    assert line.answer() != b""
    assert line.told == [("request", b"GET", b"", True)]
    assert not line.transport.closed
    line.answer()
    assert line.transport.closed


@pytest.mark.parametrize("broken", [None, ConnectionResetError()])
@pytest.mark.parametrize(
    ("came", "told"),
    [
        ((), []),
        ((GET[:9],), [("never", Reason.CLIENT_GONE)]),
        ((GET,), [("client_gone", Reason.CLIENT_GONE)]),
        ((POST + b"half",), [("client_gone", Reason.CLIENT_GONE)]),
    ],
)
def test_a_connection_that_ends(
    line: Line, came: tuple[bytes, ...], told: list[Any], broken: Exception | None
) -> None:
    line.comes(*came)
    assert line.codec in line.core.clients
    line.codec.connection_lost(broken)
    assert line.told == told
    assert not line.core.clients


@pytest.mark.parametrize(
    ("wanted", "comes", "fresh", "told"),
    [
        (True, b"", True, [("never", Reason.CLIENT_GONE)]),
        (False, b"", True, []),
        (True, b"", False, []),
        (False, GET[:5], False, [("never", Reason.CLIENT_GONE)]),
    ],
)
def test_who_says_nothing_is_told_where_that_is_wanted(
    line: Line, wanted: bool, comes: bytes, fresh: bool, told: list[Any]
) -> None:
    line.codec.bind.frontend.tells_all = wanted
    line.codec.fresh = fresh
    if comes:
        line.comes(comes)
    line.codec.connection_lost(None)
    assert line.told == told


def test_of_who_has_said_something_it_is_known(line: Line) -> None:
    line.codec.bind.frontend.tells_all = True
    line.comes(GET)
    line.answer()
    line.codec.facts.requests = 1
    line.codec.connection_lost(None)
    assert "never" not in [word for word, *_ in line.told]


def test_an_idle_connection_is_closed_in_time(line: Line) -> None:
    assert line.codec.due() == line.core.timeouts.keep_alive
    line.codec.expire()
    assert line.transport.closed and not line.transport.aborted
    assert line.told == [] and line.core.counters[Field.TIMEOUTS] == 0


def test_half_a_head_is_refused_in_time(line: Line) -> None:
    line.comes(GET[:9])
    line.codec.expire()
    assert line.told == [("refuse", 408, "timeout")]
    assert line.core.counters[Field.TIMEOUTS] == 1


def test_with_an_exchange_the_deadline_is_the_exchanges(line: Line) -> None:
    line.comes(GET)
    line.exchanges[0].at = 17.0
    assert line.codec.due() == 17.0
    line.codec.expire()
    assert line.told == [("expire",)]


def test_a_drained_connection_goes_when_there_is_a_good_moment(line: Line) -> None:
    line.core.now = 5.0
    line.codec.drain()  # idle for long
    assert line.transport.closed


def test_a_drained_connection_under_way_is_told_with_its_answer(line: Line) -> None:
    line.comes(GET)
    line.codec.drain()
    assert b"Connection: close" in line.answer()
    assert line.transport.closed


def test_at_a_message_boundary_it_is_offered(line: Line) -> None:
    offered: list[object] = []
    line.core.offer = offered.append
    line.comes(GET)
    line.answer()
    assert offered == []
    line.core.moves = True
    line.comes(GET)
    line.answer()
    assert offered == [line.codec]
    line.comes(POST)
    line.codec.movable = False
    line.answer()
    assert offered == [line.codec]


# Tunnels


def test_the_bytes_of_an_upgrade_are_counted_once(line: Line) -> None:
    """Those too that come before there is a tunnel, which the codec has read."""
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    line.comes(upgrade + b"early")
    near, far = line.codec.tunnel(SWITCH), FakePipe()
    Tunnel(line.core, near, far, b"", lambda *_: None, 3600.0).start()
    line.comes(b"late")
    assert far.listener is not None
    far.listener.came(b"out!")
    assert far.sent == b"earlylate"
    assert line.core.counters[Field.BYTES_IN] == len(upgrade) + len(far.sent)
    assert line.transport.take() == SWITCH.out + b"out!"
    assert line.core.counters[Field.BYTES_OUT] == len(SWITCH.out) + 4


def test_an_upgrade_becomes_a_pipe_with_what_has_come_already(line: Line) -> None:
    line.comes(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b"early")
    pipe = line.codec.tunnel(SWITCH)
    assert line.transport.take() == SWITCH.out
    assert line.codec.busy and not line.codec.movable
    assert line.codec.due() == math.inf

    class Heard(FromPipe):
        came_ = b""

        def came(self, data: bytes) -> None:
            self.came_ += data

        def ended(self) -> bool:
            return True

        def gone(self, broken: bool) -> None:
            self.came_ += b"."

        def full(self) -> None:
            raise AssertionError

        ready = full

        def crashed(self, error: Exception) -> None:
            raise error

    heard = Heard()
    pipe.start(heard)
    line.transport.protocol.data_received(b" and late")
    assert heard.came_ == b"early and late"
    line.transport.protocol.connection_lost(None)
    assert heard.came_[-1:] == b"."
    assert not line.core.clients
    assert line.told == [("request", b"GET", b"", True)] or line.told == []


# Errors of pylb's own


@pytest.mark.parametrize("word", ["request", "request_body", "request_end"])
def test_an_error_of_the_exchange_is_handed_back_to_it(line: Line, word: str) -> None:
    line.raises = word
    told = line.comes(POST, b"01234", b"56789")
    assert ("crashed", Fault) in told
    assert line.transport.aborted  # as this exchange has sent no answer


@pytest.mark.parametrize("callback", ["pause_writing", "resume_writing", "connection_lost", "expire"])
def test_an_error_in_a_callback_is_handed_back_too(line: Line, callback: str) -> None:
    words = {
        "pause_writing": "client_full",
        "resume_writing": "client_ready",
        "connection_lost": "client_gone",
    }
    line.comes(GET)
    line.exchanges[0].raises = words.get(callback, callback)
    getattr(line.codec, callback)(*([None] if callback == "connection_lost" else []))
    assert line.told[-1] == ("crashed", Fault)
    assert not line.core.clients


def test_a_head_whose_reading_raises_is_a_request_all_the_same(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestHead, "read", lambda head, raw: {}[raw])
    assert line.comes(GET) == [("crashed", KeyError)]
    assert line.exchanges[0].client is cast(object, line.codec)


def test_an_error_of_an_idle_connection_is_counted_and_costs_it(line: Line) -> None:
    line.core.errors = []

    def raises() -> None:
        raise Fault

    line.transport.close = raises  # type: ignore[method-assign]
    line.codec.expire()
    assert [type(error) for error in line.core.errors] == [Fault]
    assert line.transport.aborted and not line.core.clients


def test_the_facts_are_one_object_per_connection(line: Line) -> None:
    assert line.codec.facts.source == ("192.0.2.9", 5)
    assert isinstance(cast(asyncio.Protocol, line.codec), asyncio.Protocol)
