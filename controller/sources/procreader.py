"""Virtual machines of this host as ``/proc`` shows them: a process per machine, a thread per vCPU.

The threads' names tell them: ``CPU 0/KVM`` and ``CPU 0/TCG`` (QEMU with debug-threads, which libvirt sets),
``fc_vcpu 0`` (Firecracker), ``vcpu0`` (Cloud Hypervisor). What a thread ran, and what it waited for a CPU,
is in ``schedstat`` (Documentation/scheduler/sched-stats.rst of the kernel); its descriptor is kept open.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from controller.sources.machines import Facts, MachineFacts, VcpuFacts
from controller.sources.quota import quota_of, small_file

RESCAN = 1.0
"""Seconds after which new machines and threads are looked for; masks, caps and weights are read in turns."""
_LOOKS = 5  # times that a process is looked at before it counts as no machine
_VCPU = re.compile(r"(?:CPU |fc_vcpu |vcpu)(\d+)(?:/(?:KVM|TCG))?$|ALL CPUs/TCG$")
_MACHINES_GROUP = re.compile(r"(.*?\.(?:scope|libvirt-qemu))/")
_VMM = ("qemu", "kvm", "firecracker", "cloud-hyp")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class _Thread:
    tid: int
    file: int
    """Descriptor of its schedstat."""
    cpus: frozenset[int]


@dataclass(slots=True)
class _Process:
    name: str
    file: int
    """Descriptor of its stat."""
    cap: float = math.inf
    weight: float = 100.0
    threads: dict[int, _Thread] = field(default_factory=dict)
    """By the vCPU's number."""
    links: int = 0
    """Of its folder of tasks: changes with their number."""


def host_idle(stat: int) -> dict[int, float]:
    """Idle seconds of each CPU, I/O wait included, by a descriptor of ``/proc/stat`` (man 5 proc)."""
    idle: dict[int, float] = {}
    for line in os.pread(stat, 1 << 20, 0).splitlines():
        words = line.split()
        if not words or not words[0].startswith(b"cpu"):
            break
        if words[0] != b"cpu":
            idle[int(words[0][3:])] = (int(words[4]) + int(words[5])) / _TICKS
    return idle


class ProcReader:
    """Reads this host's ``/proc``.

    Args:
        proc: where it is mounted; ``cgroups``: where cgroups are.
        affinity: gives the CPUs that a thread may run on.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
        affinity: Callable[[int], set[int]] = os.sched_getaffinity,
    ) -> None:
        self._proc = proc
        self._cgroups = cgroups
        self._affinity = affinity
        self._machines: dict[int, _Process] = {}
        self._looked: dict[int, int] = {}
        self._next_scan = -math.inf
        self._turn: list[tuple[Callable[[int], None], int]] = []
        """Machines to look at again, half of one at each reading."""
        self._stat = os.open(proc / "stat", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close all descriptors."""
        for pid in list(self._machines):
            self._forget(pid)
        os.close(self._stat)

    def machine(self, pid: int) -> str | None:
        """The name of the machine that a process runs."""
        if pid not in self._machines:  # it may have just begun
            self._look(pid)
        process = self._machines.get(pid)
        return None if process is None else process.name

    def process(self, machine: str) -> int | None:
        """The process that runs a machine."""
        for pid, process in list(self._machines.items()):  # asked from another thread, too
            if process.name == machine:
                return pid
        return None

    def read(self, now: float) -> Facts:
        """What is so now."""
        if now >= self._next_scan:
            self._scan()
            self._next_scan = now + RESCAN
        elif self._machines:
            if not self._turn:
                looks = self._look, self._look_at_limits
                self._turn = [(look, pid) for pid in self._machines for look in looks]
            look, pid = self._turn.pop()
            look(pid)
        machines: dict[str, MachineFacts] = {}
        for pid in list(self._machines):
            process = self._machines[pid]
            vcpus: dict[int, VcpuFacts] = {}
            for number, thread in list(process.threads.items()):
                try:
                    run, wait, _ = os.pread(thread.file, 100, 0).split()
                except (OSError, ValueError):  # it has ended
                    os.close(thread.file)
                    del process.threads[number]
                    continue
                vcpus[number] = VcpuFacts(int(run), int(wait), thread.cpus)
            if vcpus:
                beside = _used(process.file) - sum(vcpu.run for vcpu in vcpus.values())
                machines[process.name] = MachineFacts(vcpus, process.cap, process.weight, beside)
            else:
                self._forget(pid)
        return Facts(now, machines, host_idle(self._stat))

    def _scan(self) -> None:
        pids = {int(name) for name in os.listdir(self._proc) if name.isdigit()}
        for pid in self._machines.keys() - pids:
            self._forget(pid)
        self._looked = {pid: count for pid, count in self._looked.items() if pid in pids}
        for pid in sorted(pids):
            looked = self._looked.get(pid, 0)
            if pid not in self._machines and looked >= _LOOKS:
                continue
            with contextlib.suppress(OSError):
                if pid in self._machines and self._links(pid) == self._machines[pid].links:
                    continue
            self._look(pid)
            if pid not in self._machines:
                self._looked[pid] = looked + 1

    def _links(self, pid: int) -> int:
        return os.stat(f"{self._proc}/{pid}/task").st_nlink

    def _look(self, pid: int) -> None:
        """Whether a process is a machine, and which vCPUs it has."""
        with contextlib.suppress(OSError, ValueError):  # it may end at any time
            if small_file(f"{self._proc}/{pid}/comm").startswith(_VMM):
                self._look_at_threads(pid)

    def _look_at_threads(self, pid: int) -> None:
        links = self._links(pid)
        found: dict[int, int] = {}
        tasks = f"{self._proc}/{pid}/task"
        for tid in sorted(map(int, os.listdir(tasks))):
            match = _VCPU.match(small_file(f"{tasks}/{tid}/comm").rstrip("\n"))
            if match is not None:
                found.setdefault(int(match[1] or 0), tid)
        if not found:
            return
        process = self._machines.get(pid)
        new = process is None
        if process is None:
            taken = {other.name for other in self._machines.values()}
            name = machine_name((self._proc / f"{pid}/cmdline").read_bytes()) or f"process {pid}"
            file = os.open(self._proc / f"{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            process = _Process(name if name not in taken else f"{name} ({pid})", file)
            self._machines[pid] = process
        process.links = links
        for number, tid in found.items():
            cpus = frozenset(self._affinity(tid))
            known = process.threads.get(number)
            if known is not None and known.tid == tid:
                known.cpus = cpus
                continue
            if known is not None:
                os.close(known.file)
                del process.threads[number]
            file = os.open(f"{tasks}/{tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            process.threads[number] = _Thread(tid, file, cpus)
        if new:
            self._look_at_limits(pid)

    def _look_at_limits(self, pid: int) -> None:
        """The cap and the weight of a machine's cgroups."""
        process = self._machines.get(pid)
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):  # it may end at any time
            process.cap = self._cap(pid, [thread.tid for thread in process.threads.values()])
            process.weight = cgroup_weight(self._cgroups, Path(f"{self._proc}/{pid}/cgroup"))

    def _cap(self, pid: int, vcpus: Collection[int]) -> float:
        """Cores that a machine's vCPUs may use: by the quota of its cgroup, and by those of their own ones.

        (The main thread's says nothing: libvirt keeps it in a cgroup beside the vCPUs'.)
        """
        groups = [small_file(f"{self._proc}/{pid}/task/{tid}/cgroup") for tid in vcpus]
        whole = "\n".join(map(_machines, groups[0].split("\n"))) if groups else ""
        quotas = {text: quota_of(self._cgroups, text) for text in {whole, *groups}}
        if all(quota is None for quota in quotas.values()):
            return math.inf
        known = {text: math.inf if quota is None else quota for text, quota in quotas.items()}
        return min(known[whole], sum(min(1.0, known[text]) for text in groups))

    def _forget(self, pid: int) -> None:
        process = self._machines.pop(pid)
        os.close(process.file)
        for thread in process.threads.values():
            os.close(thread.file)


def _used(stat: int) -> int:
    """Nanoseconds that a process has run with all its threads, by its ``stat`` (man 5 proc); 0 at its end."""
    try:
        fields = os.pread(stat, 1000, 0).rpartition(b")")[2].split(None, 13)
        return (int(fields[11]) + int(fields[12])) * (1_000_000_000 // _TICKS)
    except (OSError, ValueError, IndexError):
        return 0


def machine_name(cmdline: bytes) -> str:
    """The name that a machine was started with: QEMU's ``-name``, Firecracker's ``--id``; "" without one."""
    words = cmdline.decode(errors="replace").split("\0")
    for option, value in zip(words, words[1:], strict=False):
        if option in ("-name", "--name"):
            first = value.split(",")[0]
            return first.removeprefix("guest=") if "=" in first and first.startswith("guest=") else first
        if option == "--id":
            return value
    return ""


def cgroup_weight(root: Path, proc: Path) -> float:
    """The CPU weight of a process's cgroup, in cgroup v2's measure (100 is usual)."""
    with contextlib.suppress(OSError, ValueError):
        file = weight_file(root, proc)
        if file is not None:
            weight = float(file.read_text())
            # 1024 shares of version 1 are as usual as a weight of 100.
            return weight if file.name == "cpu.weight" else weight * 100 / 1024
    return 100.0


def _machines(line: str) -> str:
    """A line of ``/proc/PID/cgroup`` with the machine's cgroup in place of one within it.

    libvirt keeps emulator and vCPUs in cgroups of their own, within the machine's. Its name ends in
    ``.scope`` with systemd, else in ``.libvirt-qemu`` (libvirt's documentation, Control Groups).
    """
    found = _MACHINES_GROUP.match(line)
    return line if found is None else found[1]


def weight_file(root: Path, proc: Path) -> Path | None:
    """The file with the CPU weight of a process's cgroup; None where it is in the root's, which has none.

    Raises:
        OSError: there is no such process.
    """
    for line in proc.read_text().splitlines():
        _, controllers, path = _machines(line).split(":", 2)
        below = path.lstrip("/")
        if not below:
            continue
        if not controllers:
            candidates = [base / below / "cpu.weight" for base in (root, root / "unified")]
        elif "cpu" in controllers.split(","):
            mounts = (controllers, "cpu", "cpu,cpuacct")
            candidates = [root / mount / below / "cpu.shares" for mount in mounts]
        else:
            continue
        for file in candidates:
            if file.exists():
                return file
    return None
