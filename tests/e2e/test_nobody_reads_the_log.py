"""Standard error is full and nobody reads it: everything else goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.rig.balancer import free_port
from controller.address import parse
from controller.protocol import StatusRequest, encode
from pylb.config.address import Address
from pylb.control import view
from tests.e2e.origin import Origin

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
CTRL_S, CTRL_Q = b"\x13", b"\x11"
PATIENCE = 120.0


def fill(fd: int) -> None:
    """Write until there is no room, and leave the open file description as it was."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fd, b"." * size)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)


class Reader:
    """The end that was not read so far."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)
        self.seen = b""

    def until(self, text: bytes, alive: Callable[[], bool]) -> bytes:
        """Read until a text has come."""
        if os.isatty(self.fd):
            os.write(self.fd, CTRL_Q)
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < deadline and alive(), self.seen[-2000:]
            try:
                self.seen += os.read(self.fd, 65536)
            except (BlockingIOError, OSError):
                time.sleep(0.01)
        return self.seen


def make(kind: str) -> tuple[int, int]:
    """(what is read, what is standard error) of a kind."""
    if kind == "pipe":
        return os.pipe()
    if kind == "terminal":
        master, slave = pty.openpty()
        os.write(master, CTRL_S)
        while select.select([], [slave], [], 0)[1]:
            time.sleep(0.001)
        return master, slave
    if kind == "socket":
        ours, theirs = socket.socketpair()
        return ours.detach(), theirs.detach()
    return os.open("/dev/null", os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)


class Stuck:
    """pylb before ``origin`` with a full standard error."""

    def __init__(self, folder: Path, origin: Origin, stderr: int, *more: str) -> None:
        self.port = free_port()
        self.admin = Address("", 0, str(folder / "admin.sock"))
        command = [sys.executable, "-m", "pylb", "serve", "--admin", str(self.admin), "--workers", "2"]
        command += ["--bind", f"127.0.0.1:{self.port}", "--server", origin.address, *more]
        self.process = subprocess.Popen(command, stderr=stderr, start_new_session=True)

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self, what: str, until: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.alive():
            with contextlib.suppress(OSError, view.AdminError):
                status = view.fetch(self.admin, "GET", "/status")
                if until(status):
                    return status
            time.sleep(0.02)
        raise AssertionError(f"not {what}; exit code {self.process.poll()}")

    def serving(self, but: set[int] = frozenset()) -> set[int]:  # type: ignore[assignment]
        """The pids of the two workers, once both serve and none of ``but`` is one of them."""

        def pids(status: dict[str, Any]) -> set[int]:
            return {worker["pid"] for worker in status["workers"] if worker["state"] == "serving"}

        def fresh(status: dict[str, Any]) -> bool:
            return len(pids(status)) == 2 and not pids(status) & but

        return pids(self.wait("two workers", fresh))

    def ask(self) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as sock:
            sock.sendall(GET)
            data = b""
            while piece := sock.recv(65536):
                data += piece
            return data

    def end(self) -> None:
        """What a test that failed leaves behind."""
        if self.alive():
            children = psutil.Process(self.process.pid).children()
            self.process.kill()
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.wait()


@pytest.fixture(params=["pipe", "terminal", "socket", "device"])
def stuck(request: pytest.FixtureRequest, tmp_path: Path, origin: Origin) -> Iterator[tuple[Stuck, Reader]]:
    read, write = make(request.param)
    if request.param in ("pipe", "socket"):
        fill(write)
    running = Stuck(tmp_path, origin, write)
    try:
        yield running, Reader(read)
    finally:
        running.end()
        os.close(read)
        os.close(write)


def test_the_dead_are_replaced_requests_go_on_and_the_stop_works(stuck: tuple[Stuck, Reader]) -> None:
    running, reader = stuck
    before: set[int] = set()
    for _ in range(3):
        pids = running.serving(before)
        assert running.ask().startswith(b"HTTP/1.1 200 ")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        before |= pids
    running.serving(before)
    status = running.wait("counted", lambda status: status["log_lost"] >= 8)
    if os.fstat(reader.fd).st_rdev != os.stat("/dev/null").st_rdev:
        seen = reader.until(b" as nobody read this log", running.alive)
        assert b" lines were dropped, as nobody read this log" in seen
        assert b"[supervisor " in seen
        assert status["log_lost"] > 0
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE) == 0


def test_the_stop_works_while_nobody_reads(tmp_path: Path, origin: Origin) -> None:
    read, write = os.pipe()
    fill(write)
    running = Stuck(tmp_path, origin, write)
    try:
        pids = running.serving()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0
        assert not any(psutil.pid_exists(pid) for pid in pids)
        # The description that others have is as it was: their writes wait.
        assert not fcntl.fcntl(write, fcntl.F_GETFL) & os.O_NONBLOCK
    finally:
        running.end()
        os.close(read)
        os.close(write)


def test_no_reader_at_all_is_no_end(tmp_path: Path, origin: Origin) -> None:
    read, write = os.pipe()
    running = Stuck(tmp_path, origin, write)
    try:
        pids = running.serving()
        os.close(read)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        running.serving(pids)
        assert running.ask().startswith(b"HTTP/1.1 200 ")
        running.wait("counted", lambda status: status["log_lost"] > 0)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0
    finally:
        running.end()
        os.close(write)


def test_the_controller_does_not_wait_either(tmp_path: Path) -> None:
    read, write = os.pipe()
    fill(write)
    where = f"unix:{tmp_path}/controller.sock"
    process = subprocess.Popen([sys.executable, "-m", "controller", "--listen", where], stderr=write)
    try:
        address = parse(where)
        deadline = time.monotonic() + PATIENCE
        answers = 0
        while answers < 2:  # it logs between the first and the second
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(address.host)
                sock.sendall(encode(StatusRequest("")))
                assert b'"usable_cores"' in sock.recv(65536)
                answers += 1
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        Reader(read).until(b"controller: 1 line was dropped, ", lambda: process.poll() is None)
        fill(write)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read)
        os.close(write)


def test_closed_descriptors_do_not_become_sockets(tmp_path: Path, origin: Origin) -> None:
    admin = Address("", 0, str(tmp_path / "admin.sock"))
    running = Stuck.__new__(Stuck)
    running.port, running.admin = free_port(), admin
    command = f"exec {sys.executable} -m pylb serve --admin {admin} --workers 2"
    command += f" --bind 127.0.0.1:{running.port} --server {origin.address} <&- >&- 2>&-"
    running.process = subprocess.Popen(["/bin/sh", "-c", command], start_new_session=True)
    try:
        pids = running.serving()
        assert running.ask().startswith(b"HTTP/1.1 200 ")
        everybody = [running.process.pid, *(c.pid for c in psutil.Process(running.process.pid).children())]
        assert len(everybody) == 4 and pids < set(everybody)
        for pid in everybody:
            assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE) == 0
    finally:
        running.end()
