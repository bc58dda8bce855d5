"""Tunnels that move to another worker: nothing lost, nothing twice, and the same account in the end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylb.config.model import Timeouts
from pylb.worker.pipe import ConnectionPipe
from pylb.worker.reasons import Reason
from pylb.worker.sides import Pipe
from pylb.worker.tunnel import Halves, Tunnel
from tests.http.wire import TestCore, Transport

IDLE = 100.0


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """None is left open."""
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)


class Peer:
    """What one end of a tunnel says and gets, whoever relays it."""

    def __init__(self) -> None:
        self.said = b""
        self.got = b""
        self.silent = False
        self.heard_end = False


class Link(Transport):
    """A transport to a peer, which takes what `taken` says. As an event loop's it doesn't give back what was
    written, and writes on after an abort until it says that the connection is lost."""

    def __init__(self, peer: Peer, fileno: int) -> None:
        super().__init__()
        self.peer = peer
        self.socket = self
        self._fileno = fileno
        self._buffer = b""
        self._full = False
        self.lost = False

    def fileno(self) -> int:
        return self._fileno

    def write(self, data: bytes) -> None:
        assert not self.finished
        if self.aborted:
            return
        self._buffer += data
        if len(self._buffer) > 100 and not self._full:
            self._full = True
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def taken(self, count: int) -> None:
        self.peer.got += self._buffer[:count]
        self._buffer = self._buffer[count:]
        if self._full and len(self._buffer) <= 25:
            self._full = False
            self.protocol.resume_writing()
        self._end()

    def write_eof(self) -> None:
        super().write_eof()
        self._end()

    def close(self) -> None:
        super().close()
        self._end()

    def _end(self) -> None:
        if (self.finished or self.closed) and not self._buffer and not self.aborted:
            self.peer.heard_end = True

    def lose(self) -> None:
        """The event loop says so."""
        self.lost = True
        self.protocol.connection_lost(None)


class Moved:
    """A tunnel between two peers, and what it becomes when it moves."""

    def __init__(self, protocol: bytes = b"") -> None:
        self.core = TestCore(Timeouts(tunnel=IDLE))
        self.null = os.open(os.devnull, os.O_RDONLY)
        self.peers = (Peer(), Peer())
        self.ends: list[tuple[Reason | None, int, int]] = []
        self.protocol = protocol
        self.moving: list[Link] = []
        self._make(None)

    def _make(self, halves: Halves | None) -> None:
        self.links = (Link(self.peers[0], self.null), Link(self.peers[1], self.null))
        pipes: list[Pipe] = []
        for number, link in enumerate(self.links):
            more: dict[str, Any] = {}
            if halves is not None:
                more = {"eof": halves[number].eof, "rest": halves[number].rest}
                os.close(halves[number].descriptor)
            pipes.append(ConnectionPipe(self.core, cast(asyncio.Transport, link), **more))
        self.tunnel = Tunnel(
            self.core, pipes[0], pipes[1], self.protocol, lambda *end: self.ends.append(end), IDLE
        )
        if halves is not None:
            self.tunnel.go_on(halves, self.core.now + IDLE)
        self.tunnel.start()

    def say(self, one: int, data: bytes) -> None:
        link, peer = self.links[one], self.peers[one]
        if link.reading and not link.closed and not peer.silent:
            peer.said += data
            link.protocol.data_received(data)

    def end(self, one: int) -> None:
        link, peer = self.links[one], self.peers[one]
        if link.reading and not link.closed and not peer.silent:
            peer.silent = True
            if not link.protocol.eof_received():
                link.close()

    def begin(self) -> None:
        if not self.moving and self.tunnel.detach(self._detached):
            assert self.tunnel not in self.core.tunnels
            self.moving = list(self.links)

    def go_on(self) -> None:
        moving, self.moving = self.moving, []
        for link in moving:
            link.lose()

    def _detached(self, halves: Halves | None) -> None:
        assert halves is not None
        self._make(halves)

    def finish(self) -> None:
        """Both peers take everything, and end."""
        self.go_on()
        for _ in range(3):
            for one in (0, 1):
                self.links[one].taken(1 << 20)
                self.end(one)
            for link in self.links:
                if link.closed and not link.lost and not link.get_write_buffer_size():
                    link.lose()
        os.close(self.null)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["say", "say", "take", "take", "end", "begin", "go on"]),
            st.integers(0, 1),
            st.integers(1, 300),
        ),
        max_size=40,
    )
)
def test_whatever_the_order_each_gets_what_the_other_one_said(events: list[tuple[str, int, int]]) -> None:
    pair = Moved()
    number = 0
    for what, one, size in events:
        if what == "say" and not pair.moving:
            number += 1
            pair.say(one, (b"<%d>" % number) * (size // 3 + 1))
        elif what == "take":
            pair.links[one].taken(size)
        elif what == "end" and not pair.moving:
            pair.end(one)
        elif what == "begin":
            pair.begin()
        elif what == "go on":
            pair.go_on()
    pair.finish()
    near, far = pair.peers
    assert (near.got, far.got) == (far.said, near.said)
    assert all(peer.heard_end and peer.silent for peer in pair.peers)
    assert pair.ends == [(None, len(near.said), len(far.said))]
    assert not pair.core.tunnels and not pair.core.unsent


def test_frames_are_followed_on() -> None:
    pair = Moved(b"websocket")
    pair.say(1, b"\x81\x05he")
    pair.begin()
    pair.go_on()
    pair.tunnel.cut()
    assert pair.links[0].closed  # a Close frame there would be taken for contents
    pair.say(1, b"llo")
    for link in pair.links:
        link.close()
        link.lose()
    os.close(pair.null)
    assert pair.peers[0].got == b""
    assert [reason for reason, _, _ in pair.ends] == [Reason.CUT]


def test_what_is_kept_of_what_was_sent_is_what_has_not_left() -> None:
    pair = Moved()
    near = pair.tunnel._near.pipe
    assert isinstance(near, ConnectionPipe)
    for piece in (b"a" * 10, b"b" * 10, b"c" * 10):
        pair.say(1, piece)
    assert pair.core.unsent == {near} and near._trailed == 30
    pair.links[0].taken(15)
    near.look()
    assert near._trailed == 20
    pair.links[0].taken(15)
    near.look()
    assert not pair.core.unsent and near._trail is None
    pair.finish()


def test_of_what_can_not_move_nothing_is_kept() -> None:
    pair = Moved()
    pair.links[0].half_close = False  # TLS
    pair.say(1, b"a" * 10)
    assert pair.links[0].get_write_buffer_size() == 10 and not pair.core.unsent
    pair.links[0].half_close = True
    pair.finish()


def test_what_was_written_before_there_was_a_pipe_is_waited_for() -> None:
    pair = Moved()
    pair.links[0]._buffer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    assert not pair.tunnel.detach(lambda halves: None)
    assert pair.core.tunnels == {pair.tunnel}
    pair.links[0].taken(1000)
    pair.peers[0].got = b""
    pair.begin()
    assert pair.moving
    pair.finish()


@pytest.mark.parametrize("what", ["tls", "cut", "closing"])
def test_what_can_not_move_stays(what: str) -> None:
    pair = Moved()
    if what == "tls":
        pair.links[1].half_close = False
        assert not pair.tunnel.movable
    elif what == "cut":
        pair.tunnel.cut()
    else:
        pair.links[0].close()
    assert not pair.tunnel.detach(lambda halves: None)
    pair.links[1].half_close = True
    pair.finish()


def test_without_a_descriptor_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Moved()
    copies: list[int] = []

    def dup(fd: int) -> int:
        if copies:
            raise OSError(24, "too many")
        copies.append(os.open(os.devnull, os.O_RDONLY))
        return copies[0]

    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", dup)
        assert not pair.tunnel.detach(lambda halves: None)
    pair.say(0, b"x")
    pair.finish()
    assert pair.peers[1].got == b"x"


def test_an_error_while_it_is_let_go_of_ends_it() -> None:
    pair = Moved()
    pair.core.errors = []
    told: list[object] = []
    assert pair.tunnel.detach(told.append)
    pair.tunnel.crashed(RuntimeError("a bug"))
    assert told == [None]
    assert [reason for reason, _, _ in pair.ends] == [Reason.INTERNAL]
    os.close(pair.null)
