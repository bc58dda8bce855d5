"""The exchange, between two fake sides: a request and its response."""

from __future__ import annotations

import pytest

from pylb.http.errors import Refused
from pylb.http.response import ResponseHead
from pylb.worker.exchange import begin
from pylb.worker.reasons import Reason
from pylb.worker.sides import Spans
from tests.worker.scene import Scene
from tests.worker.stand_ins import HINTS, OK, POST, STREAM, SWITCH, FakeClient, FakeServer


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
    scene.backend.servers[0].pool.idle[scene.idle[0]] = None
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
