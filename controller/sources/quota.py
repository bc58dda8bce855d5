"""How many cores this process may use: affinity mask and cgroup CPU quota, read anew at each call.

Sources: man 2 sched_getaffinity; Documentation/admin-guide/cgroup-v2.rst (cpu.max) and
Documentation/scheduler/sched-bwc.rst (cpu.cfs_quota_us) of the kernel.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

ROUND_UP = 0.25
"""From what fraction of a core a quota allows another process: see `whole_cores`."""


def whole_cores(usable: float) -> int:
    """How many single-threaded processes mask and quota allow, at least one.

    A quota's fraction is rounded up: of 1.5 CPUs one process can use only 1. Two use all of it, and both
    stand still for the rest of each period when it is used up, which is the longer the smaller the fraction
    is; below `ROUND_UP` that costs more than it brings (bench/results/fractional_quota.md).
    """
    return max(1, math.ceil(usable - ROUND_UP + 1e-9))


def usable_cores(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> float:
    """Cores that may be used, the smaller of mask and quota (which can be a fraction)."""
    cores = float(len(os.sched_getaffinity(0)))
    quota = cgroup_quota(root, proc)
    return cores if quota is None else min(cores, quota)


def cgroup_quota(root: Path, proc: Path) -> float | None:
    """The tightest CPU quota of this process's cgroup and its ancestors, in cores; None when unlimited."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for base in (root, root / "unified"):
                quotas += _up(base, path, _v2)
        elif "cpu" in controllers.split(","):
            for mount in (controllers, "cpu", "cpu,cpuacct"):
                quotas += _up(root / mount, path, _v1)
    return min(quotas, default=None)


def _up(base: Path, path: str, read: object) -> list[float]:
    assert callable(read)
    found = []
    here = base / path.lstrip("/")
    while True:
        quota = read(here)
        if quota is not None:
            found.append(quota)
        if here == base or base not in here.parents:
            return found
        here = here.parent


def _v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
