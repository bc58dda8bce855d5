"""A request that is tried again: by which failure, after which pause, and with which part of its body."""

from __future__ import annotations

import errno
import math
from typing import Any

import pytest

from pylb.worker.reasons import Reason
from tests.worker.scene import TIMEOUTS, Scene
from tests.worker.stand_ins import GET, OK, POST, PUT, STREAM, FakeServer, response_head

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Refused")
BUSY = response_head(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n")


def _scene(monkeypatch: pytest.MonkeyPatch, retries: int = 3, pooled: bool = False, **retry: Any) -> Scene:
    return Scene(monkeypatch, pooled, retries, TIMEOUTS, more={"retry": retry})


def _pause(scene: Scene) -> float:
    """The pause that the request is in, which passes."""
    ((seconds, _, _),) = scene.core.stand_in.later
    scene.core.now += seconds
    scene.core.stand_in.run_later()
    return seconds


def test_a_single_server_that_restarts_costs_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """`retries` are further tries, though there is one server: it was one try for each server."""
    scene = _scene(monkeypatch)
    for position in (1, 2):
        monkeypatch.setattr(scene.backend.servers[position], "pool", [])
    monkeypatch.setattr(scene.backend.balancer, "pick", lambda tried, key=None: None if tried else 0)
    scene.request(POST, b"body", True)
    good = FakeServer()
    scene.connect(REFUSED)
    for low, high in ((0.1, 0.125), (0.4, 0.5)):
        assert low <= _pause(scene) <= high
        scene.connect(REFUSED)
    assert 1.0 <= _pause(scene) <= 1.25
    scene.connect(good)
    assert good.told == [("request", b"POST", b"body", True)]
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    account = scene.over()
    assert (account["reason"], account["state"], account["retries"]) == (None, "-", 3)
    assert scene.count == {"REQUESTS": 1, "STATUS_2XX": 1, "RETRIES": 3}


def test_other_servers_come_first_and_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch)
    scene.request()
    scene.connect(REFUSED, REFUSED, REFUSED)
    assert [server.errors for server in scene.backend.servers] == [1, 1, 1]
    _pause(scene)
    scene.connect(REFUSED)
    assert [server.errors for server in scene.backend.servers] == [2, 1, 1]
    assert [told[:2] for told in scene.client.told] == [("respond", 503)]
    account = scene.over()
    assert (account["reason"], account["state"], account["retries"]) == (Reason.CONNECT_FAILED, "C", 3)


def test_a_client_that_leaves_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch)
    cancelled: list[bool] = []

    class Handle:
        def cancel(self) -> None:
            cancelled.append(True)

    later = scene.core.stand_in.call_later
    monkeypatch.setattr(scene.core.stand_in, "call_later", lambda *call: later(*call) or Handle())
    scene.request()
    scene.connect(REFUSED, REFUSED, REFUSED)
    scene.tell(scene.exchange.client_gone, Reason.CLIENT_GONE)
    assert cancelled == [True]
    assert scene.over()["state"] == "C"


@pytest.mark.parametrize(
    ("reason", "on"),
    [
        (Reason.SERVER_GONE, "empty-response"),
        (Reason.SERVER_BAD, "junk-response"),
        (Reason.SERVER_LATE, "response-timeout"),
    ],
)
@pytest.mark.parametrize("head", [GET, POST])
def test_what_a_server_may_have_seen(
    monkeypatch: pytest.MonkeyPatch, reason: Reason, on: str, head: Any
) -> None:
    scene = _scene(monkeypatch, pooled=True, on=[on])
    scene.request(head)
    scene.tell(scene.exchange.server_gone, reason, "why")
    if head is POST:
        assert scene.client.told[-1][:2] == ("respond", 504 if reason is Reason.SERVER_LATE else 502)
    else:
        assert scene.server is scene.idle[1] and scene.server.words() == ["request"]
        scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    assert scene.over()["retries"] == (head is GET)


def test_without_its_condition_nothing_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch, pooled=True, on=["conn-failure"])
    scene.request()
    scene.tell(scene.exchange.server_gone, Reason.SERVER_GONE, "why")
    assert scene.client.told[-1][:2] == ("respond", 502)
    scene.over()


def test_a_request_that_the_server_has_not_looked_at_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its method (HTTP/2's REFUSED_STREAM and GOAWAY), and no more often than `retries` says."""
    scene = _scene(monkeypatch, pooled=True, retries=2)
    scene.request(POST, b"body", True)
    for _ in range(2):
        scene.tell(scene.exchange.server_gone, Reason.SERVER_UNSEEN, "why")
    assert scene.server is scene.idle[2]
    scene.tell(scene.exchange.server_gone, Reason.SERVER_UNSEEN, "why")
    assert scene.client.told[-1][:2] == ("respond", 502)
    assert scene.over()["retries"] == 2


def test_a_status_gives_way_to_another_servers_response(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch, pooled=True, retries=1, on=[503])
    scene.request()
    scene.tell(scene.exchange.response, BUSY, b"no", 0, True)
    assert scene.idle[0].words() == ["request", "release"]
    assert scene.server is scene.idle[1] and not scene.client.told
    scene.tell(scene.exchange.response, BUSY, b"no", 0, True)  # the last one is passed on
    assert scene.client.told == [("respond", 503, b"no", True)]
    assert scene.over()["retries"] == 1


def test_a_part_of_a_response_that_gives_way_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch, pooled=True, on=[503])
    scene.request()
    scene.tell(scene.exchange.response, BUSY, b"n", 0, False)
    assert scene.idle[0].words() == ["request", "abort"]
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    assert scene.over()["reason"] is None


def test_no_response_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch, pooled=True, on=["all-retryable-errors"])
    scene.request()
    scene.tell(scene.exchange.response, STREAM, b"", 0, False)
    scene.tell(scene.exchange.server_gone, Reason.SERVER_GONE, "why")
    assert scene.client.words() == ["respond", "abort"]
    scene.over()


def test_what_has_come_of_a_body_is_sent_again_and_the_rest_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch, pooled=True, on=["empty-response"], body=10)
    scene.request(PUT, b"one", False)
    scene.tell(scene.exchange.request_body, b"two")
    scene.tell(scene.exchange.server_gone, Reason.SERVER_GONE, "why")
    assert scene.server.told == [("request", b"PUT", b"onetwo", False)]
    scene.tell(scene.exchange.request_body, b"three")
    assert scene.server.received == b"onetwothree"
    scene.tell(scene.exchange.server_gone, Reason.SERVER_GONE, "why")  # more than is kept
    assert scene.client.told[-1][:2] == ("respond", 502)
    assert scene.over()["retries"] == 1


def test_a_post_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch, pooled=True, on=["empty-response"])
    scene.request(POST, b"", False)
    scene.tell(scene.exchange.request_body, b"two")
    assert scene.exchange.body is not None
    assert scene.exchange.body.kept == b""


def test_a_budget_that_is_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch, pooled=True, on=["empty-response"], budget=0.0, budget_least=0.0)
    scene.request()
    scene.tell(scene.exchange.server_gone, Reason.SERVER_GONE, "why")
    assert scene.client.told[-1][:2] == ("respond", 502)
    scene.over()


def test_tries_have_a_time_and_all_together_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch, pooled=True, on=["response-timeout"], per_try=2.0, timeout=3.0)
    scene.gate()
    scene.request()
    assert scene.exchange.due() == 2.0
    scene.pass_(2.1)
    assert scene.server is scene.idle[1]
    assert scene.exchange.due() == 3.0
    scene.pass_(1.0)
    assert scene.client.told[-1][:2] == ("respond", 504)
    account = scene.over()
    assert (account["reason"], account["retries"]) == (Reason.SERVER_LATE, 1)


def test_a_response_that_has_begun_has_the_servers_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(monkeypatch, pooled=True, per_try=2.0)
    scene.gate()
    scene.request()
    scene.tell(scene.exchange.response, STREAM, b"", 0, False)
    assert scene.exchange.due() == TIMEOUTS.server
    scene.tell(scene.exchange.response_end, ())
    assert math.isinf(scene.exchange.due())
    scene.over()


def test_an_open_breaker_answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"breaker": {"least": 1}}
    scene = Scene(monkeypatch, True, 0, TIMEOUTS, more=more)
    scene.gate()
    scene.request()
    scene.tell(scene.exchange.server_gone, Reason.SERVER_GONE, "why")
    assert any("its breaker has opened: 1 of 1" in line for line in scene.core.said)
    scene.anew()
    scene.request()
    assert scene.client.told == [("respond", 503, scene.client.told[0][2], True)]
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.BREAKER_OPEN, "C")
    scene.core.now = 5.0
    scene.anew()
    scene.request()
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    assert any("its breaker has closed" in line for line in scene.core.said)
