"""How many cores this process may use: affinity mask and cgroup CPU quota, read anew at each call.

Sources: man 2 sched_getaffinity; Documentation/admin-guide/cgroup-v2.rst (cpu.max) and
Documentation/scheduler/sched-bwc.rst (cpu.cfs_quota_us) of the kernel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Set
from pathlib import Path

MOST_BESIDE = 2
MOST_IN_SMALL = 8
ROUND_UP = 0.25
"""From what fraction of a core a quota allows another process: see `whole_cores`."""


def whole_cores(usable: float) -> int:
    """How many single-threaded processes mask and quota allow, at least one.

    A quota's fraction is rounded up: of 1.5 CPUs one process can use only 1. Two use all of it, and both
    stand still for the rest of each period when it is used up, which is the longer the smaller the fraction
    is; below `ROUND_UP` that costs more than it brings (bench/results/fractional_quota.md).
    """
    return max(1, math.ceil(usable - ROUND_UP + 1e-9))


def possible_cores(system: Path = Path("/sys/devices/system/cpu"), mask: Set[int] | None = None) -> int:
    """How many CPUs this process may come to use: those of its mask, and those that are not online yet.

    So a virtual machine's balancer can use a vCPU that comes later. A mask that leaves out an online CPU
    (taskset, a cpuset) won't get another one. Some kernels reckon with far more CPUs than will ever come
    (128 in a small machine of VMware's), and each of them costs a listening socket for every bind: so it is
    at most `MOST_BESIDE` times as many as there are, or `MOST_IN_SMALL`.

    Source: Documentation/admin-guide/cputopology.rst of the kernel (``online``, ``possible``).
    """
    mask = os.sched_getaffinity(0) if mask is None else mask
    now = len(mask)
    try:
        online, possible = (_cpus((system / name).read_text()) for name in ("online", "possible"))
    except (OSError, ValueError):
        return now
    if online - mask:
        return now
    return max(now, min(len(possible), max(MOST_IN_SMALL, MOST_BESIDE * now)))


def _cpus(text: str) -> set[int]:
    """A list of CPUs as the kernel writes it: ``0-3,8``."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def usable_cores(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> float:
    """Cores that may be used, the smaller of mask and quota (which can be a fraction)."""
    cores = float(len(os.sched_getaffinity(0)))
    quota = cgroup_quota(root, proc)
    return cores if quota is None else min(cores, quota)


def cgroup_quota(root: Path, proc: Path) -> float | None:
    """The tightest CPU quota of this process's cgroup and its ancestors, in cores; None when unlimited."""
    try:
        return quota_of(root, proc.read_text())
    except OSError:
        return None


def quota_of(root: Path, groups: str) -> float | None:
    """The same of the cgroups that ``groups`` names, as ``/proc/PID/cgroup`` does (man 7 cgroups)."""
    quotas: list[float] = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for base in (f"{root}", f"{root}/unified"):
                quotas += _up(base, path, _v2)
        elif "cpu" in controllers.split(","):
            for mount in dict.fromkeys((controllers, "cpu", "cpu,cpuacct")):
                quotas += _up(f"{root}/{mount}", path, _v1)
    return min(quotas, default=None)


def _up(base: str, path: str, read: Callable[[str], float | None]) -> list[float]:
    found = []
    here = path.strip("/")
    while True:
        quota = read(f"{base}/{here}")
        if quota is not None:
            found.append(quota)
        if not here:
            return found
        here = here.rpartition("/")[0]


def small_file(path: str) -> str:
    """A file of the kernel's, in a quarter of the time that `Path.read_text` takes: there are many of them.

    Raises:
        OSError: it isn't there, or not any more.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 16384).decode(errors="replace")
    finally:
        os.close(file)


def _v2(folder: str) -> float | None:
    try:
        quota, period = small_file(f"{folder}/cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _v1(folder: str) -> float | None:
    try:
        quota = int(small_file(f"{folder}/cpu.cfs_quota_us"))
        period = int(small_file(f"{folder}/cpu.cfs_period_us"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
