"""The exchange, between two fake sides: who is held back while the other one does not take, and deadlines."""

from __future__ import annotations

import math

import pytest

from pylb.config.model import Limits, Timeouts
from pylb.worker.reasons import Reason
from tests.worker.scene import TIMEOUTS, Scene
from tests.worker.stand_ins import HINTS, POST, PUT, STREAM, FakeServer

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


def test_while_a_request_is_not_whole_its_client_is_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the server, which waits for the rest, though it could have answered already."""
    scene = Scene(monkeypatch, timeouts=Timeouts(client=50.0, server=5.0))
    scene.request(POST, b"a", False)
    for _ in range(3):
        scene.pass_(40.0)
        scene.tell(scene.exchange.request_body, b"b")
    assert scene.client.told == []
    scene.tell(scene.exchange.request_end, ())
    assert scene.exchange.due() == scene.core.now + 5.0
    scene.late()
    assert scene.client.told[-1][:2] == ("respond", 504)


def test_a_client_that_stalls_is_answered_408_whatever_the_server_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch, timeouts=Timeouts(client=50.0, server=5.0))
    scene.request(POST, b"a", False)
    scene.late()
    assert scene.core.now > 50.0
    assert scene.client.told[-1][:2] == ("respond", 408)
    assert scene.over()["reason"] is Reason.CLIENT_LATE
    assert scene.backend.servers[0].errors == 0


def test_a_server_that_pauses_within_a_request_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, timeouts=Timeouts(client=5.0, server=50.0))
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.server_full)
    for _ in range(8):
        scene.pass_(6.0)  # the client isn't read, so it is not late
    scene.tell(scene.exchange.server_ready)
    assert scene.client.words() == ["pause", "resume"]
    assert scene.exchange.due() == scene.core.now + 5.0
    scene.late()
    assert scene.client.told[-1][:2] == ("respond", 408)


def test_a_request_that_is_taken_slowly_is_taken(scene: Scene) -> None:
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.server_full)
    for left in (500, 400, 300):
        scene.server.left = left
        until = scene.exchange.server_deadline
        while scene.exchange.server_deadline == until:
            scene.late()
        assert scene.client.words() == ["pause"]
    while not scene.accounts:
        scene.late()
    assert scene.over()["reason"] is Reason.SERVER_LATE


@pytest.mark.parametrize("stuck", [False, True])
def test_an_early_answer_leaves_the_client_on_the_clock(scene: Scene, stuck: bool) -> None:
    """Who sends and receives at the same time may do so in any order."""
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    if stuck:
        scene.tell(scene.exchange.client_full)
        scene.tell(scene.exchange.client_ready)
    for _ in range(5):
        scene.pass_(8.0)
        scene.tell(scene.exchange.request_body, b"b")
    scene.tell(scene.exchange.response_body, b"b")
    assert scene.exchange.server_deadline == math.inf
    scene.tell(scene.exchange.request_end, ())
    assert scene.exchange.due() == scene.core.now + TIMEOUTS.server


def test_who_speaks_both_ways_lives_while_either_side_speaks(scene: Scene) -> None:
    """As gRPC's streams do, whose request is whole only when they end."""
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    for _ in range(5):
        scene.pass_(8.0)
        scene.tell(scene.exchange.response_body, b"b")
    for _ in range(5):
        scene.pass_(8.0)
        scene.tell(scene.exchange.request_body, b"c")
    assert scene.client.words() == ["respond", *["body"] * 5]
    scene.pass_(TIMEOUTS.client + 0.1)  # now nobody does
    assert scene.client.words()[-1] == "abort"
    assert scene.over()["reason"] is Reason.CLIENT_LATE


def test_who_does_not_take_the_response_gets_no_time_by_more_of_it(scene: Scene) -> None:
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    scene.tell(scene.exchange.client_full)
    due = scene.exchange.due()
    scene.core.now += 5.0
    scene.tell(scene.exchange.response_body, b"b")  # it was on its way
    assert scene.exchange.due() == due


def test_a_whole_request_whose_response_streams_has_the_servers_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server's stream of gRPC: its client has nothing more to say."""
    scene = Scene(monkeypatch, timeouts=Timeouts(client=5.0, server=50.0))
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.request_end, ())
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    for _ in range(5):
        scene.pass_(40.0)
        scene.tell(scene.exchange.response_body, b"b")
    assert scene.exchange.due() == scene.core.now + 50.0


def test_the_rate_of_a_body_is_asked_of_nobody_who_was_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, timeouts=TIMEOUTS, limits=Limits(body_rate=100))
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    for _ in range(5):
        scene.pass_(8.0)
        scene.tell(scene.exchange.request_body, b"b")
    assert scene.client.words() == ["respond"]


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
