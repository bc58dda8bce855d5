"""Idleness as measured from the kernel's times of each CPU; times are passed in."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.sources.measured import MeasuredSource, cpu_times
from controller.sources.quota import whole_cores


def test_measured_idleness_is_smoothed_and_kept_within_the_mask() -> None:
    times = [(0.0, 0.0), (0.0, 0.0), (0.0, 0.0)]
    source = MeasuredSource(1.0, lambda: dict(enumerate(times)), lambda: 2.0, lambda: {0, 1})
    times = [(1.0, 1.0), (0.5, 1.0), (1.0, 1.0)]
    source.sample(1)
    assert source.idle() == 1.5
    times = [(1.0, 2.0), (0.5, 2.0), (2.0, 2.0)]
    source.sample(2)
    assert source.idle() == 0.75


def test_a_cpu_that_comes_or_goes_does_not_hide_the_others() -> None:
    times = [(0.0, 0.0)] * 2
    source = MeasuredSource(1.0, lambda: dict(enumerate(times)), lambda: 4.0, lambda: {0, 1, 2, 3})
    times = [(1.0, 1.0)] * 2
    source.sample(1)
    assert source.idle() == 2
    times = [(1.0, 1.0)] * 4
    source.sample(2)
    assert source.idle() == 2
    times = [(1.0, 1.0)]
    source.sample(3)
    assert source.idle() == 1


def test_a_cpu_that_has_come_is_known_with_its_first_measurement() -> None:
    times = [(0.0, 0.0)]
    source = MeasuredSource(1.0, lambda: dict(enumerate(times)), lambda: 2.0, lambda: {0, 1})
    for now in (1.0, 1.25, 1.5, 1.75):
        times = [(0.0, now), (now, now)] if now > 1.0 else [(0.0, now)]
        source.sample(now)
        assert source.idle() == (1.0 if now > 1.25 else 0.0)
    times = [(0.0, 2.0)]
    source.sample(2.0)
    times = [(0.0, 9.0), (2.0, 9.0)]  # it comes again, busy this time
    source.sample(9.0)
    times = [(0.0, 9.25), (2.0, 9.25)]
    source.sample(9.25)
    assert source.idle() == 0.0


def test_cpus_are_known_by_their_numbers(tmp_path: Path) -> None:
    """CPU 1 is offline: of the three others the last one's idleness counted for nothing."""
    stat = tmp_path / "stat"
    mask = {0, 2, 3}

    def look(idle: int) -> None:
        lines = [f"cpu{cpu} 0 0 0 {cpu * 1000 + idle} 0 0 0 0 0 0\n" for cpu in sorted(mask)]
        stat.write_text(f"cpu  0 0 0 0 0 0 0 0 0 0\n{''.join(lines)}intr 1 0\n")

    look(0)
    source = MeasuredSource(0.7, lambda: cpu_times(stat), lambda: 4.0, lambda: mask)
    look(100)
    source.sample(1)
    assert source.idle() == 3.0 and source.per_cpu() == [1.0, 0.0, 1.0, 1.0]
    mask = {0, 1, 3}  # as many as before
    look(200)
    source.sample(2)
    assert source.idle() == 2.0
    look(300)
    source.sample(3)
    assert source.idle() == 3.0


def test_when_a_cpu_comes_who_was_busy_before_says_nothing() -> None:
    """The only process moves to the new CPU: the old one is idle, and was not for a second and a half."""
    times = [(0.0, 0.0)]
    source = MeasuredSource(0.7, lambda: dict(enumerate(times)), lambda: 2.0, lambda: {0, 1})
    times = [(0.0, 10.0)]
    source.sample(10.0)
    times = [(0.0, 10.25), (0.0, 0.0)]
    source.sample(10.25)
    times = [(0.01, 10.3), (0.0, 0.05)]  # a moment tells nothing yet
    source.sample(10.3)
    assert source.idle() == 0.0
    times = [(0.25, 10.5), (0.0, 0.25)]
    source.sample(10.5)
    assert source.capacity({"a": 1.0}) == 2.0
    times = [(0.25, 11.2), (0.0, 0.95)]  # from then on it is smoothed as ever
    source.sample(11.2)
    assert source.idle() == pytest.approx(0.5)


def test_interrupts_are_the_use_of_those_who_cause_them() -> None:
    """A worker and its network fill one core, the other is idle, and was not lent: 0.72 and 1 are no 1.75."""
    times = [(0.0, 0.0, 0.0)] * 2
    source = MeasuredSource(1.0, lambda: dict(enumerate(times)), lambda: 2.0, lambda: {0, 1})
    times = [(0.0, 1.0, 0.28), (1.0, 1.0, 0.0)]
    source.sample(1)
    assert source.capacity({"a": 0.72}) == pytest.approx(2.0)
    assert source.capacity({"a": 0.36}) == pytest.approx(1.5)  # another process has half of it
    assert source.capacity({}) == source.idle() == 1.0
    assert source.capacity({"a": 5.0}) == 2.0


def test_nothing_is_known_of_a_moment() -> None:
    times = [(0.0, 0.0)]
    source = MeasuredSource(1.0, lambda: dict(enumerate(times)), lambda: 1.0, lambda: {0})
    times = [(0.0, 0.01)]
    source.sample(0.01)
    times = [(0.24, 0.25)]
    source.sample(0.25)
    assert source.idle() == pytest.approx(0.96)


@pytest.mark.parametrize(
    ("usable", "workers"),
    [(0.2, 1), (1.0, 1), (1.1, 1), (1.25, 2), (1.5, 2), (1.7, 2), (2.0, 2), (2.1, 2), (3.5, 4), (64.0, 64)],
)
def test_a_quotas_fraction_is_rounded_up_and_idleness_is_not(usable: float, workers: int) -> None:
    assert whole_cores(usable) == workers
    times = [(0.0, 0.0)] * 64
    source = MeasuredSource(1.0, lambda: dict(enumerate(times)), lambda: usable, lambda: set(range(64)))
    times = [(1.0, 1.0)] * 64
    source.sample(1)
    assert source.capacity({}) == workers
    times = [(1.5, 2.0)] + [(1.0, 2.0)] * 63  # half of one core is idle now, and none of the others
    for second in range(2, 20):
        source.sample(second)
        times = [(idle + 0.5 * (cpu == 0), total + 1) for cpu, (idle, total) in enumerate(times)]
    assert source.capacity({}) == pytest.approx(0.5, abs=0.01)
