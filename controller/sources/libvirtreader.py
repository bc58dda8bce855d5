"""Virtual machines as libvirt knows them.

libvirtd may stand still, and a call with it, for ever: so it is asked in a thread of its own. What was seen
last stays, with its time; whoever reads decides what old facts are worth. A call that takes too long is left
to itself, and another thread connects anew.

Sources: virConnectGetAllDomainStats (``cpu.time``, ``vcpu.N.time`` and ``vcpu.N.delay`` in nanoseconds; the
last is when a vCPU could have run and got no CPU), virDomainGetVcpuPinInfo and
virDomainGetSchedulerParameters of the reference; the QEMU driver keeps a machine's pid in
``/run/libvirt/qemu/NAME.pid``.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from controller.sources.machines import Facts, MachineFacts, VcpuFacts
from controller.sources.procreader import host_idle

PERIOD = 0.25
"""Seconds between two questions."""
PATIENCE = 5.0
"""Seconds after which a call that doesn't come back is given up."""
REFRESH = 5.0
"""Seconds for which pins, caps and weights are believed."""
_MOST_STUCK = 4  # threads that wait for ever


def _connect() -> Any:
    try:
        import libvirt
    except ImportError:
        raise OSError("libvirt's module for Python is missing: install libvirt-python") from None
    libvirt.registerErrorHandler(lambda context, error: None, None)  # else it prints what it raises
    return libvirt.openReadOnly("qemu:///system")


class LibvirtReader:
    """Asks libvirt on this host.

    Args:
        connect: opens a connection, for tests.
        pids: the folder with machines' pids.
        stat: the kernel's CPU times.
    """

    def __init__(
        self,
        connect: Callable[[], Any] = _connect,
        pids: Path = Path("/run/libvirt/qemu"),
        stat: Path = Path("/proc/stat"),
        cgroups: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        self._connect = connect
        self._pids = pids
        self._stat = os.open(stat, os.O_RDONLY | os.O_CLOEXEC)
        # libvirt gives the weight as the kernel has it: 100 is usual in cgroup v2, 1024 in version 1.
        self._usual = 100.0 if (cgroups / "cgroup.controllers").exists() else 1024.0
        self._latest: Facts | None = None
        self._problem = "libvirt has not answered yet"
        self._asked = math.inf
        """Since when the present thread waits for an answer."""
        self._turn = 0
        self._stuck = 0
        self._wanted = threading.Event()

    def read(self, now: float) -> Facts:
        """What was seen last.

        Raises:
            OSError: nothing was seen yet.
        """
        if self._turn == 0:
            self._begin()
        elif time.monotonic() - self._asked > PATIENCE and self._stuck < _MOST_STUCK:
            self._stuck += 1
            self._begin()
        if self._latest is None:
            raise OSError(self._problem)
        return self._latest

    def machine(self, pid: int) -> str | None:
        """The name of the machine that a process runs."""
        latest = self._latest
        for name in latest.machines if latest is not None else ():
            with contextlib.suppress(OSError, ValueError):
                if "/" not in name and int((self._pids / f"{name}.pid").read_text()) == pid:
                    return name
        return None

    def process(self, machine: str) -> int | None:
        """The process that runs a machine."""
        with contextlib.suppress(OSError, ValueError):
            if "/" not in machine:
                return int((self._pids / f"{machine}.pid").read_text())
        return None

    def close(self) -> None:
        """Let the thread end."""
        self._turn = -1
        self._wanted.set()

    def _begin(self) -> None:
        self._turn += 1
        self._asked = time.monotonic()
        threading.Thread(target=self._run, args=(self._turn,), name="libvirt", daemon=True).start()

    def _run(self, turn: int) -> None:
        """Ask for ever, until another thread has taken the turn."""
        connection: Any = None
        settings: dict[str, tuple[float, tuple[list[frozenset[int]], float, float]]] = {}
        while self._turn == turn:
            self._asked = time.monotonic()
            try:
                if connection is None:
                    connection = self._connect()
                facts = self._ask(connection, settings)
                if self._turn == turn:
                    self._latest, self._problem = facts, ""
            except Exception as error:  # libvirtError, or what the module's absence raises
                connection = None
                settings.clear()
                if self._turn == turn:
                    self._problem = str(error)
            if self._turn == turn:
                self._asked = math.inf
                self._wanted.wait(PERIOD)
        if self._turn >= 0:
            self._stuck -= 1  # it came back after all

    def _ask(
        self,
        connection: Any,
        settings: dict[str, tuple[float, tuple[list[frozenset[int]], float, float]]],
    ) -> Facts:
        at = time.monotonic()
        idle = host_idle(self._stat)
        # VIR_DOMAIN_STATS_CPU_TOTAL and _VCPU; VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE and _NOWAIT: a
        # machine with a job under way gives what is known of it.
        answers = connection.getAllDomainStats(1 << 1 | 1 << 3, 1 << 0 | 1 << 29)
        machines = {}
        for domain, stats in answers:
            name = domain.name()
            known = settings.get(name)
            # A vCPU that was plugged in is not among the pins yet.
            if known is None or at - known[0] > REFRESH or len(known[1][0]) < _vcpus(stats):
                settings[name] = at, self._settings(domain, stats)
            machines[name] = machine_facts(stats, *settings[name][1])
        for gone in settings.keys() - machines.keys():
            del settings[gone]
        return Facts(at, machines, idle)

    def _settings(self, domain: Any, stats: Mapping[str, Any]) -> tuple[list[frozenset[int]], float, float]:
        """Per vCPU the CPUs that it may run on, then cap and weight."""
        pins = [frozenset(cpu for cpu, allowed in enumerate(pin) if allowed) for pin in domain.vcpuPinInfo(1)]
        try:
            scheduler = domain.schedulerParameters()
        except Exception:  # libvirtError: no cgroup holds it, so nothing caps or prefers it
            scheduler = {}
        cap = math.inf
        for quota, period, times in (
            ("vcpu_quota", "vcpu_period", int(stats.get("vcpu.current", len(pins)))),
            ("global_quota", "global_period", 1),
        ):
            if scheduler.get(quota, 0) > 0 and scheduler.get(period, 0) > 0:
                cap = min(cap, times * scheduler[quota] / scheduler[period])
        return pins, cap, float(scheduler.get("cpu_shares") or self._usual) * 100 / self._usual


def _vcpus(stats: Mapping[str, Any]) -> int:
    """How many vCPUs a machine has, by the largest number of one."""
    numbers = [int(key.split(".")[1]) for key in stats if re.fullmatch(r"vcpu\.\d+\.time", key)]
    return max(numbers, default=-1) + 1


def machine_facts(
    stats: Mapping[str, Any], pins: list[frozenset[int]], cap: float, weight: float
) -> MachineFacts:
    """What `virConnectGetAllDomainStats` says of one machine."""
    vcpus = {}
    for number in range(_vcpus(stats)):
        run, wait = stats.get(f"vcpu.{number}.time"), int(stats.get(f"vcpu.{number}.delay", 0))
        if run is not None:  # else it is not there, or offline
            vcpus[number] = VcpuFacts(int(run), wait, pins[number] if number < len(pins) else frozenset())
    beside = int(stats.get("cpu.time", 0)) - sum(vcpu.run for vcpu in vcpus.values())
    return MachineFacts(vcpus, cap, weight, beside if "cpu.time" in stats else 0)
