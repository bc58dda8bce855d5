"""Idleness as the host of virtual machines knows it: what each machine's vCPUs run and wait for.

The machine that a balancer runs in is known by the process at the other end of its connection (QEMU's, for a
port), never by what it says; what it says of its own use doesn't enter, since within an emulated machine
stolen time looks like use. The file is TOML, and may be empty::

    reader = "proc"     # what knows the machines: proc or libvirt
    cpus = "0-3"        # the host's CPUs that machines may use; default: all

Other hypervisors are further readers: a class with `Reader`'s methods, and a line in `READERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from controller.sources.libvirtreader import LibvirtReader
from controller.sources.machines import Facts, Rates, may_use
from controller.sources.procreader import ProcReader
from controller.sources.table import read_document

HALF_LIFE = 0.7
"""Seconds after which a measurement counts half."""
FRESH = 1.0
"""Seconds after which facts lend nothing new."""


class Reader(Protocol):
    """Something that knows a host's machines."""

    def read(self, now: float) -> Facts:
        """What is so now; older facts where there are no newer ones, their ``at`` says so. Never blocks long.

        Raises:
            OSError: nothing is known.
        """

    def machine(self, pid: int) -> str | None:
        """The name of the machine that a process runs."""

    def process(self, machine: str) -> int | None:
        """The process that runs a machine; may be asked from another thread."""


READERS: dict[str, Callable[[], Reader]] = {"proc": ProcReader, "libvirt": LibvirtReader}


class HypervisorSource:
    """What machines may use, by the facts of a reader."""

    name = "hypervisor"

    def __init__(self, path: str | None, reader: Reader | None = None) -> None:
        """``path`` of the file; ``reader`` instead of the one that it names.

        Raises:
            ValueError: the file is missing or wrong.
        """
        if not path:
            raise ValueError("the hypervisor source needs a file: --source hypervisor:FILE")
        file = Path(path)
        table = read_document(file)
        unknown = table.keys() - {"reader", "cpus"}
        if unknown:
            raise ValueError(f"{file}: {min(unknown)}: unknown key")
        chosen = table.get("reader", "proc")
        if chosen not in READERS:
            raise ValueError(f"{file}: reader: expected one of {', '.join(READERS)}")
        self._cpus = None if "cpus" not in table else cpu_list(file, table["cpus"])
        self._reader = reader or READERS[chosen]()
        self._rates = Rates(HALF_LIFE)
        self._facts_at = -math.inf
        self._now = 0.0
        self._needs: dict[str, tuple[float, float]] = {}
        self._known: dict[tuple[frozenset[str], frozenset[str]], float] = {}
        self.problem = ""

    def sample(self, now: float) -> None:
        self._now = now
        self._known.clear()
        self._needs = {}
        try:
            facts = self._reader.read(now)
        except OSError as error:
            self.problem = error.strerror or str(error)
            return
        self.problem = ""
        self._facts_at = facts.at
        self._rates.take(facts)

    def machine(self, pid: int) -> str | None:
        return self._reader.machine(pid)

    def process(self, machine: str) -> int | None:
        """The process that runs a machine; may be asked from another thread."""
        return self._reader.process(machine)

    def idle(self) -> float:
        if self._now - self._facts_at > FRESH:
            return 0.0
        return sum(idle for cpu, idle in self._rates.idle.items() if cpu in self._host())

    def capacity(self, used: Mapping[str, float]) -> float:
        return self._may_use(frozenset(used), frozenset(used))

    def bounds(self, machines: Collection[str]) -> Mapping[str, float]:
        balancers = frozenset(machines)
        return {name: self._may_use(frozenset((name,)), balancers) for name in balancers}

    def usable(self) -> float:
        return float(len(self._host()))

    def per_cpu(self) -> list[float]:
        return [round(self._rates.idle[cpu], 3) for cpu in sorted(self._rates.idle) if cpu in self._host()]

    def needs(self) -> dict[str, tuple[float, float]]:
        """Per machine the cores that it uses, and those that it needs."""
        if not self._needs:
            self._needs = {name: (one.run, one.need) for name, one in self._rates.machines.items()}
        return self._needs

    def _host(self) -> frozenset[int]:
        online = frozenset(self._rates.idle)
        return online if self._cpus is None else online & self._cpus

    def _may_use(self, names: frozenset[str], balancers: frozenset[str]) -> float:
        """Cores for these machines; other ``balancers`` are in nobody's way, since leases divide them."""
        if (known := self._known.get((names, balancers))) is not None:
            return known
        machines = self._rates.machines
        mine = [machines[name] for name in names if name in machines]
        if self._now - self._facts_at > FRESH:
            return float(sum(math.ceil(machine.run) for machine in mine))  # what they have, and nothing new
        others = [machine for name, machine in machines.items() if name not in balancers]
        found = may_use(mine, others, self._host(), self._of_the_host(balancers))
        self._known[names, balancers] = found
        return found

    def _of_the_host(self, balancers: frozenset[str]) -> float:
        """Cores that run something else than a vCPU.

        What the balancers' own network costs isn't counted: the more they had to do, the less they could use.
        """
        busy = sum(1.0 - idle for cpu, idle in self._rates.idle.items() if cpu in self._host())
        busy -= sum(run for run, _ in self.needs().values())
        machines = self._rates.machines
        busy -= sum(machines[name].beside for name in balancers if name in machines)
        return max(0.0, busy)


def cpu_list(file: Path, text: object) -> frozenset[int]:
    """CPUs as the kernel writes them: ``0-3,8``.

    Raises:
        ValueError: it is none; names the file.
    """
    cpus: set[int] = set()
    try:
        for part in str(text).split(","):
            begin, _, end = part.partition("-")
            first, last = int(begin), int(end or begin)
            if not 0 <= first <= last < 65536:
                raise ValueError
            cpus.update(range(first, last + 1))
    except ValueError:
        raise ValueError(f'{file}: cpus: expected CPUs as in "0-3,8"') from None
    return frozenset(cpus)
