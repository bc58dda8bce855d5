"""A server's pool, and which request gets which of its connections."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pylb.config.model import Pool as PoolConfig
from pylb.worker.pool import Pool
from pylb.worker.reasons import Reason
from tests.worker.scene import Scene
from tests.worker.stand_ins import GET, OK, POST, PUT, FakeServer


def _full(count: int, **config: Any) -> tuple[Pool, list[FakeServer]]:
    pool = Pool(PoolConfig(**config), 4.0)
    sides = [FakeServer() for _ in range(count)]
    for number, side in enumerate(sides):
        side.idle_until = 10.0 + number
        pool.idle[side] = None
    return pool, sides


def test_the_one_that_was_used_last_is_used_first_and_late_ones_are_closed() -> None:
    pool, (first, second, third) = _full(3)
    assert pool.take(11.5) is third
    assert pool.take(11.5) is None
    assert first.closed and second.closed and not third.closed and not pool.idle


def test_room_is_made_by_closing_what_was_unused_for_longest() -> None:
    pool, (first, second, _) = _full(3, connections=4)
    assert pool.room(1) and not first.closed
    assert pool.room(2) and first.closed and not second.closed
    del pool.idle[second]
    assert pool.room(3)
    pool.close()
    assert pool.room(4) and not pool.room(5)


# Who gets one


def _request(scene: Scene, reuse: str, head: Any, body: bytes, end: bool, number: int) -> bool:
    """Whether a client's request of this number goes on another client's connection."""
    for server in scene.backend.servers:
        server.pool.reuse = cast(Any, reuse)
    scene.facts.requests = number
    scene.request(head, body, end)
    pooled = any(side.told for side in scene.idle)
    assert pooled is (not scene.core.stand_in.tasks)
    for task in scene.core.stand_in.tasks:
        task.cancel()
    return pooled


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    ("head", "body", "end", "again"),
    [(GET, b"", True, True), (PUT, b"x", True, True), (PUT, b"x", False, False), (POST, b"x", True, False)],
)
@pytest.mark.parametrize("uses", [1, 2])
@pytest.mark.parametrize("reuse", ["safe", "aggressive", "always"])
def test_whose_connection_a_request_may_use(
    scene: Scene, reuse: str, uses: int, head: Any, body: bytes, end: bool, again: bool, number: int
) -> None:
    for side in scene.idle:
        side.uses = uses
    expected = again or number > 1 or reuse == "always" or (reuse == "aggressive" and uses > 1)
    assert _request(scene, reuse, head, body, end, number) is expected


@pytest.mark.parametrize("personal", [False, True])
def test_a_clients_own_connection_serves_it_again_and_ends_with_it(scene: Scene, personal: bool) -> None:
    own = FakeServer()
    server = scene.backend.servers[1]
    scene.request()
    scene.exchange.keep(own, server, personal)
    assert scene.client.words() == (["stay"] if personal else [])
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    scene.over()
    scene.again()
    own.personal = personal  # type: ignore[attr-defined]
    scene.request()
    # One that the client has authenticated leads to its server; else the algorithm says who it is.
    assert own.words() == (["request"] if personal else [])
    scene.facts.own = {server: own}
    scene.facts.end()
    assert own.closed and scene.facts.own is None


def test_a_clients_own_connection_that_has_ended_is_no_one_to_use(scene: Scene) -> None:
    own = FakeServer()
    own.closed = True
    own.personal = True  # type: ignore[attr-defined]
    scene.facts.own = {scene.backend.servers[1]: own}
    scene.request()
    assert not own.told and scene.idle[0].words() == ["request"]


# What is left to the client


@pytest.mark.parametrize("reason", [Reason.SERVER_STALE, Reason.SERVER_UNSEEN])
@pytest.mark.parametrize("number", [1, 2])
def test_a_request_that_cannot_be_sent_again_is_left_to_the_client(
    scene: Scene, reason: Reason, number: int
) -> None:
    scene.facts.requests = number
    scene.request(POST, b"part", False)
    scene.tell(scene.exchange.server_gone, reason, "why")
    if number > 1:
        assert scene.client.told == [("abort", reason)]
    else:
        assert scene.client.told[-1][:2] == ("respond", 502)
    account = scene.over()
    assert (account["reason"], account["state"]) == (reason, "H")
    assert scene.count.get("ABORTED", 0) == (number > 1)


def test_a_server_that_refuses_each_time_is_not_asked_for_ever(scene: Scene) -> None:
    scene.request(POST, b"body", True)
    for _ in range(2):
        scene.tell(scene.exchange.server_gone, Reason.SERVER_UNSEEN, "why")
        scene.connect(FakeServer())
    scene.tell(scene.exchange.server_gone, Reason.SERVER_UNSEEN, "why")
    assert scene.client.told[-1][:2] == ("respond", 502)
    assert scene.over()["retries"] == 2
