"""Preference by cgroup files alone: the CPU weight of the cgroup that a machine has to itself.

Sources: Documentation/admin-guide/cgroup-v2.rst (cpu.weight, 1 to 10000, 100 is usual) and
Documentation/scheduler/sched-design-CFS.rst (cpu.shares of version 1, 2 to 262144, 1024 is usual), both of
the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from controller.sources.procreader import weight_file

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
_HINT = "start it with systemd-run --scope"


class Lever(Protocol):
    """Something that sets machines' CPU weights. Every method may raise OSError; a machine that has gone, or
    has none, is a FileNotFoundError."""

    def find(self, machine: str) -> str:
        """What it calls the machine, as long as that runs."""

    def read(self, place: str) -> int:
        """Its weight now."""

    def write(self, place: str, weight: int) -> None:
        """Set it."""

    def raised(self, place: str, usual: int, times: float) -> int:
        """A weight so many times as large, within what the kernel takes."""


class CgroupLever:
    """Writes ``cpu.weight`` or ``cpu.shares``.

    Args:
        process: the process that runs a machine.
        machines: all machines that there are.
    """

    def __init__(
        self,
        process: Callable[[str], int | None],
        machines: Callable[[], Collection[str]],
        proc: Path | None = None,
        cgroups: Path | None = None,
    ) -> None:
        self._process = process
        self._machines = machines
        self._proc = proc or PROC
        self._root = cgroups or CGROUPS

    def find(self, machine: str) -> str:
        pid = self._process(machine)
        if pid is None:
            raise FileNotFoundError(errno.ENOENT, f"no machine {machine!r} runs here")
        file = weight_file(self._root, self._proc / f"{pid}/cgroup")
        if file is None:
            raise PermissionError(errno.EPERM, f"machine {machine!r} has no cgroup of its own; {_HINT}")
        # Preference for a cgroup is preference for all that is in it.
        others: list[tuple[str, int | None]] = [("the controller", os.getpid())]
        others += [(f"machine {other!r}", self._process(other)) for other in self._machines()]
        for who, other in others:
            its = None
            with contextlib.suppress(OSError):  # it has just ended
                if other not in (None, pid):
                    its = weight_file(self._root, self._proc / f"{other}/cgroup")
            if its is not None and its.is_relative_to(file.parent):
                message = f"machine {machine!r} has no cgroup to itself, {who} is in it; {_HINT}"
                raise PermissionError(errno.EPERM, message)
        return str(file.relative_to(self._root))

    def read(self, place: str) -> int:
        return int((self._root / place).read_text())

    def write(self, place: str, weight: int) -> None:
        (self._root / place).write_text(f"{weight}\n")

    def raised(self, place: str, usual: int, times: float) -> int:
        return raised(usual, times, 10_000 if place.endswith("cpu.weight") else 262_144)


def raised(usual: int, times: float, most: int) -> int:
    """A weight so many times as large, at most what the kernel takes, and never smaller than it was."""
    return max(usual, min(most, round(usual * times)))
