"""The exchange, between two fake sides: phases, tries, flow control, deadlines, and every end."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pylb.config.model import Limits, Timeouts
from pylb.http.errors import Answer, Refused, answer
from pylb.http.response import ResponseHead
from pylb.scoreboard import Field
from pylb.worker.exchange import begin
from pylb.worker.frontend import Wait
from pylb.worker.phases.account import CUT_SHORT
from pylb.worker.reasons import Reason
from pylb.worker.sides import Spans
from pylb.worker.transaction import Transaction
from tests.worker.stand_ins import (
    GET,
    HEAD,
    HINTS,
    OK,
    POST,
    PUT,
    STREAM,
    SWITCH,
    FakeClient,
    FakeServer,
    Fault,
    Scene,
)  # fmt: skip

TIMEOUTS = Timeouts(connect=2.0, client=10.0, server=30.0, tunnel=100.0)
_AHEAD = b"x" * 70_000  # more of a body than is kept for a server that isn't there yet


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """With idle connections to all servers."""
    return Scene(monkeypatch, timeouts=TIMEOUTS)


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Without any connection to a server."""
    return Scene(monkeypatch, pooled=False, timeouts=TIMEOUTS)


# A request and its response


def test_a_small_request_and_its_response(scene: Scene) -> None:
    scene.request()
    server = scene.server
    assert server.told == [("request", b"GET", b"", True)]
    assert scene.backend.servers[0].active[0] == 1
    scene.tell(scene.exchange.response, OK, b"head" + b"ok", 4, True)
    assert server.words() == ["request", "release"]
    assert scene.client.told == [("respond", 200, b"ok", True)]
    account = scene.over()
    assert (account["reason"], account["state"], account["own"], account["local"]) == (
        None,
        "-",
        False,
        False,
    )
    assert (account["bytes_in"], account["bytes_out"]) == (0, 2)
    assert scene.count == {"REQUESTS": 1, "STATUS_2XX": 1}
    assert sum(scene.backend.times[:-1]) == 1


def test_bodies_in_pieces_with_trailers_both_ways(scene: Scene) -> None:
    scene.request(POST, b"one", False)
    server = scene.server
    scene.tell(scene.exchange.request_body, b"two")
    scene.tell(scene.exchange.request_end, [b"A: b"])
    assert server.told == [("request", b"POST", b"one", False), ("body", b"two"), ("end", [b"A: b"])]
    scene.tell(scene.exchange.interim, HINTS)
    scene.tell(scene.exchange.response, STREAM, b"hel", 0, False)
    scene.tell(scene.exchange.response_body, b"lo")
    scene.tell(scene.exchange.response_end, [b"C: d"])
    assert scene.client.told == [
        *(("interim", 103), ("respond", 200, b"hel", False), ("body", b"lo"), ("end", [b"C: d"])),
    ]
    assert server.words()[-1] == "release"
    account = scene.over()
    assert (account["bytes_in"], account["bytes_out"]) == (6, 5)


def test_an_answer_before_the_end_of_the_request(scene: Scene) -> None:
    """The client side drops the rest of it; the server side knows what it has not been sent."""
    scene.request(POST, b"one", False)
    server = scene.server
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    assert scene.client.told == [("respond", 200, b"ok", True)]
    assert server.words() == ["request", "release"]
    scene.over()


def test_marks_of_time_are_in_order(cold: Scene) -> None:
    cold.request()
    cold.connect(FakeServer())
    cold.tell(cold.exchange.response, OK, b"ok", 0, True)
    account = cold.over()
    marks = ("began", "asked", "connected", "answered", "ended")
    moments = [account[f"{mark}_ns"] for mark in marks]
    assert moments == sorted(moments) and moments[0] > 0
    assert account["first_byte_ns"] == 0


def test_the_same_object_serves_for_the_next_request(scene: Scene) -> None:
    scene.request(POST, b"one", True)
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    scene.over()
    assert begin(scene.core, scene.facts, scene.frontend) is scene.exchange
    assert scene.facts.requests == 2
    scene.client = FakeClient(scene.facts)
    scene.accounts.clear()
    scene.idle[0].take()
    scene.backend.servers[0].pool.append(scene.idle[0])
    scene.request()
    assert scene.server.told == [("request", b"GET", b"", True)]
    assert scene.exchange.tx.bytes_in == 0


def test_what_comes_for_an_exchange_that_is_over_changes_nothing(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.client_gone, Reason.CLIENT_GONE)
    before = dict(scene.count)
    scene.exchange.response(OK, b"ok", 0, True)
    scene.exchange.interim(HINTS)
    scene.exchange.response_body(b"x")
    scene.exchange.response_end(())
    scene.exchange.switched(SWITCH)
    scene.exchange.server_gone(Reason.SERVER_GONE, "why")
    scene.exchange.client_gone(Reason.CLIENT_GONE)
    scene.exchange.expire()
    assert scene.client.told == []
    assert scene.count == before
    scene.over()


# Phases


class Waits(Wait):
    """A wait that ends when the test says so."""

    def __init__(self) -> None:
        self.go_on: Callable[[Answer | None], None] = lambda answer: None
        self.cancelled = 0

    def start(self, go_on: Callable[[Answer | None], None]) -> None:
        self.go_on = go_on

    def cancel(self) -> None:
        self.cancelled += 1


def _phases(scene: Scene, *results: object) -> list[int]:
    """Phases that give these; which of them have run is noted."""
    ran: list[int] = []

    def phase(number: int, result: Any) -> Callable[[Transaction], Any]:
        def run(tx: Transaction) -> Any:
            ran.append(number)
            if isinstance(result, Exception):
                raise result
            return result

        return run

    scene.frontend.on_request = tuple(phase(number, result) for number, result in enumerate(results))
    return ran


def test_phases_run_in_order_and_then_a_server_is_asked(scene: Scene) -> None:
    ran = _phases(scene, None, None, None)
    scene.request()
    assert ran == [0, 1, 2]
    assert scene.server.words() == ["request"]


def test_a_phase_that_answers_ends_it(scene: Scene) -> None:
    ran = _phases(scene, None, answer(403, b"", b"no"), None)
    scene.request()
    assert ran == [0, 1]
    assert scene.client.told == [("respond", 403, b"no", True)]
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.ANSWERED, "R")
    assert account["own"] and account["local"] and account["bytes_out"] == 2
    assert sum(scene.core.times[:-1]) == 1  # of no backend
    assert not any(side.told for side in scene.idle)


def test_a_phase_that_refuses_ends_it(scene: Scene) -> None:
    ran = _phases(scene, Refused(413, "body_bytes"), None)
    scene.request(POST, b"much", False)
    assert ran == [0]
    assert scene.client.words() == ["last", "respond"] and scene.client.told[1][1] == 413
    assert scene.over()["reason"] is Reason.REFUSED
    assert scene.count == {"REQUESTS": 1, "STATUS_4XX": 1, "REFUSED": 1}


def test_a_wait_goes_on_at_the_next_phase(scene: Scene) -> None:
    wait = Waits()
    ran = _phases(scene, None, wait, None)
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
    ran = _phases(scene, wait, None)
    scene.request()
    wait.go_on(answer(429, b"", b""))
    assert ran == [0]
    assert scene.client.told == [("respond", 429, b"", True)]
    assert scene.over()["reason"] is Reason.ANSWERED
    assert wait.cancelled == 0


def test_a_wait_is_cancelled_when_the_client_leaves(scene: Scene) -> None:
    wait = Waits()
    _phases(scene, wait)
    scene.request()
    scene.tell(scene.exchange.client_gone, Reason.CLIENT_GONE)
    assert wait.cancelled == 1
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.CLIENT_GONE, "Q")


def test_a_wait_has_a_deadline(scene: Scene) -> None:
    wait = Waits()
    _phases(scene, wait)
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
    _phases(scene, wait)
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
    monkeypatch.setattr(cold.backend.balancer, "pick", lambda tried: None)
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


# Flow control


def test_a_client_that_does_not_take_the_response_holds_the_server_back(scene: Scene) -> None:
    scene.request()
    server = scene.server
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    scene.tell(scene.exchange.client_full)
    assert server.words() == ["request", "pause"]
    assert scene.exchange.due() == TIMEOUTS.client  # and not the server's
    scene.pass_(5.0)
    scene.tell(scene.exchange.client_ready)
    assert server.words() == ["request", "pause", "resume"]
    assert scene.exchange.due() == 5.0 + TIMEOUTS.server


def test_a_server_that_does_not_take_the_body_holds_the_client_back(scene: Scene) -> None:
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.server_full)
    scene.tell(scene.exchange.server_full)
    assert scene.client.words() == ["pause"]
    scene.tell(scene.exchange.server_ready)
    scene.tell(scene.exchange.server_ready)
    assert scene.client.words() == ["pause", "resume"]


def test_a_whole_request_is_not_held_back(scene: Scene) -> None:
    scene.request(POST, b"a", True)
    scene.tell(scene.exchange.server_full)
    scene.tell(scene.exchange.server_ready)
    assert scene.client.words() == []


def test_only_so_much_is_kept_while_a_server_is_connected_to(cold: Scene) -> None:
    cold.request(POST, b"", False)
    sent = 0
    while "pause" not in cold.client.words():
        cold.tell(cold.exchange.request_body, b"x" * 10_000)
        sent += 10_000
    assert sent == 70_000
    server = FakeServer()
    cold.connect(server)
    assert cold.client.words() == ["pause", "resume"]
    assert len(server.received) == sent


def test_chunks_that_are_kept_stay_as_they_came(cold: Scene) -> None:
    cold.tell(cold.exchange.request, cold.client, PUT, b"3\r\none\r", False, [(3, 6)])
    cold.tell(cold.exchange.request_body, b"\n", [])
    cold.tell(cold.exchange.request_body, b"3\r\ntwo\r\n0\r\n\r\n", [(3, 6)])
    cold.tell(cold.exchange.request_end, ())
    first, second = FakeServer(), FakeServer()
    cold.connect(first)
    assert first.told == [("request", b"PUT", b"onetwo", True)]
    cold.tell(cold.exchange.server_gone, Reason.SERVER_STALE, "why")
    cold.connect(second)
    assert second.told == first.told[:1]


def test_while_the_client_is_stuck_the_silence_of_the_server_is_not_its_fault(scene: Scene) -> None:
    """Even though the client still sends: the server isn't read meanwhile."""
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    scene.tell(scene.exchange.client_full)
    scene.tell(scene.exchange.request_body, b"b")
    assert scene.exchange.server_deadline == math.inf
    scene.tell(scene.exchange.request_end, ())
    assert scene.exchange.server_deadline == math.inf
    assert scene.exchange.client_deadline < math.inf


def test_the_time_for_which_the_client_is_not_read_is_not_its_own(scene: Scene) -> None:
    """A body must come at a rate, but not while the server doesn't take it."""
    scene.frontend.body_rate = 1000
    scene.request(POST, b"x" * 1000, False)
    scene.tell(scene.exchange.server_full)
    scene.core.now = 25.0
    scene.tell(scene.exchange.server_ready)
    assert scene.exchange.client_deadline == 25.0 + 5.0 + 1.0
    scene.tell(scene.exchange.request_body, b"x" * 1000)
    assert scene.exchange.client_deadline == 25.0 + 5.0 + 2.0


# Deadlines


def test_a_client_that_sends_no_more_of_its_body(scene: Scene) -> None:
    scene.request(POST, b"a", False)
    scene.pass_(8.0)
    scene.tell(scene.exchange.request_body, b"b")
    scene.pass_(8.0)
    assert scene.client.told == []
    scene.pass_(8.0)
    assert scene.client.told[-1][:2] == ("respond", 408)
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.CLIENT_LATE, "H")
    assert scene.count["TIMEOUTS"] == scene.count["REFUSED"] == 1


def test_a_client_whose_body_comes_too_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, timeouts=TIMEOUTS, limits=Limits(body_rate=100))
    scene.request(POST, b"", False)
    for _ in range(5):
        scene.pass_(1.0)
        scene.tell(scene.exchange.request_body, b"x" * 10)
    assert scene.exchange.due() == 5.0 + 0.5
    scene.pass_(1.0)
    assert scene.client.told[-1][:2] == ("respond", 408)


def test_a_client_whose_body_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, limits=Limits(body_bytes=10))
    scene.request(POST, b"12345", False)
    scene.tell(scene.exchange.request_body, b"67890")
    assert scene.client.told == []
    scene.tell(scene.exchange.request_body, b"1")
    assert scene.client.told[-1][:2] == ("respond", 413)
    assert scene.idle[0].words() == ["request", "body", "abort"]
    assert scene.over()["bytes_in"] == 11


def test_a_length_that_is_too_large_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, limits=Limits(body_bytes=10))
    scene.request(POST, b"12345678901", False)
    assert scene.client.told[-1][:2] == ("respond", 413)
    assert scene.over()["local"]


def test_a_response_that_is_taken_slowly_is_taken(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    scene.tell(scene.exchange.client_full)
    for left in (500, 400, 300):
        scene.client.left = left
        scene.late()
        assert scene.client.words() == ["respond"]
    scene.late()
    assert scene.client.told[-1] == ("abort", Reason.CLIENT_LATE)
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.CLIENT_LATE, "D")
    assert scene.count == {"REQUESTS": 1, "ABORTED": 1, "TIMEOUTS": 1}


def test_a_client_that_is_held_back_is_not_late_but_the_server_is(scene: Scene) -> None:
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.server_full)
    while not scene.accounts:
        scene.late()
    assert scene.client.told[-1][:2] == ("respond", 504)
    assert scene.core.now == pytest.approx(TIMEOUTS.server, abs=1.0)
    assert scene.over()["reason"] is Reason.SERVER_LATE


def test_a_server_that_does_not_answer(scene: Scene) -> None:
    scene.request()
    server = scene.server
    scene.pass_(20.0)
    scene.tell(scene.exchange.interim, HINTS)
    scene.pass_(20.0)
    assert scene.client.words() == ["interim"]
    scene.pass_(20.0)
    assert scene.client.told[-1][:2] == ("respond", 504)
    assert server.words() == ["request", "abort"]
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.SERVER_LATE, "H")
    assert scene.count == {"REQUESTS": 1, "STATUS_5XX": 1, "TIMEOUTS": 1}
    assert scene.backend.servers[0].errors == 1


def test_a_server_that_goes_silent_within_its_response(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    scene.pass_(20.0)
    scene.tell(scene.exchange.response_body, b"b")
    scene.pass_(20.0)
    assert scene.client.words() == ["respond", "body"]
    scene.pass_(20.0)
    assert scene.client.told[-1] == ("abort", Reason.SERVER_LATE)
    account = scene.over()
    assert (account["reason"], account["state"], account["bytes_out"]) == (Reason.SERVER_LATE, "D", 2)


# A client side that can't pass a response on


@pytest.mark.parametrize("end", [False, True])
def test_a_response_that_the_client_side_cannot_pass_on(scene: Scene, end: bool) -> None:
    respond = scene.client.respond

    def cannot(head: ResponseHead, buffer: bytes, at: int, end: bool, spans: Spans = None) -> None:
        scene.client.respond = respond  # type: ignore[method-assign]
        scene.exchange.unusable("no such field")

    scene.client.respond = cannot  # type: ignore[method-assign]
    scene.request()
    server = scene.server
    scene.tell(scene.exchange.response, OK, b"ok", 0, end)
    assert scene.client.told[-1][:2] == ("respond", 502)
    assert server.words()[-1] == ("release" if end else "abort")
    account = scene.over()
    assert (account["reason"], account["own"]) == (Reason.SERVER_BAD, True)
    assert scene.core.said[0].endswith(": bad response: no such field")
    assert scene.backend.servers[0].errors == 1
    assert scene.count == {"REQUESTS": 1, "STATUS_5XX": 1}


def test_an_exchange_after_the_usual_one_knows_nothing_of_it(scene: Scene) -> None:
    """The usual request is set back in a shorter way."""
    scene.frontend.on_account, log = (), scene.frontend.on_account
    scene.request()
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    scene.frontend.on_account = log
    assert scene.core.spare == [scene.exchange]
    scene.client = FakeClient(scene.facts)
    scene.exchange = begin(scene.core, scene.facts, scene.frontend)
    scene.tell(scene.exchange.refuse, Refused(400, "syntax"), scene.client)
    (account,) = scene.accounts
    assert account["local"] and account["server"] is None and account["connected_ns"] == 0
    assert sum(scene.core.times[:-1]) == 1
    scene.accounts.clear()
    scene.client = FakeClient(scene.facts)
    scene.exchange = begin(scene.core, scene.facts, scene.frontend)
    scene.request()
    scene.tell(scene.exchange.client_gone, Reason.CLIENT_GONE)
    (account,) = scene.accounts
    assert account["response"] is None and account["bytes_out"] == 0


# Ends: each reason, in each state

State = Literal["connecting", "waiting", "body", "sent", "answered"]


def _in(state: State, scene: Scene) -> None:
    if state == "connecting":
        for server in scene.backend.servers:
            server.pool.clear()
    if state == "waiting":
        _phases(scene, Waits())
    scene.request(POST, b"a", state not in ("body",))
    if state == "answered":
        scene.tell(scene.exchange.response, STREAM, b"a", 0, False)


@pytest.mark.parametrize(
    ("state", "letter"),
    [("connecting", "C"), ("waiting", "Q"), ("body", "H"), ("sent", "H"), ("answered", "D")],
)
def test_a_client_that_leaves(scene: Scene, state: State, letter: str) -> None:
    _in(state, scene)
    scene.tell(scene.exchange.client_gone, Reason.CLIENT_GONE)
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.CLIENT_GONE, letter)
    assert "respond" not in scene.client.words()[1:] and "abort" not in scene.client.words()
    assert scene.count == {"REQUESTS": 1, "ABORTED": 1}


@pytest.mark.parametrize(
    ("state", "letter"),
    [("connecting", "C"), ("waiting", "Q"), ("body", "H"), ("answered", "D")],
)
def test_a_request_that_turns_out_to_be_bad(scene: Scene, state: State, letter: str) -> None:
    _in(state, scene)
    scene.tell(scene.exchange.refuse, Refused(400, "chunk"))
    account = scene.over()
    assert (account["reason"], account["state"]) == (Reason.REFUSED, letter)
    if state == "answered":
        assert scene.client.told[-1] == ("abort", Reason.REFUSED)
    else:
        assert scene.client.told[-1][:2] == ("respond", 400)
    assert scene.core.counters[Field.REFUSED] == 1


def test_what_cannot_be_read_is_refused_without_a_request(scene: Scene) -> None:
    scene.tell(scene.exchange.refuse, Refused(400, "syntax"), scene.client)
    assert scene.client.told[-1][:2] == ("respond", 400)
    account = scene.over()
    assert (account["reason"], account["state"], account["local"]) == (Reason.REFUSED, "R", True)
    assert sum(scene.core.times[:-1]) == 1


@pytest.mark.parametrize(
    ("reason", "status"),
    [(Reason.SERVER_GONE, 502), (Reason.SERVER_BAD, 502), (Reason.SERVER_LATE, 504)],
)
@pytest.mark.parametrize("answered", [False, True])
def test_a_server_that_fails(scene: Scene, reason: Reason, status: int, answered: bool) -> None:
    scene.request()
    if answered:
        scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    scene.tell(scene.exchange.server_gone, reason, "why")
    account = scene.over()
    assert (account["reason"], account["state"]) == (reason, "D" if answered else "H")
    if answered:
        assert scene.client.told[-1] == ("abort", reason)
        assert scene.core.counters[Field.ABORTED] == 1
    else:
        assert scene.client.told[-1][:2] == ("respond", status)
        assert scene.core.counters[Field.STATUS_5XX] == 1
    assert scene.backend.servers[0].errors == 1
    assert len(scene.core.said) == 1 and scene.core.said[0].endswith(": why")


def test_a_connection_that_ends_before_there_is_a_request(scene: Scene) -> None:
    """It is told to the log, and is no request."""
    scene.tell(scene.exchange.never, Reason.CLIENT_GONE)
    (account,) = scene.accounts
    assert (account["reason"], account["state"], account["local"]) == (Reason.CLIENT_GONE, "R", True)
    assert account["ended_ns"] >= account["began_ns"] > 0
    assert scene.count == {}
    assert scene.core.spare == [scene.exchange]


def test_to_a_head_request_an_error_has_no_body(scene: Scene) -> None:
    scene.request(HEAD)
    scene.tell(scene.exchange.server_gone, Reason.SERVER_BAD, "why")
    assert scene.client.told == [("respond", 502, b"", True)]
    assert scene.over()["bytes_out"] == 0


# Tunnels


def _tunnel(scene: Scene) -> FakeServer:
    scene.request()
    server = scene.server
    scene.tell(scene.exchange.switched, SWITCH)
    assert scene.client.words() == ["tunnel"] and server.words() == ["request", "tunnel"]
    return server


def test_a_tunnel_is_accounted_for_when_both_ends_are_closed(scene: Scene) -> None:
    server = _tunnel(scene)
    near, far = scene.client.pipe.listener, server.pipe.listener
    assert near is not None and far is not None
    assert scene.exchange.due() == math.inf  # the tunnel has one
    (tunnel,) = scene.core.tunnels
    assert tunnel.deadline == TIMEOUTS.tunnel
    assert scene.backend.servers[0].active[0] == 1
    near.came(b"in")
    far.came(b"out!")
    near.gone(False)
    assert not scene.accounts
    far.gone(False)
    account = scene.over()
    assert (account["reason"], account["state"], account["status"]) == (None, "-", 101)
    assert (account["bytes_in"], account["bytes_out"]) == (2, 4)
    assert scene.count == {"REQUESTS": 1, "BYTES_IN": 2, "BYTES_OUT": 4}
    assert not scene.core.tunnels


@pytest.mark.parametrize(("end", "reason"), [("expire", Reason.TUNNEL_LATE), ("cut", Reason.CUT)])
def test_a_tunnel_that_is_ended(scene: Scene, end: str, reason: Reason) -> None:
    server = _tunnel(scene)
    (tunnel,) = scene.core.tunnels
    getattr(tunnel, end)()
    for pipe in (scene.client.pipe, server.pipe):
        assert pipe.closed and pipe.listener is not None
        pipe.listener.gone(False)
    account = scene.over()
    assert (account["reason"], account["state"]) == (reason, "D")


@pytest.mark.parametrize(("near", "reason"), [(True, Reason.CLIENT_GONE), (False, Reason.SERVER_GONE)])
def test_a_tunnel_of_which_a_connection_breaks(scene: Scene, near: bool, reason: Reason) -> None:
    server = _tunnel(scene)
    pipes = [scene.client.pipe, server.pipe]
    for pipe in pipes if near else reversed(pipes):
        assert pipe.listener is not None
        pipe.listener.gone(True)  # the other one was aborted
    account = scene.over()
    assert (account["reason"], account["state"]) == (reason, "D")
    assert scene.core.counters[Field.ABORTED] == 1


# An error of pylb's own, in whatever a side is asked

Play = Callable[[Scene], None]


def _whole(scene: Scene) -> None:
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.server_full)
    scene.tell(scene.exchange.server_ready)
    scene.tell(scene.exchange.request_body, b"b")
    scene.tell(scene.exchange.request_end, ())
    scene.tell(scene.exchange.interim, HINTS)
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    scene.tell(scene.exchange.client_full)
    scene.tell(scene.exchange.client_ready)
    scene.tell(scene.exchange.response_body, b"b")
    scene.tell(scene.exchange.response_end, ())


def _small(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)


def _refused(scene: Scene) -> None:
    scene.tell(scene.exchange.refuse, Refused(400, "syntax"), scene.client)


def _broken(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    scene.tell(scene.exchange.server_gone, Reason.SERVER_GONE, "why")


def _switched(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.switched, SWITCH)


CRASHES: list[tuple[Play, str, str, int]] = [
    # Which play, who raises at which word, and the status that the client is answered (0: it is cut off)
    (_whole, "client", "pause", 500),
    (_whole, "client", "resume", 500),
    (_whole, "client", "interim", 500),
    (_whole, "client", "respond", 0),
    (_whole, "client", "body", 0),
    (_whole, "client", "end", 0),
    (_whole, "server", "request", 500),
    (_whole, "server", "body", 500),
    (_whole, "server", "end", 500),
    (_whole, "server", "pause", 0),
    (_whole, "server", "resume", 0),
    (_whole, "server", "release", 0),
    (_small, "client", "respond", 0),
    (_small, "server", "request", 500),
    (_small, "server", "release", 500),
    (_refused, "client", "respond", 0),
    (_broken, "client", "abort", 0),
    (_broken, "server", "abort", 0),
    (_switched, "client", "tunnel", 0),
    (_switched, "server", "tunnel", 0),
]


@pytest.mark.parametrize(("play", "who", "word", "status"), CRASHES)
def test_an_error_costs_its_own_exchange(scene: Scene, play: Play, who: str, word: str, status: int) -> None:
    errors = scene.core.errors = []
    server = scene.idle[0]
    raising = scene.client if who == "client" else server
    raising.raises = word
    play(scene)
    assert [str(error) for error in errors] == [word]
    assert word in raising.words()
    account = scene.over()
    assert scene.count["INTERNAL"] == 1
    assert server.free or play is _refused
    assert server.told == [] or server.words()[-1] in ("abort", "release")
    responses = [told[1] for told in scene.client.told if told[0] == "respond"]
    if status:
        assert responses[-1:] == [status] and scene.client.over
        assert account["reason"] is Reason.INTERNAL
    else:
        assert scene.client.words()[-1] == "abort"
        assert account["reason"] is not None


def test_a_phase_that_raises_is_answered_with_500(scene: Scene) -> None:
    scene.core.errors = []
    _phases(scene, Fault())
    scene.request()
    assert scene.client.told[-1][:2] == ("respond", 500)
    assert scene.over()["reason"] is Reason.INTERNAL


def test_a_phase_that_raises_after_a_wait_is_answered_with_500(scene: Scene) -> None:
    scene.core.errors = []
    wait = Waits()
    _phases(scene, wait, Fault())
    scene.request()
    wait.go_on(None)
    assert scene.client.told[-1][:2] == ("respond", 500)
    assert scene.over()["reason"] is Reason.INTERNAL


def test_a_phase_of_the_response_that_raises_is_answered_with_500(scene: Scene) -> None:
    """Nothing of the server's response has been sent yet."""
    scene.core.errors = []
    heads = iter([Fault()])

    def raises_once(tx: Transaction, head: ResponseHead) -> ResponseHead:
        for fault in heads:
            raise fault
        return head

    scene.frontend.on_response = (raises_once,)
    scene.request()
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    assert scene.client.told[-1][:2] == ("respond", 500)
    assert scene.over()["reason"] is Reason.INTERNAL


def test_a_log_that_raises_costs_nobody_anything(scene: Scene) -> None:
    errors = scene.core.errors = []

    def raises(tx: Transaction) -> None:
        raise Fault

    scene.frontend.on_account = (raises, *scene.frontend.on_account)
    scene.request()
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)
    assert scene.client.told == [("respond", 200, b"ok", True)]
    assert len(errors) == 1
    assert scene.core.spare == [scene.exchange]
    assert scene.count == {"REQUESTS": 1, "STATUS_2XX": 1, "INTERNAL": 1}


# Whatever the order


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_order_nothing_is_lost_or_sent_twice(
    data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any order of what sides may say: bodies arrive whole and in order, and one account is made."""
    scene = Scene(monkeypatch, pooled=data.draw(st.booleans()), timeouts=TIMEOUTS)
    try:
        _any_order(data, scene)
    finally:
        for task in scene.core.stand_in.tasks:
            task.cancel()


def _any_order(data: st.DataObject, scene: Scene) -> None:
    exchange, client = scene.exchange, scene.client
    tries: list[FakeServer] = list(scene.idle)
    sent, answered = b"", b""
    number = 0
    body_open = data.draw(st.booleans())
    head = data.draw(st.sampled_from([POST, PUT]))
    responding = full = stuck = False

    def piece() -> bytes:
        nonlocal number
        number += 1
        return b"<%d>" % number

    first = data.draw(st.sampled_from([b"", b"<first>"]))
    sent += first
    scene.request(head, first, not body_open)
    while not scene.accounts:
        server = exchange.server
        words = ["client gone", "late"]
        if body_open and client.words().count("pause") == client.words().count("resume"):
            words += ["body", "body", "end"]
        if body_open:
            words += ["refuse"]
        if exchange.connecting is not None:
            words += ["connected", "connected", "not connected"]
        if server is not None:
            words += ["server gone", "full", "ready"]
            if not stuck:
                words += (
                    ["response body", "response body", "response end"]
                    if responding
                    else ["response", "interim", "whole", "stale"]
                )
            words += ["client ready"] if stuck else ["client full"]
        word = data.draw(st.sampled_from(words))
        if word == "client gone":
            exchange.client_gone(Reason.CLIENT_GONE)
        elif word == "late":
            scene.late()
        elif word == "body":
            sent += (one := piece())
            exchange.request_body(one)
        elif word == "end":
            body_open = False
            exchange.request_end(())
        elif word == "refuse":
            exchange.refuse(Refused(400, "chunk"))
        elif word == "connected":
            tries.append(FakeServer())
            scene.connect(tries[-1])
        elif word == "not connected":
            scene.connections.append(ConnectionRefusedError(errno.ECONNREFUSED, "Refused"))
            scene.core.stand_in.tasks.pop(0).run()
        elif word == "server gone":
            exchange.server_gone(Reason.SERVER_GONE, "why")
        elif word == "stale":
            exchange.server_gone(Reason.SERVER_STALE, "why")
        elif word in ("full", "ready"):
            if full is (word == "ready"):
                full = not full
                (exchange.server_full if full else exchange.server_ready)()
        elif word == "interim":
            exchange.interim(HINTS)
        elif word == "response":
            responding = True
            answered += (one := piece())
            exchange.response(STREAM, one, 0, False)
        elif word == "response body":
            answered += (one := piece())
            exchange.response_body(one)
        elif word == "response end":
            exchange.response_end(())
        elif word == "whole":
            answered += (one := piece())
            exchange.response(OK, one, 0, True)
        elif word == "client full":
            stuck = True
            exchange.client_full()
        else:
            stuck = False
            exchange.client_ready()
        if exchange.client is not None:
            assert exchange.due() < math.inf, f"no deadline after {word}"
    account = scene.over()
    assert account["bytes_in"] == len(sent)
    used = [side for side in tries if side.told]
    for side in used[:-1]:
        assert sent.startswith(side.received)
    if used and account["reason"] is None and not body_open:
        assert used[-1].received == sent
    if not account["own"]:
        assert client.response == answered
        assert account["bytes_out"] == len(answered)
    whole = any(one[0] == "end" or (one[0] == "respond" and one[3]) for one in client.told)
    assert scene.core.counters[Field.ABORTED] == (not whole and account["reason"] in CUT_SHORT)
    statuses = scene.core.counters[Field.STATUS_1XX : Field.STATUS_5XX + 1]
    assert sum(statuses) == whole
