"""``python3 -m bench.vm.burn DUTY VCPUS`` in a guest: keeps each of some vCPUs busy for a part of the time.

In every tenth of a second a vCPU works until the part is over by the clock, whether it got a CPU or not: so
what it needs is the part, also where it is starved.
"""

from __future__ import annotations

import os
import sys
import time

PERIOD = 0.1


def burn(duty: float) -> None:
    """For ever."""
    begin = time.perf_counter()
    while True:
        while time.perf_counter() < begin + duty * PERIOD:
            pass
        begin = max(begin + PERIOD, time.perf_counter() - PERIOD)
        if (pause := begin - time.perf_counter()) > 0:
            time.sleep(pause)


if __name__ == "__main__":
    for cpu in range(int(sys.argv[2])):
        if cpu + 1 == int(sys.argv[2]) or os.fork() == 0:
            os.sched_setaffinity(0, {cpu})
            burn(float(sys.argv[1]))
