"""The two sides of HTTP/1 at their edges: ends, pauses, what isn't taken."""

from __future__ import annotations

import asyncio
import math
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylb.scoreboard import Field
from pylb.worker.client.tcp import TcpConnection
from pylb.worker.exchange import Exchange
from pylb.worker.reasons import Reason
from tests.http.wire import Transport, Wire

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_server_that_was_held_back_by_the_last_piece_is_read_again() -> None:
    """Else the next request on that connection would never see its answer."""
    wire = Wire()
    wire.client_sends(GET)
    server = wire.server
    assert server is not None
    written = wire.near.write

    def full(data: bytes) -> None:
        written(data)
        wire.client.pause_writing()  # uvloop calls it from within write

    wire.near.write = full  # type: ignore[method-assign]
    wire.server_sends(OK)
    assert server in wire.upstream.pool.idle
    assert wire.servers[0].reading


def test_pipelined_requests_are_answered_though_the_client_has_closed_its_side() -> None:
    """The end came between the answer to the first and the turn of the second."""
    wire = Wire()
    wire.client.data_received(GET + GET)
    server = wire.server
    assert server is not None
    server.data_received(OK)
    assert wire.client.eof_received()
    wire.worker.stand_in.run()
    wire.server_sends(OK)
    assert wire.statuses() == [200, 200]
    assert wire.client_closed


def test_when_a_head_began_is_known_though_the_client_has_closed_its_side() -> None:
    wire = Wire()
    told: list[int] = []
    wire.frontend.on_account = (lambda tx: told.append(tx.first_byte_ns),)
    wire.client_sends(GET[:9])
    began = wire.client.first_byte_ns
    assert wire.client.eof_received()
    wire.worker.stand_in.run()
    wire.client.connection_lost(None)
    assert told == [began] and began > 0


@pytest.mark.parametrize("reason", [Reason.CLIENT_GONE, Reason.CLIENT_LATE])
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
def test_a_connection_that_ends_before_it_has_said_its_server_name_is_told_to_the_log(
    reason: Reason, said: bytes
) -> None:
    wire = Wire()
    told: list[tuple[Reason | None, str]] = []
    wire.frontend.on_account = (lambda tx: told.append((tx.reason, tx.state)),)
    bind = wire.client.bind
    bind.sni, bind.hello = {"a.example": wire.backend}, True
    client = TcpConnection(wire.worker, bind)
    transport = Transport()
    client.connection_made(cast(asyncio.BaseTransport, transport))
    if said:
        client.data_received(said)
    if reason is Reason.CLIENT_LATE:
        assert client.due() < math.inf
        client.expire()
        assert transport.aborted
    client.connection_lost(None)
    assert told == ([(reason, "R")] if said else [])


@pytest.mark.parametrize("pieces", [[GET], [GET[:9], GET[9:]], [POST, b"0123456789"]])
def test_nothing_of_a_request_is_left_for_the_next_one(pieces: list[bytes]) -> None:
    wire = Wire()
    for piece in pieces:
        wire.client_sends(piece)
    wire.server_sends(OK)
    (kept,) = wire.worker.spare
    new = Exchange(wire.worker)
    # What is set for each request, and where the last server was.
    always = {"core", "tx", "server_deadline", "client", "frontend", "backend", "index"}
    always |= {"began_ns", "ended_ns", "timeouts", "body_bytes"}
    for one, other in ((kept, new), (kept.tx, new.tx)):
        for name in set(one.__slots__) - always:
            assert getattr(one, name) == getattr(other, name), name
    assert kept.client is None
    served = list(wire.backend.times)
    wire.client_sends(b"NONSENSE\r\n\r\n")
    assert wire.backend.times == served


def test_half_a_request_is_over_when_the_client_is() -> None:
    wire = Wire()
    wire.client_sends(GET[:-2])
    wire.client.eof_received()
    wire.worker.stand_in.run()
    assert wire.client_closed


def test_a_response_that_is_taken_slowly_is_taken_and_else_the_connection_ends() -> None:
    wire = Wire()
    wire.client_sends(GET)
    wire.server_sends(OK)
    for left in (500, 400, 300):
        wire.near.unsent = left
        wire.client.expire()
        assert not wire.client_closed
    wire.client.expire()
    assert wire.client_closed


def test_requests_are_read_ahead_up_to_a_limit() -> None:
    """The depth of a pipeline is bounded in bytes; above it the client isn't read."""
    wire = Wire()
    wire.client_sends(GET)
    ahead = 0
    while wire.near.reading:
        wire.client_sends(GET * 100)
        ahead += 100 * len(GET)
    limit = wire.worker.limits.pipelined_bytes
    assert limit < ahead < limit + 101 * len(GET)
    while wire.answer():
        pass
    assert wire.near.reading
    assert wire.statuses() == [200] * (1 + ahead // len(GET))


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
def test_a_body_that_ends_with_the_connection_is_whole_unless_that_broke(error: Exception | None) -> None:
    wire = Wire()
    wire.client_sends(GET)
    server = wire.server
    assert server is not None
    wire.server_sends(b"HTTP/1.1 200 OK\r\n\r\nas much as")
    server.connection_lost(error)
    assert wire.client_closed
    assert wire.worker.counters[Field.ABORTED] == (error is not None)
    assert wire.worker.counters[Field.STATUS_2XX] == (error is None)


@pytest.mark.parametrize("length", [2, 0])
def test_an_answer_before_the_end_of_the_request_says_that_the_connection_ends(length: int) -> None:
    """RFC 9112 §9.6: as when a server declines an upload; the rest of it is read and dropped."""
    wire = Wire()
    wire.client_sends(POST + b"half ")
    wire.server_sends(b"HTTP/1.1 413 Too Large\r\nContent-Length: %d\r\n\r\n" % length + b"ok"[:length])
    assert b"\r\nConnection: close\r\n" in wire.near.written
    assert wire.client_closed
    # A server that has part of a request can't be given another one.
    assert wire.servers[0].closed
    assert wire.upstream.active[0] == 0


def _framed(pieces: list[bytes], how: str) -> tuple[bytes, bytes]:
    """Framing fields, and a body with its framing."""
    if how == "length":
        body = b"".join(pieces)
        return b"Content-Length: %d\r\n" % len(body), body
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"Transfer-Encoding: chunked\r\n", chunks + b"0\r\nA: b\r\n\r\n"


_BODY = st.tuples(
    st.lists(st.binary(min_size=1, max_size=20), max_size=3), st.sampled_from(["length", "chunked"])
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(_BODY, _BODY), min_size=1, max_size=3), st.data())
def test_bodies_pass_as_they_are_framed_however_they_are_cut(
    messages: list[tuple[tuple[list[bytes], str], tuple[list[bytes], str]]], data: st.DataObject
) -> None:
    """Several requests on one connection, in pieces, with either side held back now and then."""
    wire = Wire()
    for (body, how), (answer_body, answer_how) in messages:
        field, raw = _framed(body, how)
        answer_field, answer_raw = _framed(answer_body, answer_how)
        wire.near.take()
        to_client = b"POST / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n" + raw
        to_server = b"HTTP/1.1 200 OK\r\n" + answer_field + b"\r\n" + answer_raw
        while to_client:
            size = data.draw(st.integers(1, len(to_client)))
            wire.client_sends(to_client[:size])
            to_client = to_client[size:]
            server = wire.server
            if server is not None and data.draw(st.booleans()):
                server.pause_writing()
                assert wire.near.reading is wire.client.body_done  # else more is not wanted now
                server.resume_writing()
                assert wire.near.reading
        transport = wire.servers[-2] if wire.upstream.pool.idle else wire.servers[-1]
        sent = transport.take()
        assert sent.partition(b"\r\n\r\n")[2] == raw
        while to_server:
            size = data.draw(st.integers(1, len(to_server)))
            wire.server_sends(to_server[:size])
            to_server = to_server[size:]
            if wire.server is not None and data.draw(st.booleans()):
                wire.client.pause_writing()
                assert not transport.reading
                wire.client.resume_writing()
                assert transport.reading
        assert wire.near.take().partition(b"\r\n\r\n")[2] == answer_raw
        assert not wire.client.busy and not wire.client_closed
    assert wire.worker.counters[Field.STATUS_2XX] == len(messages)
