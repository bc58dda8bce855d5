"""Scenes for the tests of the exchange, and a line for those of HTTP/1 towards clients."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from pylb.worker.client import http1requests
from tests.worker.http1_line import Line
from tests.worker.scene import TIMEOUTS, Scene


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A worker takes TERM and INT, and its loop doesn't give them back when it is closed."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """With idle connections to all servers."""
    return Scene(monkeypatch, timeouts=TIMEOUTS)


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Without any connection to a server."""
    return Scene(monkeypatch, pooled=False, timeouts=TIMEOUTS)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    one = Line()
    monkeypatch.setattr(http1requests, "begin", one.begin)
    return one
