"""Signals that end a process by default, and are nobody's wish."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bench.rig.balancer import free_port
from pylb.supervisor.signals import HANDLED, IGNORED, Signals, name
from tests.e2e.conftest import StartBalancer, balancer, origin  # noqa: F401
from tests.e2e.origin import Origin
from tests.e2e.test_running import ask

ROOT = Path(__file__).parents[2]
# What HAProxy and nginx survive, and what Python ignores by itself.
HARMLESS = [
    *(*IGNORED, signal.SIGUSR1, signal.SIGPIPE, signal.SIGXFSZ),
    *(signal.SIGWINCH, signal.SIGURG, signal.SIGCONT),
]


def told(log: str) -> bool:
    """Whether a line says of each signal what isn't done."""
    return all(f"{name(number)}: ignored" in log for number in IGNORED)


def test_every_process_survives_them_and_the_log_says_so(
    balancer: StartBalancer,  # noqa: F811
    origin: Origin,  # noqa: F811
) -> None:
    running = balancer("--workers", "2", servers=(origin.address,))
    running.wait_workers(2)
    supervisor = psutil.Process(running.process.pid)
    children = supervisor.children()
    assert len(children) == 3
    for number in HARMLESS:
        for process in (*children, supervisor):
            process.send_signal(number)
    running.wait("all told", lambda status: told(running.log.read_text()))
    assert "upgrade" in running.log.read_text()
    assert ask(socket.AF_INET, ("127.0.0.1", running.port)).startswith(b"HTTP/1.1 200 ")
    assert running.process.poll() is None
    assert {child.pid for child in supervisor.children()} == {child.pid for child in children}


EARLY = """
import os, signal, sys
import pylb.supervisor.arbiter as arbiter
real = arbiter.Arbiter.__init__
def early(self, *args, **more):
    for number in map(int, os.environ["EARLY"].split()):
        os.kill(os.getpid(), number)
    real(self, *args, **more)
arbiter.Arbiter.__init__ = early
from pylb.__main__ import main
main()
"""


def start(tmp_path: Path, *early: int) -> subprocess.Popen[str]:
    """A supervisor that gets signals before it has handlers."""
    command = [sys.executable, "-c", EARLY, "serve", "--bind", f"127.0.0.1:{free_port()}"]
    command += ["--server", "127.0.0.1:9", "--workers", "1..2", "--admin", f"unix:{tmp_path}/admin.sock"]
    environment = {**os.environ, "EARLY": " ".join(str(int(number)) for number in early)}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


@pytest.mark.parametrize("early", [tuple(IGNORED), (signal.SIGHUP,), (signal.SIGTTIN,)])
def test_a_signal_that_comes_before_the_handlers(tmp_path: Path, early: tuple[int, ...]) -> None:
    expected = {signal.SIGHUP: "reload: starting", signal.SIGTTIN: "pinned to 2"}.get(early[0], "ready in")  # type: ignore[call-overload]
    with start(tmp_path, *early) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if expected in line:
                break
        else:
            raise AssertionError("it ended")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=50)
    assert process.returncode == 0


def in_child(work: Callable[[], None]) -> int:
    """Exit code of a forked child that does some work."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_ignores_what_the_supervisor_decides_on() -> None:
    def child() -> None:
        signals = Signals()
        signals.reset_in_child()
        for number in set(HANDLED) - {signal.SIGTERM, signal.SIGCHLD}:
            os.kill(os.getpid(), number)

    assert in_child(child) == 0


def test_they_are_put_back() -> None:
    before = {number: signal.getsignal(number) for number in HANDLED}
    Signals().close()
    assert {number: signal.getsignal(number) for number in HANDLED} == before
