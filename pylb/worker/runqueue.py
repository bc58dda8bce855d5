"""How long this process could have run and got no CPU: others had it, or its cgroup's quota was used up.

CPU time alone makes a worker that is held back look idle. With this beside it, its load is known.
Floor: the bottom of the worker; knows the kernel only.

Source: Documentation/scheduler/sched-stats.rst of the kernel, ``/proc/<pid>/schedstat``.
"""

from __future__ import annotations

import os


class RunQueue:
    """Keeps the file open; made in the process (its main thread) that it is about."""

    def __init__(self) -> None:
        try:
            self._file = os.open(f"/proc/{os.getpid()}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # a kernel without CONFIG_SCHED_INFO
            self._file = -1

    def waited_ns(self) -> int:
        """Nanoseconds spent runnable on a run queue since the process began; 0 where that is not told."""
        if self._file < 0:
            return 0
        return int(os.pread(self._file, 128, 0).split()[1])


def open_descriptors() -> int:
    """How many this process has open."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 64  # a guess; there is no /proc
