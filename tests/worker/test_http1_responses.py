"""HTTP/1 towards clients: the vocabulary in, and bytes out."""

from __future__ import annotations

from typing import Any

import pytest

from pylb.scoreboard import Field
from pylb.worker.client.lingering import Lingering
from pylb.worker.reasons import Reason
from tests.worker.http1_line import CLOSE, GET, OLD, OLD_KEPT, POST, Line
from tests.worker.stand_ins import OK, STREAM, response_head

OPEN = response_head(b"HTTP/1.1 200 OK\r\n\r\n")
HINTS = response_head(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n")


@pytest.mark.parametrize("request_", [GET, OLD_KEPT])
def test_who_stays(line: Line, request_: bytes) -> None:
    line.comes(request_)
    out = line.answer()
    if request_ is GET:
        assert out == OK.out + b"ok"  # as it came
    else:
        assert out == OK.out[:-2] + b"Connection: keep-alive\r\n\r\nok"
    assert not line.transport.closed and not line.codec.busy
    assert line.codec.due() == line.core.timeouts.keep_alive


@pytest.mark.parametrize("why", ["client", "old", "recalled", "last"])
def test_who_is_told_to_go(line: Line, why: str) -> None:
    if why == "recalled":
        line.codec.recall()
    line.comes({"client": CLOSE, "old": OLD}.get(why, GET))
    if why == "last":
        line.codec.last()
    assert line.answer() == OK.out[:-2] + b"Connection: close\r\n\r\nok"
    assert line.transport.closed
    assert line.comes(GET) == [] or line.transport.closed


def test_a_body_in_chunks(line: Line) -> None:
    line.comes(GET)
    line.codec.respond(STREAM, b"one", 0, False)
    line.codec.body(b"two!")
    line.codec.end([b"A: b"])
    assert line.transport.take() == STREAM.out + b"3\r\none\r\n4\r\ntwo!\r\n0\r\nA: b\r\n\r\n"
    assert not line.transport.closed
    # The next response's framing is its own.
    line.comes(GET)
    assert line.answer() == OK.out + b"ok"


_CHUNKS = b"3;x=y\r\none\r\n4\r\ntwo!\r\n"
_SPANS = [(7, 10), (15, 19)]


@pytest.mark.parametrize("request_", [GET, CLOSE])
@pytest.mark.parametrize("changed", [False, True])
def test_a_body_that_came_in_chunks_goes_out_as_it_came(line: Line, request_: bytes, changed: bool) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + b"Keep-Alive: 5\r\n" * changed + b"\r\n"
    at = len(raw)
    line.comes(request_)
    spans = [(start + at, end + at) for start, end in _SPANS]
    line.codec.respond(response_head(raw), raw + _CHUNKS, at, False, spans)
    line.codec.body(b"0\r\nA: b\r", [])
    line.codec.body(b"\n\r\n", [])
    line.codec.end([b"A: b"])
    out = STREAM.out[:-2] + b"Connection: close\r\n" * (request_ is CLOSE) + b"\r\n"
    assert line.transport.take() == out + _CHUNKS + b"0\r\nA: b\r\n\r\n"
    assert line.transport.closed is (request_ is CLOSE)


@pytest.mark.parametrize("request_", [OLD, OLD_KEPT])
def test_of_a_body_in_chunks_http_1_0_gets_the_contents(line: Line, request_: bytes) -> None:
    at = len(STREAM.out)
    line.comes(request_)
    spans = [(start + at, end + at) for start, end in _SPANS]
    line.codec.respond(STREAM, STREAM.out + _CHUNKS, at, False, spans)
    line.codec.body(_CHUNKS, _SPANS)
    line.codec.body(b"0\r\nA: b\r\n\r\n", [])
    line.codec.end([b"A: b"])
    assert line.transport.take() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonetwo!onetwo!"
    assert line.transport.closed


@pytest.mark.parametrize("head", [STREAM, OPEN])
def test_to_http_1_0_only_the_close_ends_a_body_of_unknown_length(line: Line, head: Any) -> None:
    line.comes(OLD_KEPT)
    line.codec.respond(head, b"one", 0, False)
    line.codec.body(b"two")
    line.codec.end([b"A: b"])
    assert line.transport.take() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonetwo"
    assert line.transport.closed


def test_an_open_end_ends_with_the_connection(line: Line) -> None:
    line.comes(GET)
    line.codec.respond(OPEN, OPEN.out + b"one", len(OPEN.out), False)
    line.codec.body(b"two")
    line.codec.end([])
    assert line.transport.take() == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonetwo"
    assert line.transport.closed


@pytest.mark.parametrize("size", [0, 10, 16384, 100_000])
@pytest.mark.parametrize("request_", [GET, CLOSE])
def test_head_and_body_whatever_their_size(line: Line, size: int, request_: bytes) -> None:
    head = response_head(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    line.comes(request_)
    line.codec.respond(head, head.out + b"x" * size, len(head.out), True)
    out = line.transport.take()
    assert out.partition(b"\r\n\r\n")[2] == b"x" * size
    assert line.core.counters[Field.BYTES_OUT] == len(out)


def test_a_changed_head_goes_out_instead_of_the_one_that_came(line: Line) -> None:
    raw = b"HTTP/1.1 200 OK\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\n"
    head = response_head(raw)
    line.comes(GET)
    line.codec.respond(head, raw + b"ok", len(raw), True)
    assert line.transport.take() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_interim_responses_are_for_http_1_1(line: Line) -> None:
    line.comes(GET)
    line.codec.interim(HINTS)
    assert line.transport.take() == HINTS.out
    line.answer()
    line.comes(OLD_KEPT)
    line.codec.interim(HINTS)
    assert line.transport.take() == b""


def test_an_answer_before_the_end_of_the_request(line: Line) -> None:
    line.comes(POST + b"half")
    out = line.answer()
    assert out == OK.out[:-2] + b"Connection: close\r\n\r\nok"
    assert line.transport.finished and not line.transport.closed
    assert line.comes(b"other half", GET) == []
    line.core.stand_in.run_later()
    assert not line.transport.closed
    line.core.stand_in.run_later()
    assert line.transport.aborted


def test_a_response_that_begins_before_the_end_of_the_request_and_ends_behind_it(line: Line) -> None:
    line.comes(POST + b"half")
    line.codec.respond(STREAM, b"one", 0, False)
    assert line.comes(b"other!")[-1] == ("request_end", [])
    line.codec.end([])
    assert not line.transport.closed
    assert line.comes(GET) == [("request", b"GET", b"", True)]


def test_an_abort_is_a_reset(line: Line) -> None:
    line.comes(GET)
    line.codec.respond(STREAM, b"one", 0, False)
    line.codec.abort(Reason.SERVER_GONE)
    assert line.transport.aborted
    line.codec.connection_lost(None)
    assert line.told == []
    assert not line.core.clients


# A client that still sends after its response (RFC 9112 §9.6)


def _lingering(line: Line) -> None:
    line.comes(POST + b"half")
    line.answer()
    assert line.transport.finished and not line.transport.closed


def test_a_client_that_goes_on_sending_can_read_its_response(line: Line) -> None:
    _lingering(line)
    for _ in range(5):
        assert line.comes(b"x" * 100_000) == []
        line.core.stand_in.clock += 5.0
        line.core.stand_in.run_later()
        line.codec.expire()
        line.codec.drain()
        assert not line.transport.closed
    line.core.stand_in.run_later()  # nothing came meanwhile
    assert line.transport.aborted


def test_it_may_go_on_for_so_long(line: Line) -> None:
    _lingering(line)
    for _ in range(6):
        line.comes(b"x")
        assert not line.transport.closed
        line.core.stand_in.clock += 5.0
        line.core.stand_in.run_later()
    assert line.transport.aborted


def test_it_may_send_so_much(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lingering, "BYTES", 1000)
    _lingering(line)
    line.comes(b"x" * 1000)
    assert not line.transport.closed
    line.comes(b"x")
    assert line.transport.aborted


def test_a_response_that_is_not_taken_meanwhile_has_the_clients_time(line: Line) -> None:
    line.transport.unsent = 10
    _lingering(line)
    for unsent in (8, 4):
        line.transport.unsent = unsent
        line.core.stand_in.run_later()
        line.codec.expire()
        assert not line.transport.closed
    line.codec.expire()
    assert line.transport.aborted
