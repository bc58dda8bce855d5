"""The exchange, between two fake sides: each reason to end in each state, tunnels, errors of pylb's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pytest

from pylb.http.errors import Refused
from pylb.http.response import ResponseHead
from pylb.scoreboard import Field
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction
from tests.worker.scene import TIMEOUTS, Scene, Waits
from tests.worker.stand_ins import HEAD, HINTS, OK, POST, STREAM, SWITCH, FakeServer, Fault

# Ends: each reason, in each state

State = Literal["connecting", "waiting", "body", "sent", "answered"]


def _in(state: State, scene: Scene) -> None:
    if state == "connecting":
        for server in scene.backend.servers:
            server.pool.idle.clear()
    if state == "waiting":
        scene.phases(Waits())
    scene.request(POST, b"a", state not in ("body",))
    if state == "answered":
        scene.tell(scene.exchange.response, STREAM, b"a", 0, False)


@pytest.mark.parametrize(
    ("state", "letter"),
    [("connecting", "C"), ("waiting", "Q"), ("body", "D"), ("sent", "H"), ("answered", "D")],
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
    assert scene.count == {"REQUESTS": 1}
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
    scene.phases(Fault())
    scene.request()
    assert scene.client.told[-1][:2] == ("respond", 500)
    assert scene.over()["reason"] is Reason.INTERNAL


def test_a_phase_that_raises_after_a_wait_is_answered_with_500(scene: Scene) -> None:
    scene.core.errors = []
    wait = Waits()
    scene.phases(wait, Fault())
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
