"""What the kernel tells about a child, for the watchdog; knows nothing of pylb but `Reading`.

Sources: man 5 proc, ``/proc/PID/stat``; Documentation/scheduler/sched-stats.rst, ``/proc/PID/schedstat``.
"""

from __future__ import annotations

import os
from pathlib import Path

from pylb.supervisor.watchdog import Reading

_TICKS = os.sysconf("SC_CLK_TCK")


def reading(pid: int) -> Reading | None:
    """A look at a process; None when it can't be had."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    try:
        waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:  # a kernel without CONFIG_SCHED_INFO
        waited = 0.0
    return Reading(fields[0] == "R", (int(fields[11]) + int(fields[12])) / _TICKS, waited)
