"""The exchange, between two fake sides: whatever they may say, in any order."""

from __future__ import annotations

import errno
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pylb.http.errors import Refused
from pylb.scoreboard import Field
from pylb.worker.phases.account import CUT_SHORT
from pylb.worker.reasons import Reason
from tests.worker.scene import TIMEOUTS, Scene
from tests.worker.stand_ins import HINTS, OK, POST, PUT, STREAM, FakeServer


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
