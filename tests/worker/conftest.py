"""Scenes for the tests of the exchange."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

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
