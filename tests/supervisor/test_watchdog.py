"""Who is silent, and who only gets no CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from pylb.supervisor.readings import reading
from pylb.supervisor.watchdog import LONGEST_STEP, STUCK, Reading, Watch

TICK = 0.1


class Process:
    """A process under watch, whose seconds are played."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.now = 1000.0
        self.beat = 1
        self.ran = self.waited = 0.0
        self.reads = 0
        self._owed = 0.0  # waiting that the kernel tells when it is over
        self.look(False)

    def look(self, runnable: bool) -> float:
        def read() -> Reading:
            self.reads += 1
            return Reading(runnable, self.ran, self.waited)

        return self.watch.look(self.now, self.beat, read)

    def lives(self, seconds: float) -> float:
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self.ran += TICK / 10
            self.beat += 1
            self.look(False)
        return self.watch.silence

    def stopped(self, seconds: float, tick: float = TICK) -> float:
        for _ in range(round(seconds / tick)):
            self.now += tick
            self.look(False)
        return self.watch.silence

    def loops(self, seconds: float, share: float = 1.0) -> float:
        """Runs without a beat, on a CPU of which it gets a share."""
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self.ran += TICK * share
            self.waited += TICK * (1 - share)
            self.look(True)
        return self.watch.silence

    def starves(self, seconds: float) -> float:
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self._owed += TICK
            self.look(True)
        return self.watch.silence

    def gets_a_cpu(self) -> None:
        self.now += TICK
        self.waited += self._owed
        self._owed = 0.0
        self.look(True)


def test_a_stopped_process_is_stuck_within_two_seconds() -> None:
    process = Process()
    process.lives(1)
    assert process.stopped(STUCK + 0.3) >= STUCK
    assert process.stopped(10) >= 10


def test_it_is_so_for_one_that_is_looked_at_twice_a_second() -> None:
    """The first late look makes the supervisor look more often."""
    process = Process()
    process.lives(1)
    assert 0 < process.stopped(0.5, tick=0.5) <= LONGEST_STEP
    assert process.stopped(1.0) >= STUCK


def test_a_looping_process_is_stuck() -> None:
    process = Process()
    assert process.loops(1.5) >= STUCK


def test_on_a_busy_machine_a_looping_process_is_stuck_later() -> None:
    process = Process()
    assert process.loops(1.5, share=0.25) < STUCK
    assert process.loops(5, share=0.25) >= STUCK


def test_a_starved_process_is_not_judged() -> None:
    process = Process()
    for _ in range(5):
        assert process.starves(60) < STUCK
        process.gets_a_cpu()
        assert process.watch.silence < STUCK
    assert process.lives(TICK) == 0


def test_the_supervisor_was_paused() -> None:
    """Or the machine with all that runs on it."""
    process = Process()
    process.lives(1)
    process.now += 3600
    assert process.look(False) <= LONGEST_STEP
    assert process.lives(TICK) == 0
    process.stopped(0.5)
    process.now += 3600
    assert process.look(False) < STUCK


def test_a_new_beat_is_a_new_beginning() -> None:
    process = Process()
    assert process.stopped(5) >= STUCK
    assert process.lives(TICK) == 0
    assert process.stopped(0.5) < STUCK


def test_who_has_not_begun_is_not_silent() -> None:
    watch = Watch()
    for second in range(100):
        assert watch.look(float(second), 0, lambda: None) == 0


def test_what_the_kernel_does_not_tell_counts_as_silence() -> None:
    watch = Watch()
    watch.look(0.0, 1, lambda: None)
    assert max(watch.look(step * TICK, 1, lambda: None) for step in range(1, 15)) >= STUCK


def test_the_kernel_is_not_asked_about_the_living() -> None:
    process = Process()
    for _ in range(20):
        process.lives(2 * TICK)
        process.stopped(TICK)
    assert process.reads == 0


@given(st.lists(st.tuples(st.sampled_from(["lives", "stopped", "loops", "starves"]), st.floats(0.1, 3))))
def test_silence_is_never_longer_than_the_time_without_a_beat(parts: list[tuple[str, float]]) -> None:
    process = Process()
    last = process.now
    for what, seconds in parts:
        getattr(process, what)(seconds)
        if what == "lives" and seconds >= TICK:
            last = process.now
        assert 0 <= process.watch.silence <= process.now - last + TICK + 1e-6


def test_readings_of_a_real_process() -> None:
    code = "import sys\nprint(flush=True)\nsys.stdin.read(1)\nwhile True: pass"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as child:
        try:
            assert child.stdin is not None and child.stdout is not None
            child.stdout.readline()
            asleep = reading(child.pid)
            while asleep is not None and asleep.runnable:
                asleep = reading(child.pid)
            assert asleep is not None
            child.stdin.write(b"x")
            child.stdin.flush()
            while (loops := reading(child.pid)) is not None and loops.ran < asleep.ran + 0.05:
                pass
            assert loops is not None and loops.runnable
            os.kill(child.pid, signal.SIGSTOP)
            while (now := reading(child.pid)) is not None and now.runnable:
                pass
            assert now is not None and now.waited >= asleep.waited
        finally:
            child.kill()
    assert reading(child.pid) is None
