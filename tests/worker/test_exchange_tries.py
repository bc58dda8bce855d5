"""The exchange, between two fake sides: a request's phases, and the servers that are tried for it."""

from __future__ import annotations

import errno
import math
from typing import Any

import pytest

from pylb.http.errors import Refused, answer
from pylb.http.response import ResponseHead
from pylb.worker.exchange import begin
from pylb.worker.reasons import Reason
from pylb.worker.sides import Spans
from pylb.worker.transaction import Transaction
from tests.worker.scene import TIMEOUTS, Scene, Waits
from tests.worker.stand_ins import GET, OK, POST, PUT, FakeServer, Fault

_AHEAD = b"x" * 70_000  # more of a body than is kept for a server that isn't there yet


# Phases


def test_phases_run_in_order_and_then_a_server_is_asked(scene: Scene) -> None:
    ran = scene.phases(None, None, None)
    scene.request()
    assert ran == [0, 1, 2]
    assert scene.server.words() == ["request"]


def test_a_phase_that_answers_ends_it(scene: Scene) -> None:
    ran = scene.phases(None, answer(403, b"", b"no"), None)
    scene.request()
    assert ran == [0, 1]
    assert scene.client.told == [("respond", 403, b"no", True)]
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.ANSWERED, "R")
    assert account["own"] and account["local"] and account["bytes_out"] == 2
    assert sum(scene.core.times[:-1]) == 1  # of no backend
    assert not any(side.told for side in scene.idle)


def test_a_phase_that_refuses_ends_it(scene: Scene) -> None:
    ran = scene.phases(Refused(413, "body_bytes"), None)
    scene.request(POST, b"much", False)
    assert ran == [0]
    assert scene.client.words() == ["last", "respond"] and scene.client.told[1][1] == 413
    assert scene.over()["reason"] is Reason.REFUSED
    assert scene.count == {"REQUESTS": 1, "STATUS_4XX": 1, "REFUSED": 1}


def test_a_wait_goes_on_at_the_next_phase(scene: Scene) -> None:
    wait = Waits()
    ran = scene.phases(None, wait, None)
    scene.request(POST, b"one", False)
    scene.tell(scene.exchange.request_body, b"two")
    assert ran == [0, 1] and not any(side.told for side in scene.idle)
    assert scene.exchange.tx.asked_ns == 0
    wait.go_on(None)
    assert scene.exchange.tx.asked_ns > 0
    assert ran == [0, 1, 2]
    assert scene.server.told == [("request", b"POST", b"onetwo", False)]


def test_a_wait_may_end_with_an_answer(scene: Scene) -> None:
    wait = Waits()
    ran = scene.phases(wait, None)
    scene.request()
    wait.go_on(answer(429, b"", b""))
    assert ran == [0]
    assert scene.client.told == [("respond", 429, b"", True)]
    assert scene.over()["reason"] is Reason.ANSWERED
    assert wait.cancelled == 0


def test_a_wait_is_cancelled_when_the_client_leaves(scene: Scene) -> None:
    wait = Waits()
    scene.phases(wait)
    scene.request()
    scene.tell(scene.exchange.client_gone, Reason.CLIENT_GONE)
    assert wait.cancelled == 1
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.CLIENT_GONE, "Q")


def test_what_goes_on_too_late_touches_nobody(scene: Scene) -> None:
    """A wait that was cancelled, or that goes on twice; the exchange may serve another request by then."""
    wait = Waits()
    scene.phases(wait)
    scene.request()
    scene.tell(scene.exchange.client_gone, Reason.CLIENT_GONE)
    wait.go_on(None)
    assert scene.over()["reason"] is Reason.CLIENT_GONE
    assert scene.client.told == []


def test_a_wait_has_a_deadline(scene: Scene) -> None:
    wait = Waits()
    scene.phases(wait)
    scene.request()
    assert scene.exchange.due() < math.inf
    scene.late()
    assert wait.cancelled == 1
    assert scene.client.told[-1][:2] == ("respond", 503)
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.CONNECT_LATE, "Q")
    assert scene.count["TIMEOUTS"] == 1


def test_a_client_that_was_held_back_while_it_waited_is_read_again(scene: Scene) -> None:
    """Though the connection is one from the pool, so that nothing had to be connected to."""
    wait = Waits()
    scene.phases(wait)
    scene.request(POST, _AHEAD[:10], False)
    scene.tell(scene.exchange.request_body, _AHEAD)
    assert scene.client.words() == ["pause"]
    wait.go_on(None)
    assert scene.client.words() == ["pause", "resume"]
    assert scene.server.received == _AHEAD[:10] + _AHEAD


def test_phases_of_a_response_change_its_head_and_of_pylbs_own_too(scene: Scene) -> None:
    def add(tx: Transaction, head: ResponseHead) -> ResponseHead:
        return head.adding(b"A: %d\r\n" % head.out.count(b"A: "))

    scene.frontend.on_response = (add, add)
    heads: list[bytes] = []
    respond = scene.client.respond

    def noted(head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        heads.append(head.out)
        respond(head, buffer, at, end, spans)

    scene.client.respond = noted  # type: ignore[method-assign]
    scene.request()
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    scene.client.over = False
    scene.accounts.clear()
    scene.exchange = begin(scene.core, scene.facts, scene.frontend)
    scene.tell(scene.exchange.refuse, Refused(400, "syntax"), scene.client)
    assert [head.count(b"\r\nA: 0\r\nA: 1\r\n\r\n") for head in heads] == [1, 1]


# Tries


def test_a_server_that_cannot_be_connected_to_is_followed_by_another(cold: Scene) -> None:
    cold.request(POST, b"body", True)
    good = FakeServer()
    cold.connect(ConnectionRefusedError(errno.ECONNREFUSED, "Refused"), good)
    assert good.told == [("request", b"POST", b"body", True)]
    assert [server.errors for server in cold.backend.servers] == [1, 0, 0]
    assert [server.active[0] for server in cold.backend.servers] == [0, 1, 0]
    cold.tell(cold.exchange.response, OK, b"ok", 0, True)
    account = cold.over()
    assert account["reason"] is None and account["tried"] == {0}
    assert (account["state"], account["retries"]) == ("-", 1)
    assert cold.count == {"REQUESTS": 1, "STATUS_2XX": 1, "RETRIES": 1}


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Refused"), 503, Reason.CONNECT_FAILED),
        (TimeoutError(), 504, Reason.CONNECT_LATE),
    ],
)
def test_when_the_tries_are_used_up_it_is_answered(
    cold: Scene, error: Exception, status: int, reason: Reason
) -> None:
    cold.request()
    cold.connect(error, error)
    assert [told[:2] for told in cold.client.told] == [("respond", status)]
    account = cold.over()
    assert (account["reason"], account["state"], account["own"]) == (reason, "C", True)
    assert cold.count["RETRIES"] == 1 and cold.count["STATUS_5XX"] == 1


def test_all_tries_together_have_a_deadline(cold: Scene) -> None:
    cold.request()
    due = cold.exchange.due()
    assert due == TIMEOUTS.connect * 2 + 1
    cold.core.now = 1.0
    cold.connections.append(ConnectionRefusedError(errno.ECONNREFUSED, "Refused"))
    cold.core.stand_in.tasks.pop(0).run()
    assert cold.exchange.due() == due
    (task,) = cold.core.stand_in.tasks
    cold.late()
    assert task.cancelled
    assert cold.client.told[-1][:2] == ("respond", 504)
    account = cold.over()
    assert (account["reason"], account["state"]) == (Reason.CONNECT_LATE, "C")


def test_without_any_server_it_is_answered(cold: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold.backend.balancer, "pick", lambda tried, key=None: None)
    cold.request()
    assert [told[:2] for told in cold.client.told] == [("respond", 503)]
    account = cold.over()
    assert (account["reason"], account["state"]) == (Reason.NO_SERVER, "C")


def test_without_descriptors_no_other_server_is_tried(cold: Scene) -> None:
    cold.request()
    cold.connect(OSError(errno.EMFILE, "Too many open files"))
    assert [told[:2] for told in cold.client.told] == [("respond", 503)]
    account = cold.over()
    assert (account["reason"], account["state"]) == (Reason.NO_RESOURCES, "C")
    assert [server.errors for server in cold.backend.servers] == [0, 0, 0]


def test_an_error_of_connecting_that_nobody_expects_is_answered_with_500(cold: Scene) -> None:
    cold.core.errors = []
    cold.request()
    cold.connect(Fault())
    assert [told[:2] for told in cold.client.told] == [("last",), ("respond", 500)]
    assert cold.over()["reason"] is Reason.INTERNAL


def test_a_server_that_had_closed_gets_the_request_again_on_a_new_connection(scene: Scene) -> None:
    scene.request(PUT, b"one", False)
    # Not whole, so not sent again; see below.
    scene.tell(scene.exchange.server_gone, Reason.SERVER_STALE, "why")
    assert scene.client.told[-1][:2] == ("respond", 502)
    scene.over()


@pytest.mark.parametrize("head", [GET, PUT])
def test_stale(scene: Scene, head: Any) -> None:
    body = b"body" if head is PUT else b""
    scene.request(head, body, True)
    first = scene.server
    scene.tell(scene.exchange.server_gone, Reason.SERVER_STALE, "why")
    assert first.words()[-1] == "abort"
    again = FakeServer()
    scene.connect(again)
    assert again.told == [("request", head.method, body, True)]
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    account = scene.over()
    assert (account["reason"], account["state"], account["retries"]) == (None, "-", 1)
    assert scene.count == {"REQUESTS": 1, "STATUS_2XX": 1, "RETRIES": 1}


def test_stale_with_trailers_that_came_while_it_was_connected_to(cold: Scene) -> None:
    cold.request(PUT, b"one", False)
    cold.tell(cold.exchange.request_body, b"two")
    cold.tell(cold.exchange.request_end, [b"A: b"])
    first, second = FakeServer(), FakeServer()
    cold.connect(first)
    told = [("request", b"PUT", b"onetwo", False), ("end", [b"A: b"])]
    assert first.told == told
    cold.tell(cold.exchange.server_gone, Reason.SERVER_STALE, "why")
    cold.connect(second)
    assert second.told == told


def test_a_post_is_never_sent_twice(scene: Scene) -> None:
    scene.request(POST, b"body", True)
    scene.tell(scene.exchange.server_gone, Reason.SERVER_STALE, "why")
    assert scene.client.told[-1][:2] == ("respond", 502)
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.SERVER_STALE, "H")
    assert scene.backend.servers[0].errors == 1
