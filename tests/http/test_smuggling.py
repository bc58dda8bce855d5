"""What reaches a server is what pylb counted, however the bytes come (longer in ``bench/fuzz.py``)."""

from __future__ import annotations

import random

import pytest

from bench.fuzz import Finding, check, run, stream
from pylb.http import request
from tests.http.wire import Wire


def test_damaged_streams() -> None:
    passed_on = refused = 0
    for number in range(3000):
        source = random.Random(number)
        data = stream(source)
        check(data, source)
        seen = run([data])
        passed_on += seen.answered
        refused += any(status >= 400 for status in seen.statuses)
    # Both happen often, or this would show nothing.
    assert passed_on > 1000
    assert refused > 500


def test_the_judge_is_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one rule broken, the check must find it."""
    read = request.RequestHead.read

    def blind(head: request.RequestHead, raw: bytes) -> None:
        read(head, raw)
        head.content_length = 0  # the body is taken for the next request

    monkeypatch.setattr(request.RequestHead, "read", blind)
    with pytest.raises(Finding):
        for number in range(3000):
            source = random.Random(number)
            check(stream(source), source)


def test_pipelined_requests_are_answered_in_order() -> None:
    wire = Wire()
    wire.client_sends(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20)))
    for number in range(20):
        server = wire.server
        assert server is not None
        wire.server_sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%02d" % number)
    bodies = wire.near.written.split(b"\r\n\r\n")[1:]
    assert [int(body[:2]) for body in bodies] == list(range(20))
