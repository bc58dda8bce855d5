"""``python -m bench.rig.pauses FILE …``: pylb, whose processes write down each pause of the collector.

A line has the process, the generation that was collected, and microseconds.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def watch(file: str) -> None:
    """Write down the pauses of this process, and of those that it forks."""
    out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    begun = 0

    def collected(phase: str, about: dict[str, int]) -> None:
        nonlocal begun
        if phase == "start":
            begun = time.perf_counter_ns()
        else:
            took = (time.perf_counter_ns() - begun) // 1000
            os.write(out, b"%d %d %d\n" % (os.getpid(), about["generation"], took))

    gc.callbacks.append(collected)


def read(file: Path, pid: int) -> dict[int, Sequence[int]]:
    """The microseconds of one process's pauses, by generation."""
    found: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for line in file.read_text().splitlines():
        process, generation, took = map(int, line.split())
        if process == pid:
            found[generation].append(took)
    return dict(found)


if __name__ == "__main__":
    from pylb.__main__ import main

    watch(sys.argv.pop(1))
    main()
