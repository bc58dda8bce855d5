"""What a guarded part raises is logged once, counted, and ends nothing else."""

from __future__ import annotations

import time

import pytest

from pylb.supervisor.guard import Guard


def fail() -> None:
    raise RuntimeError("as it is written")


def test_the_same_failure_is_told_once_and_then_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard()
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(50):
        with guard("levelling"):
            fail()
    assert [record.getMessage() for record in caplog.records] == [
        "levelling failed unexpectedly; the rest goes on"
    ]
    assert caplog.records[0].exc_info is not None  # the traceback
    now += 61
    with guard("levelling"):
        fail()
    guard.tick(now)
    assert "levelling failed unexpectedly: RuntimeError('as it is written') (50 more in 61 s)" in caplog.text
    with guard("steering"):
        fail()
    assert "steering failed unexpectedly" in caplog.text
    assert guard.caught == 52


def test_an_exit_is_no_failure() -> None:
    with pytest.raises(SystemExit), Guard()("a part"):
        raise SystemExit(3)


def test_a_log_that_fails_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylb.supervisor.guard.log.error", lambda *args, **more: fail())
    with Guard()("a part"):
        fail()
