"""What the scaling loop tells the controller and the supervisor, and when."""

from __future__ import annotations

import pytest

from controller.protocol import Grant, Report
from controller.sources.measured import MeasuredSource
from pylb.config import load
from pylb.control.scaler import Scaler
from pylb.scaling.policy import Decision, Inputs
from pylb.scoreboard import Scoreboard


class Listening:
    """A controller that grants nothing and keeps what it is told."""

    connected = True
    description = "listening"
    problem = ""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def report(self, report: Report) -> None:
        self.reports.append(report)

    def current(self, now: float) -> Grant | None:
        return None

    async def run(self) -> None:
        """Nothing to do."""


def scaler_and_controller(monkeypatch: pytest.MonkeyPatch, orders: list[int]) -> tuple[Scaler, Listening]:
    config = load.quick(["127.0.0.1:0"], ["127.0.0.1:9"], workers="1..2")
    scaler = Scaler(config, Scoreboard(2), lambda count, reason: orders.append(count))
    told = Listening()
    monkeypatch.setattr(scaler, "controller", told)
    return scaler, told


def test_what_the_controller_says_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pylb")
    scaler, told = scaler_and_controller(monkeypatch, [])
    wrong = "token: wrong token"
    for told.connected, told.problem in ((False, wrong), (False, ""), (False, wrong), (True, "")):
        scaler.step(1000.0)
    told_of = [record.getMessage() for record in caplog.records if record.name == "pylb"]
    assert told_of == [
        "controller listening: not connected: token: wrong token; the worker count won't grow",
        "controller listening: connected",
    ]


def test_a_change_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[int] = []
    scaler, told = scaler_and_controller(monkeypatch, orders)
    targets = iter((1, 2))

    def decide(now: float, inputs: Inputs) -> Decision:
        return Decision(next(targets), "as it is written")

    monkeypatch.setattr(scaler._policy, "decide", decide)
    for step in range(2):
        scaler.step(1000 + 0.25 * step)
    assert orders == [2]
    # The first step reports as one does every half second, the second because of the change.
    assert [report.workers for report in told.reports] == [1, 2]


def test_its_own_use_is_reported_as_smooth_as_idleness_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    scaler, told = scaler_and_controller(monkeypatch, [])
    idle = total = 0.0
    source = MeasuredSource(read=lambda: [(idle, total)], usable=lambda: 1.0, mask=lambda: {0})
    sums = []
    for step in range(40):
        busy = 0.9 if step % 4 else 0.1  # of a quarter of a second
        now = 1000 + 0.25 * step
        idle, total = idle + 0.25 * (1 - busy), total + 0.25
        source.sample(now)
        inputs = Inputs(1, 1.0, busy=[busy])
        monkeypatch.setattr(scaler, "inputs", lambda now, inputs=inputs: inputs)
        scaler.step(now)
        sums.append(told.reports[-1].busy + source.idle())
    assert sums[20::2] == pytest.approx([1.0] * 10, abs=0.001)  # a report goes out with every second step
