"""Where idleness comes from. To add a source, write a class with `Source`'s methods and name it in `SOURCES`.

Sources know the host and its machines; what leases are, and who talks to the controller, they don't.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol, runtime_checkable

from controller.sources.cgroups import CgroupSource
from controller.sources.hypervisor import HypervisorSource
from controller.sources.measured import MeasuredSource
from controller.sources.table import TableSource


class Source(Protocol):
    """Something that knows how many cores nobody uses."""

    name: str

    def sample(self, now: float) -> None:
        """Look again; called about twice a second."""

    def idle(self) -> float:
        """Cores that nobody uses, balancers' own use counted as use."""

    def capacity(self, used: Mapping[str, float]) -> float:
        """Cores that all balancers together may have; ``used`` is what each says that it uses, by name."""

    def usable(self) -> float:
        """Cores that there are in all for whoever is served."""

    def per_cpu(self) -> list[float]:
        """Idle share of each CPU, where that is known."""


@runtime_checkable
class Hosting(Source, Protocol):
    """A source that knows machines, and by itself which one a balancer runs in."""

    def machine(self, pid: int) -> str | None:
        """The machine that a process runs."""

    def bounds(self, machines: Collection[str]) -> Mapping[str, float]:
        """Cores that the balancers of each of these machines may have at most."""

    def needs(self) -> Mapping[str, tuple[float, float]]:
        """Per machine the cores that it uses, and those that it would use if it were alone."""


SOURCES: dict[str, Callable[[str | None], Source]] = {
    "measured": lambda argument: MeasuredSource(),
    "table": lambda argument: TableSource(argument),
    "cgroups": lambda argument: CgroupSource(argument),
    "hypervisor": lambda argument: HypervisorSource(argument),
}
"""By name; the argument is what the user wrote after the colon, as in ``table:FILE``."""
