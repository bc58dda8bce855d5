"""The tunnel, between two fake pipes: each direction for itself, held back, cut, and its one end."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylb.config.model import Timeouts
from pylb.http.websocket import GOING_AWAY, close_frame
from pylb.scoreboard import Field
from pylb.worker.pipe import ConnectionPipe
from pylb.worker.reasons import Reason
from pylb.worker.sides import FromPipe, Pipe
from pylb.worker.tunnel import Tunnel
from tests.http.wire import TestCore, Transport
from tests.worker.stand_ins import FakePipe, Fault

IDLE = 100.0
TEXT = b"\x81\x05hello"
MASKED = b"\x81\x85\x00\x00\x00\x00hello"


class Pair:
    """A tunnel between two pipes, and who hears of its end."""

    def __init__(
        self,
        near: Pipe | None = None,
        far: Pipe | None = None,
        protocol: bytes = b"",
        half_close: bool = True,
    ) -> None:
        self.core = TestCore(Timeouts(tunnel=IDLE))
        self.near = near or FakePipe(half_close)
        self.far = far or FakePipe(half_close)
        self.ends: list[tuple[Reason | None, int, int]] = []
        self.emptier = 0
        self.core.emptier = self._emptier
        self.tunnel = Tunnel(self.core, self.near, self.far, protocol, self._over, self.core.timeouts.tunnel)
        self.tunnel.start()

    def _emptier(self) -> None:
        self.emptier += 1

    def _over(self, reason: Reason | None, came: int, went: int) -> None:
        self.ends.append((reason, came, went))

    @property
    def client(self) -> FakePipe:
        """The client's pipe."""
        return cast(FakePipe, self.near)

    @property
    def server(self) -> FakePipe:
        """The server's pipe."""
        return cast(FakePipe, self.far)

    def over(self) -> Reason | None:
        """Why it ended, said once."""
        ((reason, _, _),) = self.ends
        assert not self.core.tunnels
        assert self.client.closed and self.server.closed
        return reason


def _hears(pipe: FakePipe) -> FromPipe:
    assert pipe.listener is not None
    return pipe.listener


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_bytes_pass_both_ways_and_are_counted(pair: Pair) -> None:
    _hears(pair.client).came(b"in")
    _hears(pair.server).came(b"out!")
    assert (pair.server.sent, pair.client.sent) == (b"in", b"out!")
    assert pair.core.tunnels == {pair.tunnel}
    _hears(pair.client).gone(False)
    _hears(pair.server).gone(False)
    assert pair.ends == [(None, 2, 4)]


@pytest.mark.parametrize("first", ["client", "server"])
def test_each_direction_ends_for_itself(pair: Pair, first: str) -> None:
    one, other = (pair.client, pair.server) if first == "client" else (pair.server, pair.client)
    assert _hears(one).ended()
    assert other.finished and not other.closed
    _hears(other).came(b"still")
    assert one.sent == b"still"
    assert not _hears(other).ended()
    assert one.closed
    other.closed = True  # as `ended` said
    _hears(one).gone(False)
    assert pair.ends == []
    _hears(other).gone(False)
    assert pair.over() is None
    assert pair.emptier == 1


def test_without_half_close_the_end_of_one_is_the_end_of_both() -> None:
    """As with TLS: what was sent still leaves."""
    pair = Pair(half_close=False)
    assert not _hears(pair.client).ended()
    assert pair.server.closed and "abort" not in pair.server.words()


@pytest.mark.parametrize(("broken", "word"), [(False, "close"), (True, "abort")])
def test_a_connection_that_goes_takes_the_other_one_along(pair: Pair, broken: bool, word: str) -> None:
    _hears(pair.client).gone(broken)
    assert pair.server.words()[-1] == word
    assert pair.ends == []
    pair.client.closed = True
    _hears(pair.server).gone(False)
    assert pair.over() is (Reason.CLIENT_GONE if broken else None)


def test_who_does_not_take_holds_the_other_one_back(pair: Pair) -> None:
    _hears(pair.client).full()
    assert pair.server.paused and not pair.client.paused
    _hears(pair.client).ready()
    assert not pair.server.paused
    _hears(pair.server).full()
    assert pair.client.paused
    _hears(pair.server).ready()
    assert not pair.client.paused


def test_what_moves_in_either_direction_keeps_it(pair: Pair) -> None:
    assert pair.tunnel.deadline == IDLE
    pair.core.now = 10.0
    _hears(pair.client).came(b"x")
    assert pair.tunnel.deadline == 10.0 + IDLE
    pair.core.now = 20.0
    _hears(pair.server).came(b"x")
    assert pair.tunnel.deadline == 20.0 + IDLE
    pair.core.now = 30.0
    _hears(pair.server).ready()  # what was sent long ago has been taken
    assert pair.tunnel.deadline == 30.0 + IDLE


def test_when_nothing_moves_it_ends(pair: Pair) -> None:
    pair.tunnel.expire()
    assert pair.client.words()[-1] == pair.server.words()[-1] == "abort"
    _hears(pair.client).gone(False)
    _hears(pair.server).gone(False)
    assert pair.over() is Reason.TUNNEL_LATE
    assert pair.core.counters[Field.TIMEOUTS] == 1


# Cut


def test_a_tunnel_that_is_cut_closes(pair: Pair) -> None:
    pair.tunnel.cut()
    assert pair.client.words()[-1] == pair.server.words()[-1] == "close"
    _hears(pair.client).gone(False)
    _hears(pair.server).gone(False)
    assert pair.over() is Reason.CUT


def test_a_websocket_that_is_cut_says_so_and_waits_for_the_answers() -> None:
    pair = Pair(protocol=b"WebSocket")
    _hears(pair.client).came(MASKED)
    _hears(pair.server).came(TEXT)
    pair.tunnel.cut()
    farewell = close_frame(GOING_AWAY, b"")
    assert pair.client.sent == TEXT + farewell
    # What goes to a server is masked (RFC 6455 §5.1).
    assert pair.server.sent.startswith(MASKED) and len(pair.server.sent) == len(MASKED + farewell) + 4
    assert not pair.client.closed and not pair.server.closed
    _hears(pair.server).came(TEXT)  # not passed on any more
    assert pair.client.sent == TEXT + farewell
    _hears(pair.client).came(close_frame(GOING_AWAY, b"abcd"))
    assert pair.client.closed and not pair.server.closed
    _hears(pair.client).gone(False)
    assert not pair.server.closed
    _hears(pair.server).came(farewell)
    assert pair.server.closed
    _hears(pair.server).gone(False)
    assert pair.over() is Reason.CUT


def test_a_websocket_that_is_cut_within_a_frame_just_closes() -> None:
    """A farewell there would be taken for contents."""
    pair = Pair(protocol=b"websocket")
    _hears(pair.server).came(TEXT[:4])
    pair.tunnel.cut()
    assert pair.client.closed and pair.client.sent == TEXT[:4]
    assert not pair.server.closed  # towards it nothing is half done


def test_a_websocket_that_was_held_back_is_read_for_its_answer() -> None:
    pair = Pair(protocol=b"websocket")
    _hears(pair.server).full()
    assert pair.client.paused
    pair.tunnel.cut()
    assert not pair.client.paused


def test_an_end_while_it_is_cut_closes(pair: Pair) -> None:
    pair = Pair(protocol=b"websocket")
    pair.tunnel.cut()
    assert not _hears(pair.client).ended()


# Errors of pylb's own


@pytest.mark.parametrize("word", ["start", "send", "finish", "close", "abort", "pause", "resume"])
def test_an_error_costs_both_connections_and_is_told_once(word: str) -> None:
    pipe = FakePipe()
    if word == "start":
        pipe.raises = word
    core_errors: list[BaseException] = []
    pair = Pair.__new__(Pair)
    pair.core = TestCore(Timeouts(tunnel=IDLE))
    pair.core.errors = core_errors
    pair.near, pair.far = FakePipe(), pipe
    pair.ends = []
    pair.tunnel = Tunnel(pair.core, pair.near, pipe, b"", pair._over, pair.core.timeouts.tunnel)
    pair.tunnel.start()
    pipe.raises = word if word != "start" else ""
    if word != "start":
        client = _hears(pair.client)
        client.came(b"x")
        client.full()
        client.ready()
        client.ended()
        if word in ("close", "abort"):
            client.gone(word == "abort")
    assert [str(error) for error in core_errors] == [word]
    assert pair.over() is Reason.INTERNAL
    for end in (pair.client, pair.server):
        if end.listener is not None:
            end.listener.gone(False)  # as the event loop says then
    assert [reason for reason, _, _ in pair.ends] == [Reason.INTERNAL]


def test_an_error_of_who_hears_of_the_end_is_counted(pair: Pair) -> None:
    pair.core.errors = []

    told: list[Reason | None] = []

    def raises_once(reason: Reason | None, came: int, went: int) -> None:
        told.append(reason)
        if len(told) == 1:
            raise Fault

    pair.tunnel._over = raises_once
    _hears(pair.client).gone(False)
    _hears(pair.server).gone(False)
    assert told == [None, Reason.INTERNAL]
    assert len(pair.core.errors) == 1
    assert not pair.core.tunnels


# Whatever the order


@settings(max_examples=200)
@given(st.data())
def test_whatever_the_order_nothing_is_lost_or_sent_twice(data: st.DataObject) -> None:
    """Over real pipes: what one end was sent is what the other one has said, up to the end."""
    transports = [Transport(), Transport()]
    for transport in transports:
        transport.half_close = data.draw(st.booleans())
    early = [data.draw(st.sampled_from([b"", b"early"])) for _ in transports]
    core = TestCore(Timeouts(tunnel=IDLE))
    ends: list[tuple[Reason | None, int, int]] = []
    said = list(early)
    pipes = [
        ConnectionPipe(core, cast(asyncio.Transport, transport), before)
        for transport, before in zip(transports, early, strict=True)
    ]
    # Before anybody listens, a connection may be read once more.
    for number, pipe in enumerate(pipes):
        if data.draw(st.booleans()):
            pipe.data_received(b"(%d)" % number)
            said[number] += b"(%d)" % number
    tunnel = Tunnel(core, pipes[0], pipes[1], b"", lambda *end: ends.append(end), 3600.0)
    tunnel.start()
    silent, gone, full = [False, False], [False, False], [False, False]
    expired = broken = False
    why: Reason | None = None
    number = steps = 0
    while not all(gone):
        steps += 1
        one = data.draw(st.sampled_from([one for one in (0, 1) if not gone[one]]))
        other = 1 - one
        pipe, transport = pipes[one], transports[one]
        words = ["lost"] if transport.closed else ["broken"]
        if steps < 20 and not transport.closed:
            words += ["expire", "ready" if full[one] else "full"]
            if not silent[one] and not full[other]:
                assert transport.reading
                words += ["came", "came", "came", "eof"]
        word = data.draw(st.sampled_from(words))
        if word == "came":
            number += 1
            said[one] += b"<%d>" % number
            pipe.data_received(b"<%d>" % number)
        elif word == "eof":
            silent[one] = True
            if not pipe.eof_received():
                transport.closed = True  # as asyncio does
        elif word in ("full", "ready"):
            full[one] = word == "full"
            (pipe.pause_writing if full[one] else pipe.resume_writing)()
            assert transports[other].closed or transports[other].reading is not full[one]
        elif word == "expire":
            if not expired:
                expired = True
                tunnel.expire()
        else:
            broken = broken or word == "broken"
            first = Reason.SERVER_GONE if one else Reason.CLIENT_GONE
            why = why or (first if word == "broken" and not any(gone) else None)
            gone[one] = transport.closed = True
            pipe.connection_lost(ConnectionResetError() if word == "broken" else None)
    ((reason, came, went),) = ends
    assert reason is (Reason.TUNNEL_LATE if expired else why)
    assert [came, went] == [len(piece) for piece in said]
    assert not core.tunnels
    for one, transport in enumerate(transports):
        assert transport.written == said[1 - one]
        if not broken and not expired:
            assert not transport.aborted


SIZES = st.integers(1, 300)


class Slow(Transport):
    """Is full above a hundred bytes, as an event loop's transport is; its peer takes what `taken` says."""

    def write(self, data: bytes) -> None:
        self.unsent += len(data)
        if self.unsent > 100 and not self.full:
            self.full = True
            self.protocol.pause_writing()

    full = False

    def taken(self, count: int) -> None:
        """The peer takes so many bytes."""
        self.unsent = max(0, self.unsent - count)
        if self.full and self.unsent <= 25:
            self.full = False
            self.protocol.resume_writing()


@given(
    early=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    before=st.lists(st.tuples(st.booleans(), st.sampled_from(["write", "come", "take"]), SIZES)),
    after=st.lists(st.tuples(st.booleans(), st.sampled_from(["come", "take"]), SIZES)),
)
@settings(max_examples=200)
def test_nobody_reads_for_a_peer_that_is_full(
    early: tuple[int, int],
    before: list[tuple[bool, str, int]],
    after: list[tuple[bool, str, int]],
) -> None:
    """Whatever comes when: before the tunnel, with the 101, as it starts."""
    sides = []
    core = TestCore(Timeouts(tunnel=IDLE))
    for size in early:
        transport = Slow()
        pipe = ConnectionPipe(core, cast(asyncio.Transport, transport), b"e" * size)
        sides.append((pipe, transport))

    def act(near: bool, what: str, size: int) -> None:
        pipe, transport = sides[near]
        if what == "write":
            transport.write(b"w" * size)
        elif what == "take":
            transport.taken(size)
        elif transport.reading:
            pipe.data_received(b"c" * size)

    for step in before:
        act(*step)
    (near, _), (far, _) = sides
    Pair(near, far)
    for step in [(True, "take", 0), *after]:
        act(*step)
        for (_, one), (_, other) in (sides, sides[::-1]):
            assert one.reading is not other.full
