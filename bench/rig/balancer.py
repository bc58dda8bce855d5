"""A pylb process to test or measure: started on a free port, asked through its admin address, stopped."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pylb.config.address import Address
from pylb.control import view

_RANDOM = random.SystemRandom()  # not what hypothesis seeds
PORTS = (0, 1)
"""(n, m): of each m ports `free_port` gives the n-th, so that m processes at a time never choose the same."""
_given: set[int] = set()
PATIENCE = 50.0
"""Seconds to wait for what must come, however busy the machine is; less than pylb's own timeouts."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now, that the kernel gives to nobody meanwhile, and that differs
    from those which were given before.

    Below the ports of outgoing connections (man 7 ip, ``ip_local_port_range``), or one of those could have it
    before it is listened on.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    number, of = PORTS
    while True:
        port = _RANDOM.randrange(min(10_000, low - 5_000), low - of) // of * of + number
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                if port not in _given:
                    _given.add(port)
                    return port


def _remove(folder: Path, pid: int) -> None:
    """Unless in a forked child, whose copy of the balancer ends sooner."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


class Balancer:
    """One supervisor with its children; as a context manager it is stopped at the end."""

    def __init__(
        self,
        *arguments: str,
        servers: Sequence[str] = (),
        wrap: Sequence[str] = (),
        module: Sequence[str] = ("pylb",),
        text: str = "",
    ) -> None:
        """Start it with arguments of ``pylb serve``, and wait until a worker serves.

        Args:
            servers: addresses that it balances over, on its `port`.
            wrap: a command that runs the one behind it, such as ``taskset -c 0``.
            module: what is run for ``pylb``, with its arguments.
            text: a configuration file, in place of ``servers``.

        Raises:
            TimeoutError: it does not serve; with its log.
        """
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="pylb-"))
        weakref.finalize(self, _remove, self.folder, os.getpid())  # its log may be read after the stop
        self.admin = Address("", 0, str(self.folder / "admin.sock"))
        self.log = self.folder / "log"
        command = [*wrap, sys.executable, "-m", *module, "serve", "--admin", str(self.admin), *arguments]
        if servers:
            command += ["--bind", f"127.0.0.1:{self.port}"]
            for server in servers:
                command += ["--server", server]
        if text:
            file = self.folder / "pylb.toml"
            file.write_text(text)
            command += ["-c", str(file)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, start_new_session=True)
        try:
            self.wait("serving", lambda status: any(w["state"] == "serving" for w in status["workers"]))
        except BaseException:
            self.stop()  # nobody else could
            raise

    def status(self) -> dict[str, Any]:
        """The admin address's ``/status``."""
        return view.fetch(self.admin, "GET", "/status")

    def workers(self) -> list[dict[str, Any]]:
        """The workers that serve now."""
        return [worker for worker in self.status()["workers"] if worker["state"] == "serving"]

    def wait(
        self, what: str, until: Callable[[dict[str, Any]], bool], seconds: float = PATIENCE
    ) -> dict[str, Any]:
        """Ask for the status until it is as wanted.

        Raises:
            TimeoutError: it never was; with the log.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                status = self.status()
                if until(status):
                    return status
            time.sleep(0.02)
        raise TimeoutError(f"not {what}:\n{self.log.read_text()}")

    def scale(self, count: int | str) -> None:
        """Set the number of workers and wait until it is so."""
        view.fetch(self.admin, "POST", "/scale", {"n": count})
        if isinstance(count, int):
            self.wait_workers(count)

    def wait_workers(self, count: int) -> dict[str, Any]:
        """Wait until exactly ``count`` workers exist, all serving."""
        return self.wait(
            f"{count} workers",
            lambda status: [worker["state"] for worker in status["workers"]] == ["serving"] * count,
        )

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """Stop it, at once if it must be; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait(PATIENCE)
        with contextlib.suppress(OSError):
            os.unlink(self.admin.path)
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def frontend(name: str, port: int, more: str = "", backend: str = "b") -> str:
    """A frontend, as text; ``more`` are lines with further keys."""
    return f'[[frontend]]\nname = "{name}"\nbind = "127.0.0.1:{port}"\nbackend = "{backend}"\n{more}'


def backend(name: str, servers: Sequence[str], more: str = "") -> str:
    """A backend, as text."""
    lines = "".join(f'[[backend.server]]\naddress = "{server}"\n' for server in servers)
    return f'[[backend]]\nname = "{name}"\n{more}{lines}'
