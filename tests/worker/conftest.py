"""Scenes for the tests of the exchange."""

from __future__ import annotations

import pytest

from tests.worker.scene import TIMEOUTS, Scene


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """With idle connections to all servers."""
    return Scene(monkeypatch, timeouts=TIMEOUTS)


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Without any connection to a server."""
    return Scene(monkeypatch, pooled=False, timeouts=TIMEOUTS)
