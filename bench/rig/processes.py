"""Processes of a benchmark: waiting for what they do, their CPU time and memory, and Python code in its own.

Programs are started by `peers`, `balancer` and `origins`; what is the same for all of them stands here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
Ready = Callable[[int], object]
"""Takes a port of 127.0.0.1 and gives something true when what listens there is ready."""

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
"""The most descriptors that a process here may have."""
_SPAWN = multiprocessing.get_context("spawn")


def more_descriptors() -> None:
    """Let this process, and those that it starts, have as many descriptors as they may."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def wait_for(what: str, look: Callable[[], T], seconds: float = 50.0) -> T:
    """Look until there is something true, and give it; an OSError counts as not yet.

    Raises:
        TimeoutError: there is nothing within these seconds.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if found := look():
                return found
        time.sleep(0.02)
    raise TimeoutError(f"not within {seconds:g} s: {what}")


def listens(port: int) -> bool:
    """Whether a connection to 127.0.0.1 is accepted.

    Raises:
        OSError: it is not.
    """
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    return True


def status_of(port: int, path: str = "/", seconds: float = 5.0) -> int:
    """The status that a GET is answered with, without TLS; 0 if with none."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), seconds) as sock:
        sock.settimeout(seconds)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        start = sock.recv(1000)
        return int(start[9:12]) if start.startswith(b"HTTP/1.1 ") else 0
    return 0


def titles(pid: int) -> dict[str, int]:
    """The children of a process that live, by what they are called; each may end at any time."""
    found = {}
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):  # ended meanwhile, or ended and not yet waited for
            found[" ".join(child.cmdline()).strip()] = child.pid
    return found


class Program:
    """A program that serves on a port, with all the processes that it has started."""

    def __init__(self, process: subprocess.Popen[bytes], end: signal.Signals = signal.SIGTERM) -> None:
        """``end`` is the signal that ends it at once."""
        self.process = process
        self._end = end

    def tree(self) -> list[psutil.Process]:
        """Its processes."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def workers(self, count: int) -> list[psutil.Process]:
        """Its children that are workers by their titles (all of HAProxy's), once there are so many.

        Raises:
            TimeoutError: there are not.
        """

        def found() -> list[psutil.Process] | None:
            children = psutil.Process(self.process.pid).children()
            ours = [pid for title, pid in titles(self.process.pid).items() if "worker" in title]
            workers = [one for one in children if one.pid in ours] or children
            return workers if len(workers) == count else None

        return wait_for(f"{count} workers", found) or []

    def cpu(self) -> float:
        """Seconds of CPU time that all of them have used, and those that have ended since (man 5 proc)."""
        tree = self.tree()
        times = tree[0].cpu_times()
        ended = times.children_user + times.children_system
        return float(ended + sum(cpu_seconds(process.pid) for process in tree))

    def memory(self) -> int:
        """Bytes that are theirs alone, all together; what forked processes share does not count twice."""
        return int(sum(process.memory_full_info().pss for process in self.tree()))

    def stop(self) -> None:
        """End it and all that it has started."""
        tree = [] if self.process.poll() is not None else self.tree()
        self.process.send_signal(self._end)
        _, alive = psutil.wait_procs(tree, timeout=5)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def start(
    command: Sequence[str],
    log: Path | int,
    port: int,
    ready: Ready = listens,
    end: signal.Signals = signal.SIGTERM,
) -> Program:
    """Start a program and wait until it serves; ``log``, a file or a descriptor, gets what it says.

    Raises:
        TimeoutError: it does not serve within 50 seconds; with what it said.
    """
    environment = os.environ | {"LANG": "C"}
    with contextlib.ExitStack() as stack:
        out = log if isinstance(log, int) else stack.enter_context(log.open("wb"))
        process = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, env=environment
        )  # fmt: skip
    program = Program(process, end)
    try:
        wait_for("serving", lambda: process.poll() is not None or ready(port))
        if process.poll() is None:
            return program
    except TimeoutError:
        pass
    program.stop()
    said = log.read_text() if isinstance(log, Path) else ""
    raise TimeoutError(f"{' '.join(command)} does not serve:\n{said}")


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of one process, to the nanosecond (man 3 clock_getcpuclockid).

    Raises:
        OSError: there is no such process.
    """
    # The kernel's number for that clock: include/linux/posix-timers.h
    return time.clock_gettime(~pid << 3 | 2)


@contextmanager
def child(run: Callable[..., None], *arguments: object) -> Iterator[Connection[Any, Any]]:
    """A process that runs ``run(*arguments, pipe)``, and our end of the pipe; it ends with the block."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=run, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def event() -> Any:
    """An event that a `child` can be given (multiprocessing.Event)."""
    return _SPAWN.Event()
