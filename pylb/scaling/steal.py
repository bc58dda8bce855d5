"""Time that a hypervisor gave to others while this machine's CPUs could have run. Pure: times are passed in.

KVM and Xen tell a guest (``steal`` in ``/proc/stat``, man 5 proc), whose kernel takes it out of what
processes used: workers that are held back in this way look less busy than they are, and wait on no run
queue of this machine. So stolen time is counted as waiting. QEMU's emulation (TCG) reports none, and it
looks like use.
"""

from __future__ import annotations

from collections.abc import Sequence

_MOST = 0.95
"""A larger share would multiply what a worker seems to need by more than 20."""


class Steal:
    """The stolen part of the time in which CPUs had something to do."""

    def __init__(self) -> None:
        self.share = 0.0
        self._before: tuple[float, float] | None = None

    def look(self, stolen: float, busy: float) -> None:
        """Take the times since boot, in seconds: ``busy`` is what all CPUs together ran."""
        before = self._before
        if before is not None:
            more_stolen, more_busy = stolen - before[0], busy - before[1]
            if more_stolen < 0 or more_busy < 0:  # a CPU was taken offline
                self.share = 0.0
            elif more_stolen + more_busy < 0.05:
                return  # the kernel counts in hundredths: wait for more
            else:
                self.share = more_stolen / (more_stolen + more_busy)
        self._before = stolen, busy

    def waiting(self, busy: Sequence[float], waiting: Sequence[float]) -> list[float]:
        """Each worker's share of time in which it waited, with what was stolen from it.

        A worker that runs for ``b`` of the time would have run for ``b / (1 - share)``.
        """
        share = min(_MOST, self.share)
        return [
            min(max(0.0, 1.0 - ran), waited + ran * share / (1.0 - share))
            for ran, waited in zip(busy, waiting, strict=True)
        ]
