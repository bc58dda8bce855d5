"""Idleness by what virtual machines or containers really use: CPU times of their cgroups, smoothed.

For a host whose machines each have a cgroup. They are named in a TOML file::

    cores = 4
    [vms]
    web-1.cgroup = "/machine.slice/web-1.scope"  # a path below /sys/fs/cgroup, as in /proc/PID/cgroup
    balancer.cgroup = "/machine.slice/balancer.scope"  # by the name that it says to the controller
    balancer.vcpus = 2  # its own, which it may use whatever the others do; 0 when not given

``core = 0.25`` says that one of these cores is only that part of a real one, as in a test bed.

A machine needs what it uses and, with cgroup v2, what it waits for, at most its quota: one that is starved
looks content by what it uses. The kernel only says for how long *some* process of it waited, so up to one
core is seen. Sources: Documentation/admin-guide/cgroup-v2.rst (cpu.stat, cpu.max), cgroup-v1/cpuacct.rst
(cpuacct.usage), Documentation/accounting/psi.rst (cpu.pressure).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from controller.sources.table import number_of_cores, read_table

HALF_LIFE = 0.7
"""Seconds after which a measurement counts half."""


class CgroupSource:
    """Cores minus what the machines use; a balancer's own use is not counted against it."""

    name = "cgroups"

    def __init__(
        self,
        path: str | None,
        root: Path = Path("/sys/fs/cgroup"),
        read: Callable[[Path], float] | None = None,
    ) -> None:
        """``path`` of the file, ``root`` where cgroups are mounted, ``read`` gives a counter's seconds.

        Raises:
            ValueError: the file is missing or wrong, or a cgroup does not exist.
        """
        if not path:
            raise ValueError("the cgroups source needs a file: --source cgroups:FILE")
        file = Path(path)
        table, vms = read_table(file)
        self._cores = number_of_cores(file, "cores", table.get("cores"))
        self._core = number_of_cores(file, "core", table.get("core", 1.0)) or 1.0
        self._root = root
        self._counters: dict[str, Path] = {}
        self._own: dict[str, float] = {}
        for name, vm in vms.items():
            if not isinstance(vm, dict) or not isinstance(vm.get("cgroup"), str):
                raise ValueError(f"{file}: vms.{name}.cgroup: expected a cgroup's path")
            self._counters[name] = _counter(file, root, name, vm["cgroup"])
            self._own[name] = number_of_cores(file, f"vms.{name}.vcpus", vm.get("vcpus", 0))
        self._read = read or _seconds
        self._last: dict[str, float] = {}
        self._last_time: float | None = None
        self._use: dict[str, float] = {}
        self._waited: dict[str, float] = {}
        self._need: dict[str, float] = {}

    def sample(self, now: float) -> None:
        read = {name: self._read(counter) for name, counter in self._counters.items()}
        waited = {name: _waited(counter) for name, counter in self._counters.items()}
        if self._last_time is not None and now > self._last_time:
            elapsed = now - self._last_time
            keep = 0.5 ** (elapsed / HALF_LIFE) if self._use else 0.0
            for name, seconds in read.items():
                use = max(0.0, seconds - self._last[name]) / elapsed / self._core
                self._use[name] = keep * self._use.get(name, 0.0) + (1 - keep) * use
                wait = max(0.0, waited[name] - self._waited[name]) / elapsed / self._core
                need = max(use, min(use + wait, _quota(self._counters[name], self._root) / self._core))
                self._need[name] = keep * self._need.get(name, 0.0) + (1 - keep) * need
        self._last, self._waited, self._last_time = read, waited, now

    def idle(self) -> float:
        return max(0.0, self._cores - sum(self._use.values())) if self._use else 0.0

    def capacity(self, used: Mapping[str, float]) -> float:
        others = sum(need for name, need in self._need.items() if name not in used)
        left = max(0.0, self._cores - others) if self._use else 0.0
        # Where more vCPUs were given out than there are cores, sharing them out is the host scheduler's work.
        return max(left, sum(count for name, count in self._own.items() if name in used))

    def usable(self) -> float:
        return self._cores

    def per_cpu(self) -> list[float]:
        return []


def _counter(file: Path, root: Path, name: str, folder: str) -> Path:
    """The file with a cgroup's CPU time, of whichever version."""
    below = folder.strip("/")
    for candidate in (
        root / below / "cpu.stat",
        root / "unified" / below / "cpu.stat",
        root / "cpuacct" / below / "cpuacct.usage",
        root / "cpu,cpuacct" / below / "cpuacct.usage",
    ):
        if candidate.exists():
            return candidate
    raise ValueError(f"{file}: vms.{name}.cgroup: no cgroup {folder} with CPU accounting below {root}")


def _waited(counter: Path) -> float:
    """Seconds so far in which a process of the cgroup waited for a CPU; 0 where the kernel doesn't say."""
    try:
        text = (counter.parent / "cpu.pressure").read_text()
        return int(text.split("total=", 1)[1].split()[0]) / 1e6  # the first line is "some"
    except (OSError, ValueError, IndexError):
        return 0.0


def _quota(counter: Path, root: Path) -> float:
    """Cores that a cgroup of version 2 may use at most, by itself and all above it."""
    quota = math.inf
    folder = counter.parent
    while root in folder.parents:
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            most, period = (folder / "cpu.max").read_text().split()
            quota = min(quota, int(most) / int(period))
        folder = folder.parent
    return quota


def _seconds(counter: Path) -> float:
    """CPU seconds so far; a cgroup that has gone uses nothing more."""
    try:
        text = counter.read_text()
    except OSError:
        return 0.0
    if counter.name == "cpuacct.usage":
        return int(text) / 1e9
    return int(text.split("usage_usec", 1)[1].split()[0]) / 1e6
