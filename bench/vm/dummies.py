"""``python -m bench.vm.dummies MACHINES VCPUS``: processes that ``/proc`` shows as QEMU's, with vCPUs.

They do nothing but exist, to see what looking at many machines costs. Prints a line when all are there, and
ends with its standard input.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

_PR_SET_NAME = 15  # linux/prctl.h
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def machine(vcpus: int, ready: int) -> None:
    """Be a machine, for ever."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _libc.prctl(_PR_SET_NAME, b"qemu-dummy")
    named = threading.Barrier(vcpus + 1)

    def vcpu(number: int) -> None:
        _libc.prctl(_PR_SET_NAME, f"CPU {number}/KVM".encode())
        named.wait()
        threading.Event().wait()

    for number in range(vcpus):
        threading.Thread(target=vcpu, args=(number,), daemon=True).start()
    named.wait()
    os.write(ready, b".")
    signal.pause()


def main() -> None:
    machines, vcpus = int(sys.argv[1]), int(sys.argv[2])
    reading, writing = os.pipe()
    for _ in range(machines):
        if os.fork() == 0:
            machine(vcpus, writing)
    for _ in range(machines):
        os.read(reading, 1)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
