"""``python -m bench.guest VCPUS serve …``: pylb as in a virtual machine with so many CPUs.

The test bed's virtual cores are parts of real ones, and there can be more of them; a guest's kernel would
tell pylb of its own CPUs.
"""

from __future__ import annotations

import os
import runpy
import sys


def main() -> None:
    vcpus = int(sys.argv.pop(1))
    os.sched_getaffinity = lambda pid: set(range(vcpus))
    sys.argv[0] = "pylb"
    runpy.run_module("pylb", run_name="__main__")


if __name__ == "__main__":
    main()
