"""A connection as one end of a tunnel: what its listener is told, also of what came before, and its ends."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from pylb.scoreboard import Field
from pylb.worker.pipe import ConnectionPipe
from pylb.worker.sides import FromPipe
from tests.http.wire import TestCore, Transport
from tests.worker.stand_ins import Told


class Heard(Told, FromPipe):
    """Notes what a pipe tells."""

    stays = True

    def came(self, data: bytes) -> None:
        self.hear("came", data)

    def ended(self) -> bool:
        self.hear("ended")
        return self.stays

    def gone(self, broken: bool) -> None:
        self.hear("gone", broken)

    def full(self) -> None:
        self.hear("full")

    def ready(self) -> None:
        self.hear("ready")

    def crashed(self, error: Exception) -> None:
        self.told.append(("crashed", str(error)))


class Owned(Told):
    """Notes what the owner of a connection is told."""

    def connection_lost(self, exc: Exception | None) -> None:
        """As `Owner`'s; so is the next one."""
        self.hear("lost")

    def cut_off(self) -> None:
        self.hear("cut off")


def _pipe(early: bytes = b"", eof: bool = False) -> tuple[ConnectionPipe, Transport, TestCore, Owned]:
    core, transport, owner = TestCore(), Transport(), Owned()
    pipe = ConnectionPipe(core, cast(asyncio.Transport, transport), early, eof, owner)
    assert transport.protocol is pipe
    return pipe, transport, core, owner


def test_what_came_before_anybody_listens_is_told_first() -> None:
    pipe, transport, _, owner = _pipe(b"early ")
    pipe.data_received(b"and more")
    assert not transport.reading
    pipe.eof_received()
    pipe.connection_lost(ConnectionResetError())
    assert owner.words() == ["lost"]
    heard = Heard()
    pipe.start(heard)
    assert heard.told == [("came", b"early and more"), ("ended",), ("gone", True)]


def test_what_was_full_before_anybody_listens_is_told() -> None:
    pipe, _, _, _ = _pipe()
    pipe.pause_writing()
    heard = Heard()
    pipe.start(heard)
    assert heard.told == [("full",)]
    pipe.resume_writing()
    assert heard.told == [("full",), ("ready",)]


def test_what_had_come_early_can_make_it_pause() -> None:
    pipe, transport, _, _ = _pipe(b"more than the other end can take")

    class Full(Heard):
        def came(self, data: bytes) -> None:
            pipe.pause()

    pipe.start(Full())
    assert not transport.reading
    pipe.resume()
    assert transport.reading


@pytest.mark.parametrize("half_close", [True, False])
@pytest.mark.parametrize("stays", [True, False])
def test_the_event_loop_is_told_whether_it_stays(half_close: bool, stays: bool) -> None:
    pipe, transport, _, _ = _pipe()
    transport.half_close = half_close
    heard = Heard()
    heard.stays = stays
    pipe.start(heard)
    assert bool(pipe.eof_received()) is (half_close and stays)


def test_an_end_that_had_come_before_closes_who_does_not_stay() -> None:
    pipe, transport, _, _ = _pipe(eof=True)
    heard = Heard()
    heard.stays = False
    pipe.start(heard)
    assert heard.told == [("ended",)] and transport.closed


@pytest.mark.parametrize("half_close", [True, False])
def test_half_close(half_close: bool) -> None:
    pipe, transport, _, _ = _pipe()
    transport.half_close = half_close
    assert pipe.finish() is half_close is transport.finished


@pytest.mark.parametrize("word", ["came", "ended", "gone", "full", "ready"])
def test_an_error_of_who_listens_costs_the_connection(word: str) -> None:
    pipe, transport, core, owner = _pipe()
    heard = Heard()
    heard.raises = word
    pipe.start(heard)
    pipe.data_received(b"x")
    pipe.pause_writing()
    pipe.resume_writing()
    pipe.eof_received()
    pipe.connection_lost(None)
    assert ("crashed", word) in heard.told
    assert transport.aborted
    assert owner.words() == (["cut off"] if word == "gone" else ["cut off", "lost"])
    assert core.counters[Field.INTERNAL] == 0  # who listens counts it


def test_an_error_before_anybody_listens_is_counted() -> None:
    pipe, transport, core, owner = _pipe()
    errors = core.errors = []
    owner.raises = "lost"
    pipe.connection_lost(None)
    assert [str(error) for error in errors] == ["lost"]
    assert transport.aborted and owner.words() == ["lost", "cut off"]


def test_a_peer_that_does_not_let_itself_be_closed_is_cut_off() -> None:
    """With TLS a close waits for the peer, who may take what is left slowly."""
    pipe, transport, core, _ = _pipe()
    transport.half_close = False
    looks: list[tuple[float, object, int]] = []
    loop = type("Loop", (), {"call_later": lambda self, *look: looks.append(look)})()
    core.loop = cast(asyncio.AbstractEventLoop, loop)
    transport.unsent = 3
    pipe.close()
    for left, aborted in ((2, False), (2, True)):
        transport.unsent = left
        seconds, call, before = looks.pop()
        assert seconds == core.timeouts.client
        call(before)  # type: ignore[operator]
        assert transport.aborted is aborted
    assert not looks
