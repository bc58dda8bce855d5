"""What the scaling loop tells the controller and the supervisor, and when."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from controller import embedded
from controller.embedded import EmbeddedController
from controller.protocol import Grant, Report
from controller.sources.measured import MeasuredSource, cpu_times
from pylb.config import load
from pylb.control import scaler as scaler_module
from pylb.control import snapshot
from pylb.control.scaler import TICK, YOUNG, Scaler, remember, remembered
from pylb.scaling.policy import Decision, Inputs, Memory
from pylb.scoreboard import Field, Scoreboard, State


class Listening:
    """A controller that grants nothing and keeps what it is told."""

    connected = True
    description = "listening"
    problem = ""
    since = 0.0

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
    monkeypatch.setattr("time.process_time", lambda: 0.0)
    scaler, told = scaler_and_controller(monkeypatch, [])
    monkeypatch.setattr(scaler.busy, "sample", lambda: None)
    monkeypatch.setattr(snapshot.Busy, "known", True)
    idle = total = 0.0
    source = MeasuredSource(read=lambda: {0: (idle, total)}, usable=lambda: 1.0, mask=lambda: {0})
    sums = []
    for step in range(40):
        busy = 0.9 if step % 4 else 0.1  # of a quarter of a second
        now = 1000 + 0.25 * step
        idle, total = idle + 0.25 * (1 - busy), total + 0.25
        source.sample(now)
        scaler.busy.fractions[0] = busy
        scaler.step(now)
        sums.append(told.reports[-1].busy + source.idle())
    assert sums[20::2] == pytest.approx([1.0] * 10, abs=0.001)  # a report goes out with every second step


class Machine:
    """Simulated: so many cores, and workers that each use a part of one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, share: float = 1.0) -> None:
        self.now = 1000.0
        self.cores, self.share = cores, share
        self.board = Scoreboard(cores)
        self.orders: list[int] = []
        self._times = [(0.0, 1000.0)] * cores
        self._rows = range(0)
        self.generation(range(workers))
        monkeypatch.setattr(embedded, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(scaler_module, "usable_cores", lambda: float(cores))
        monkeypatch.setattr(
            scaler_module,
            "MeasuredSource",
            lambda: MeasuredSource(
                read=lambda: dict(enumerate(self._times)),
                usable=lambda: float(cores),
                mask=lambda: set(range(cores)),
            ),
        )

    def generation(self, rows: range) -> None:
        """These rows' workers serve from now on, new ones; those before them leave."""
        for row in self._rows:
            self.board.row(row)[Field.STATE] = State.RETIRING
        for row in rows:
            cells = self.board.row(row)
            cells[Field.STATE], cells[Field.PID] = State.SERVING, 100 + row
            cells[Field.HEARTBEAT_NS] = round(self.now * 1e9)
        self._rows = rows

    def control_plane(self) -> Scaler:
        """Another one begins."""
        config = load.quick(["127.0.0.1:0"], ["127.0.0.1:9"], workers=f"1..{self.cores}")
        scaler = Scaler(config, self.board, lambda count, reason: self.orders.append(count))
        scaler.target = len(self._rows)  # what the supervisor says
        return scaler

    def run(self, scaler: Scaler, seconds: float) -> None:
        """Time passes; the workers use what they use, and the rest of their cores is idle."""
        assert isinstance(scaler.controller, EmbeddedController)
        for _ in range(round(seconds / TICK)):
            scaler.controller.sample(self.now)
            scaler.step(self.now)
            self.now += TICK
            for row in self._rows:
                cells = self.board.row(row)
                cells[Field.HEARTBEAT_NS] = round(self.now * 1e9)
                cells[Field.CPU_NS] += round(TICK * self.share * 1e9)
            busy = len(self._rows) * self.share / self.cores
            self._times = [(idle + TICK * (1 - busy), total + TICK) for idle, total in self._times]


@pytest.mark.parametrize("share", [1.0, 0.75])
def test_busy_workers_stay_when_the_control_plane_begins_anew(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Seen: 8 busy workers became 5 within seconds."""
    machine = Machine(monkeypatch, 8, 8, share)
    machine.run(machine.control_plane(), 10)
    for seconds in (0.25, 1.0, 3.5, 10.0):
        machine.run(machine.control_plane(), seconds)
    # So does a reload, with workers in other rows.
    machine.generation(range(8, 16))
    machine.run(machine.control_plane(), 10)
    assert machine.orders == []


def test_a_new_control_plane_says_at_once_what_the_workers_use(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 8, 8)
    machine.run(machine.control_plane(), 10)
    scaler, told = machine.control_plane(), Listening()
    monkeypatch.setattr(scaler, "controller", told)
    scaler.step(machine.now)
    assert told.reports[0].busy == pytest.approx(8, rel=0.01)


def test_a_worker_that_leaves_is_not_somebody_elses_use(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 4, 4)
    scaler = machine.control_plane()
    machine.run(scaler, 5)
    machine.board.row(3)[Field.STATE] = State.RETIRING
    told = Listening()
    monkeypatch.setattr(scaler, "controller", told)
    scaler.step(machine.now)
    assert told.reports[-1].busy == pytest.approx(4, rel=0.05)


def test_a_controller_that_was_connected_anew_takes_nothing_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 8, 8)
    scaler = machine.control_plane()
    machine.run(scaler, YOUNG + 1)
    told = Listening()
    monkeypatch.setattr(told, "current", lambda now: Grant(0, 1, 3.0, "I know nobody"))
    monkeypatch.setattr(scaler, "controller", told)
    told.since = machine.now
    scaler.step(machine.now + YOUNG - 0.1)
    assert machine.orders == []
    assert "too early to go by" in scaler.decision.reason
    scaler.step(machine.now + YOUNG)
    assert machine.orders == [1]


def test_a_worker_that_hangs_does_not_blind_a_new_control_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 4, 1)
    cells = machine.board.row(3)
    cells[Field.STATE], cells[Field.PID], cells[Field.HEARTBEAT_NS] = State.SERVING, 7, 1
    scaler = machine.control_plane()
    machine.run(scaler, YOUNG + 1)
    assert scaler.busy.fractions == {0: pytest.approx(1.0), 3: 0.0}
    assert scaler.busy.known


def test_an_embedded_controllers_grant_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision beside a report went by the grant before it."""
    scaler, told = scaler_and_controller(monkeypatch, [])
    grants: list[Grant] = []
    monkeypatch.setattr(told, "report", lambda report: grants.append(Grant(2, 1, 3.0, "two are idle")))
    monkeypatch.setattr(told, "current", lambda now: grants[-1] if grants else None)
    seen: list[Inputs] = []

    def decide(now: float, inputs: Inputs) -> Decision:
        seen.append(inputs)
        return Decision(inputs.current, "")

    monkeypatch.setattr(scaler._policy, "decide", decide)
    scaler.step(1000.0)
    assert (seen[0].granted, seen[0].idle) == (1, 2)


def test_what_the_policy_remembers_outlives_the_control_plane() -> None:
    board = Scoreboard(2)
    assert remembered(board) == Memory()
    for memory in (Memory(12.5, 11.25, 5.1, 20.0), Memory(12.5, -math.inf, 0.0, -math.inf)):
        remember(board, memory)
        assert remembered(board) == memory


def test_a_quota_of_one_and_a_half_cpus_gives_two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 4, 1)
    monkeypatch.setattr(scaler_module, "usable_cores", lambda: 1.5)
    scaler = machine.control_plane()
    assert isinstance(scaler.controller, EmbeddedController)
    monkeypatch.setattr(scaler.controller.source, "_usable", lambda: 1.5)
    machine.run(scaler, 3)
    assert machine.orders == [2]
    # Half of an idle core is none: that one is somebody else's, too.
    assert scaler.status()["usable_cores"] == 1.5


def test_a_machine_that_does_not_tell_its_times_has_no_idle_cores(tmp_path: Path) -> None:
    """Without ``/proc`` the control plane died at each start, and nobody could ask for the status."""
    source = MeasuredSource(read=lambda: cpu_times(tmp_path / "stat"))
    for second in range(5):
        source.sample(1000.0 + second)
    assert source.idle() == 0.0 and source.per_cpu() == []


def test_the_control_planes_own_use_is_no_one_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an emulated machine it uses a tenth of a core, which was held against it: 1.7 cores are no 1.75."""
    spent = 0.0
    monkeypatch.setattr("time.process_time", lambda: spent)
    scaler, told = scaler_and_controller(monkeypatch, [])
    monkeypatch.setattr(scaler.busy, "sample", lambda: None)
    monkeypatch.setattr(snapshot.Busy, "known", True)
    scaler.busy.fractions[0] = 0.9
    for step in range(40):
        spent += 0.125 * TICK
        scaler.step(1000 + TICK * step)
    assert told.reports[-1].busy == pytest.approx(1.025, abs=0.001)
