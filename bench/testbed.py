"""A host with virtual machines, made from cgroups: the paper's set-up on any Linux machine.

A *virtual core* is a fixed part of a real one (`CORE`), given as a CFS quota with a short period, so that a
host of four cores with its machines fits on two real ones and leaves room for the clients. A machine with
two vCPUs is a cgroup that may use two virtual cores, and each single-threaded process in it is in a cgroup of
its own that may use one. The host itself may not use more than its cores. Needs root; cgroups of version 1
and 2. ``python -m bench.testbed`` checks it: spinning loops must get what their quota says.

Source: Documentation/scheduler/sched-bwc.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.rig.command import need, parser
from bench.rig.report import in_words, write

CORE = 0.25
"""What part of a real core a virtual one is."""
PERIOD_US = 10_000
_NAME = "pylb-testbed"
_SPIN = "while True: sum(range(1000))"


def tidy_when_terminated() -> None:
    """Let SIGTERM unwind, as Ctrl-C does: what was made goes, machines and balancers in them."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def mounts(table: Path = Path("/proc/mounts")) -> tuple[int, list[Path]]:
    """Version of the cgroups that control the CPU, and the hierarchies to make groups in.

    Raises:
        OSError: nothing here controls the CPU.
    """
    first: dict[str, Path] = {}
    for line in table.read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup":
            for controller in {"cpu", "cpuacct"} & set(options.split(",")):
                first.setdefault(controller, Path(where))
        elif kind == "cgroup2":
            controllers = Path(where) / "cgroup.controllers"
            if controllers.exists() and "cpu" in controllers.read_text().split():
                return 2, [Path(where)]
    if set(first) != {"cpu", "cpuacct"}:
        raise OSError("no cgroup hierarchy with the cpu controller")
    return 1, sorted(set(first.values()))


class Group:
    """A cgroup, in all hierarchies that it needs."""

    def __init__(self, path: str, mounted: tuple[int, list[Path]] | None = None) -> None:
        self.path = path
        self.cores = float("inf")
        self._version, roots = mounted or mounts()
        self.folders = [root / path for root in roots]
        for root, folder in zip(roots, self.folders, strict=True):
            folder.mkdir(exist_ok=True)
            if self._version == 2:
                (folder.parent / "cgroup.subtree_control").write_text("+cpu")
            assert root in folder.parents

    def limit(self, cores: float, core: float = CORE, period_us: int = PERIOD_US) -> None:
        """At most so many cores, virtual ones unless ``core`` is 1."""
        self.cores = cores
        quota = max(1000, int(cores * core * period_us))
        for folder in self.folders:
            if self._version == 2:
                (folder / "cpu.max").write_text(f"{quota} {period_us}")
            elif (folder / "cpu.cfs_quota_us").exists():
                (folder / "cpu.cfs_period_us").write_text(str(period_us))
                (folder / "cpu.cfs_quota_us").write_text(str(quota))

    def prefer(self) -> None:
        """Others on this machine wait for what is in here."""
        for folder in self.folders:
            name, most = ("cpu.weight", 10_000) if self._version == 2 else ("cpu.shares", 262_144)
            if (folder / name).exists():
                (folder / name).write_text(str(most))

    def add(self, pid: int) -> None:
        """Move a process here."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def use(self) -> float:
        """Virtual core seconds used so far."""
        for folder in self.folders:
            if (folder / "cpuacct.usage").exists():
                return int((folder / "cpuacct.usage").read_text()) / 1e9 / CORE
        return int((self.folders[0] / "cpu.stat").read_text().split()[1]) / 1e6 / CORE

    def remove(self) -> None:
        """Delete it once its killed processes are gone; also what a killed run left in it."""
        for folder in self.folders:
            deadline = time.monotonic() + 5
            while folder.exists():
                try:
                    for path, _, _ in os.walk(folder, topdown=False):
                        os.rmdir(path)
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)


class Vm:
    """A virtual machine: a group for all of it, ``rest`` and one for each process with a core of its own."""

    def __init__(self, name: str, parent: Group, vcpus: int, own: int) -> None:
        self.name = name
        self.vcpus = vcpus
        self.own = own
        self.group = Group(f"{parent.path}/{name}")
        self.group.limit(min(vcpus, parent.cores))
        self._parts = {"rest": Group(f"{self.group.path}/rest")}
        self._parts["rest"].limit(min(1, self.group.cores))
        self.processes: list[subprocess.Popen[bytes]] = []

    def core(self, name: str) -> Group:
        """The group of one process of that name; it may use one virtual core."""
        if name not in self._parts:
            self._parts[name] = Group(f"{self.group.path}/{name}")
            self._parts[name].limit(min(1, self.group.cores))
        return self._parts[name]

    def inside(self, part: str = "rest") -> list[str]:
        """What to put before a command so that it runs here, and, as in a real machine, sees no cgroups."""
        enter = "".join(f"echo $$ > {folder}/cgroup.procs; " for folder in self.core(part).folders)
        hide = 'exec unshare -m sh -c \'mount -t tmpfs none /sys/fs/cgroup; exec "$@"\' sh "$@"'
        return ["sh", "-c", f"set -e; {enter}{hide}", "sh"]

    def run(self, command: Sequence[str], part: str) -> subprocess.Popen[bytes]:
        """Start a process on a core of its own; it ends with the machine."""
        process = subprocess.Popen([*self.inside(part), *command], start_new_session=True)
        self.processes.append(process)
        return process

    def remove(self) -> None:
        """End what `run` started and delete the groups."""
        for process in self.processes:
            process.kill()
            process.wait()
        for part in self._parts.values():
            part.remove()
        self.group.remove()


class Host:
    """The physical machine; a context manager.

    Args:
        cores: virtual cores that it has.
    """

    def __init__(self, cores: float) -> None:
        self.cores = cores
        self._groups = [Group(_NAME)]
        self._groups[0].limit(cores)
        self.elsewhere = Group(f"{_NAME}-elsewhere")
        """Outside the host, without a limit: for what waits for its turn."""
        self._groups.append(self.elsewhere)
        self.vms: dict[str, Vm] = {}

    def partition(self, name: str, cores: float) -> Group:
        """Cores that only the machines in it may use."""
        self._groups.append(Group(f"{_NAME}/{name}"))
        self._groups[-1].limit(cores)
        return self._groups[-1]

    def vm(self, name: str, vcpus: int, partition: Group | None = None, own: int | None = None) -> Vm:
        """Make a machine that may run on so many cores, ``own`` of them given to it for good (all)."""
        self.vms[name] = Vm(name, partition or self._groups[0], vcpus, vcpus if own is None else own)
        return self.vms[name]

    def table(self, file: Path) -> str:
        """Write what ``python -m controller --source cgroups:FILE`` needs; gives that source."""
        vms = "".join(
            f'{vm.name} = {{ cgroup = "/{vm.group.path}", vcpus = {vm.own} }}\n' for vm in self.vms.values()
        )
        file.write_text(f"cores = {self.cores}\ncore = {CORE}\n[vms]\n{vms}")
        return f"cgroups:{file}"

    def __enter__(self) -> Self:
        tidy_when_terminated()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for vm in self.vms.values():
            vm.remove()
        for group in reversed(self._groups):
            group.remove()


@contextlib.contextmanager
def spinning(vm: Vm, loops: int) -> Iterator[None]:
    """CPU load in a machine: so many loops, each on a virtual core."""
    started = [vm.run([sys.executable, "-c", _SPIN], f"spin-{number}") for number in range(loops)]
    try:
        yield
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.wait()


def check(seconds: float = 3.0) -> list[dict[str, Any]]:
    """What spinning loops get, and what they should (virtual cores), in several set-ups."""
    found = []
    for title, cores, vms in (
        ("one machine of 1 vCPU", 4, {"a": (1, 1)}),
        ("one machine of 2 vCPUs", 4, {"a": (2, 2)}),
        ("one machine of 4 vCPUs", 4, {"a": (4, 4)}),
        ("4 loops on 2 vCPUs", 4, {"a": (2, 4)}),
        ("1 loop on 4 vCPUs", 4, {"a": (4, 1)}),
        ("three machines on 4 cores", 4, {"a": (2, 2), "b": (1, 1), "c": (1, 1)}),
        ("10 vCPUs on 4 cores", 4, {"a": (4, 4), "b": (4, 4), "c": (2, 2)}),
    ):
        with Host(cores) as host, contextlib.ExitStack() as stack:
            for name, (vcpus, loops) in vms.items():
                stack.enter_context(spinning(host.vm(name, vcpus), loops))
            time.sleep(0.5)
            began = {vm.name: vm.group.use() for vm in host.vms.values()}
            at = time.monotonic()
            time.sleep(seconds)
            used = {vm.name: vm.group.use() - began[vm.name] for vm in host.vms.values()}
            wall = time.monotonic() - at
        wanted = {name: min(vcpus, loops) for name, (vcpus, loops) in vms.items()}
        rows = {"all": (min(cores, sum(wanted.values())), sum(used.values()) / wall)}
        if sum(wanted.values()) <= cores:
            rows |= {name: (wanted[name], used[name] / wall) for name in vms}
        for name, (expected, got) in rows.items():
            if name != "all" or len(vms) > 1:
                found.append({"setup": title, "vm": name, "expected": expected, "got": round(got, 3)})
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=3.0, help="per measurement [3.0]")
    chosen = options.parse_args()
    need(options, root=True)
    found = check(chosen.seconds)
    worst = max(abs(one["got"] / one["expected"] - 1) for one in found)
    lines = [
        "# The test bed's accuracy",
        "",
        f"Written by `python -m bench.testbed`. {in_words()}; cgroups of version {mounts()[0]}.",
        f"A virtual core is {CORE:g} of a real one, with a period of {PERIOD_US // 1000} ms; spinning loops "
        f"for {chosen.seconds:g} s. Worst deviation: **{worst:.1%}** (bar: 5 %).",
        "",
        "| set-up | machine | virtual cores by quota | measured | off |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        off = one["got"] / one["expected"] - 1
        lines.append(f"| {one['setup']} | {one['vm']} | {one['expected']} | {one['got']:.2f} | {off:+.1%} |")
    facts = {"core": CORE, "period_us": PERIOD_US, "worst": worst, "checks": found}
    write("testbed", facts, lines, chosen.out)
    sys.exit(worst > 0.05)


if __name__ == "__main__":
    main()
