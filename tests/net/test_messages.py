"""What one process believes of another's messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.net import channel, messages

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
OPS = st.sampled_from(["ready", "scale", "pin", "state", "listen", "move", "retire", "", "else"])
NAMES = st.sampled_from(
    ["n", "reason", "id", "target", "pinned", "generation", "slots", "to", "count", "binds"]
)


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"op": None},
        {"op": ["scale"]},
        {"op": "scale"},
        {"op": "scale", "n": 2},
        {"op": "scale", "n": True, "reason": ""},
        {"op": "scale", "n": 2.0, "reason": ""},
        {"op": "scale", "n": -1, "reason": ""},
        {"op": "scale", "n": 10**30, "reason": ""},
        {"op": "scale", "n": 2, "reason": ["x"]},
        {"op": "pin", "n": "2", "id": 1},
    ],
)
def test_what_the_supervisor_passes_over(message: dict[str, Any]) -> None:
    assert messages.wrong(message, messages.TO_SUPERVISOR)


def test_what_it_takes() -> None:
    for message in (
        {"op": "ready"},
        {"op": "scale", "n": 2, "reason": "pressure"},
        {"op": "pin", "n": None, "id": 1},
        {"op": "of a later version"},
    ):
        assert messages.wrong(message, messages.TO_SUPERVISOR) == ""


@given(st.dictionaries(NAMES, ANYTHING, max_size=4), OPS | ANYTHING)
def test_any_message_is_judged(fields: dict[str, Any], op: Any) -> None:
    message = {**fields, "op": op}
    for known in (messages.TO_SUPERVISOR, messages.TO_CONTROL, messages.TO_WORKER):
        assert isinstance(messages.wrong(message, known), str)


@given(st.lists(st.text(max_size=50), max_size=30), st.integers(1, 10), st.integers(1, 20))
def test_shortened_lines_are_few_and_short(lines: list[str], most: int, width: int) -> None:
    result = messages.shortened(lines, most, width)
    assert len(result) <= most
    left_out = len(lines) - most + 1
    if len(lines) > most:
        assert result[-1] == f"… and {left_out} more, see the log"
        result.pop()
    assert all(len(line) <= width for line in result)


def test_the_longest_refusal_fits_into_a_packet() -> None:
    errors = messages.shortened(["\U0001f600" * 1000] * 5000)
    workers = [
        {"slot": 255, "row": 1027, "pid": 4194304, "state": "retiring", "generation": 10**9}
        for _ in range(1028)
    ]
    state = {"op": "state", "target": 256, "workers": workers, "reload": {"ok": False, "errors": errors}}
    one, other = channel.pair()
    with one, other:
        assert channel.send(one, state)
        assert channel.recv(other) == state


def test_a_message_that_is_too_large_is_dropped_and_told(caplog: pytest.LogCaptureFixture) -> None:
    one, other = channel.pair()
    with one, other:
        assert channel.send(
            one, {"op": "huge", "text": "x" * 10_000_000}
        )  # else it would be sent again for ever
        assert channel.send(one, {"op": "no JSON", "text": b"x"})  # likewise
        assert channel.send(one, {"op": "next"})
        assert channel.recv(other) == {"op": "next"}
    assert "'huge' can't be sent" in caplog.text and "'no JSON' can't be sent" in caplog.text


@pytest.mark.parametrize(
    "data", [b"{", b"[" * 100_000, b"[]", b"3", b'{"n": ' + b"9" * 5000 + b"}", b"\xff\xfe\xfd", b"null"]
)
def test_what_is_no_message_is_said_and_the_next_one_is_read(data: bytes) -> None:
    one, other = channel.pair()
    with one, other:
        one.send(data)
        channel.send(one, {"op": "next"})
        one.send(data)
        one.close()
        assert list(channel.waiting(other)) == [{"op": "next"}, None]


@given(st.binary(min_size=1, max_size=200) | ANYTHING.map(lambda one: json.dumps(one).encode()))
def test_any_packet_is_read(data: bytes) -> None:
    one, other = channel.pair()
    with one, other:
        one.send(data)
        one.close()
        assert list(channel.waiting(other))[-1] is None
