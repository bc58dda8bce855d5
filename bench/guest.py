"""``python -m bench.guest VCPUS CORE serve …``: pylb as in a virtual machine with so many CPUs.

The test bed's virtual cores are parts of real ones (``CORE``, such as 0.25), and there can be more of them. A
guest's kernel would tell pylb of its own CPUs, and count a slow one that is busy all the time as busy.
"""

from __future__ import annotations

import os
import runpy
import sys
import time

from pylb.worker.runqueue import RunQueue


def slow_clock(core: float) -> None:
    """From here on this process counts its CPU time in such cores.

    While a virtual core is used, its quota lets a process wait for the rest of each period: that is no
    waiting in the guest, whose core is just slow.
    """
    used, waited = time.process_time_ns, RunQueue.waited_ns
    time.process_time_ns = lambda: round(used() / core)
    RunQueue.waited_ns = lambda self: waited(self) - round(used() * (1 / core - 1))  # type: ignore[method-assign]


def main() -> None:
    vcpus, core = int(sys.argv.pop(1)), float(sys.argv.pop(1))
    os.sched_getaffinity = lambda pid: set(range(vcpus))
    slow_clock(core)
    sys.argv[0] = "pylb"
    runpy.run_module("pylb", run_name="__main__")


if __name__ == "__main__":
    main()
