"""How fast the machine's CPUs are while something is measured.

On a shared host they are not the same from one second to the next, though no time is stolen: whoever has the
other hyperthread or the caches slows them by a third. A process bound to each CPU does the same little work a
hundred times per second and takes its own CPU time; `at_equal_speed` corrects rates by that.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Self

_PAUSE = 0.008  # seconds; the work takes some 0.2 ms


def _probe(cpu: int, pipe: Connection) -> None:
    os.sched_setaffinity(0, {cpu})
    with contextlib.suppress(OSError):
        os.nice(-10)
    numbers = list(range(400))
    speeds: list[float] = []
    while True:
        if pipe.poll(_PAUSE):
            pipe.recv()
            pipe.send(speeds)
            speeds = []
        began = time.thread_time()
        for _ in range(20):
            sum(numbers[:200])
        {number: str(number) for number in numbers}
        speeds.append(1e-3 / (time.thread_time() - began))


class Speed:
    """Probes of all CPUs that this process may use; a context manager."""

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        self._processes = []
        for cpu in sorted(os.sched_getaffinity(0)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_probe, args=(cpu, theirs), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def take(self) -> float:
        """Mean over the CPUs since the last call: how often the work fits into a millisecond."""
        for pipe in self._pipes:
            pipe.send(None)
        return statistics.fmean(statistics.fmean(pipe.recv() or [math.nan]) for pipe in self._pipes)


Turns = Mapping[str, Sequence[Sequence[tuple[float, float]]]]
"""Rate and speed of each turn, by who was measured and by repetition; all have the same repetitions."""


def at_equal_speed(turns: Turns) -> dict[str, list[list[float]]]:
    """Rates as they would have been at the mean speed of their repetition.

    A regression of the logarithms, with a slope that all share and a level for each of them in each
    repetition (analysis of covariance, in blocks): what differs between them can't pass for an effect of the
    speed, nor can what differs between repetitions. Between those the machine changes in ways that the
    probes' work feels otherwise than a balancer does: once they were 1.7 times as fast for a while, and the
    rates were the same.
    """
    logs = {
        name: [[(math.log(speed), math.log(rate)) for rate, speed in one] for one in repetitions]
        for name, repetitions in turns.items()
    }
    both = own = 0.0
    for repetitions in logs.values():
        for one in repetitions:
            level = statistics.fmean(speed for speed, _ in one)
            both += sum((speed - level) * rate for speed, rate in one)
            own += sum((speed - level) ** 2 for speed, _ in one)
    slope = both / own if own else 0.0
    means = [
        statistics.fmean(speed for one in together for speed, _ in one)
        for together in zip(*logs.values(), strict=True)
    ]
    return {
        name: [
            [math.exp(rate - slope * (speed - mean)) for speed, rate in one]
            for one, mean in zip(repetitions, means, strict=True)
        ]
        for name, repetitions in logs.items()
    }


def explained(turns: Turns) -> float:
    """Which part of the variance of log rates, within a repetition of each of them, the speed explains."""

    def within(rates: Mapping[str, Sequence[Sequence[float]]]) -> float:
        cells = [one for repetitions in rates.values() for one in repetitions]
        return sum(len(one) * statistics.pvariance(map(math.log, one)) for one in cells)

    before = within({name: [[rate for rate, _ in one] for one in cells] for name, cells in turns.items()})
    return 1 - within(at_equal_speed(turns)) / before if before else 0.0
