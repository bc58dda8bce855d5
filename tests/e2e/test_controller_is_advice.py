"""I3: with the controller gone, frozen, or lying, pylb serves on within min..max."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.rig.balancer import Balancer
from bench.rig.clients import connection_per_request
from controller.protocol import Grant, encode
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Origin


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real controller process that has 3 idle cores by its allocation table."""
    table = tmp_path / "vms.toml"
    table.write_text("cores = 4\n[vms]\nbalancer = 1\n")
    address = f"unix:{tmp_path}/controller.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "controller", "--listen", address, "--source", f"table:{table}"],
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert b"listening" in process.stderr.readline()
    yield address, process
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGCONT)
    process.terminate()
    process.wait()


def scaling(balancer: Balancer, what: str, connected: bool, granted: bool) -> None:
    balancer.wait(
        what,
        lambda status: (
            status["scaling"]["controller_connected"] is connected
            and (status["scaling"]["granted_cores"] is not None) is granted
        ),
    )


async def serves(balancer: Balancer, workers: int = 1) -> None:
    tally = await connection_per_request("127.0.0.1", balancer.port, 50, 5)
    assert tally.failed == []
    assert len(balancer.workers()) == workers


async def test_killed(
    balancer: StartBalancer, origin: Origin, controller: tuple[str, subprocess.Popen[bytes]]
) -> None:
    address, process = controller
    running = balancer("--workers", "1..4", "--controller", address, servers=(origin.address,))
    scaling(running, "granted", connected=True, granted=True)
    process.kill()
    scaling(running, "void after the lease", connected=False, granted=False)
    await serves(running)


async def test_frozen(
    balancer: StartBalancer, origin: Origin, controller: tuple[str, subprocess.Popen[bytes]]
) -> None:
    address, process = controller
    running = balancer("--workers", "1..4", "--controller", address, servers=(origin.address,))
    scaling(running, "granted", connected=True, granted=True)
    process.send_signal(signal.SIGSTOP)
    running.wait("void after the lease", lambda status: status["scaling"]["granted_cores"] is None)
    await serves(running)
    process.send_signal(signal.SIGCONT)
    scaling(running, "granted again", connected=True, granted=True)


@pytest.mark.parametrize(
    "says",
    [
        b"\x00\xff junk\n" * 100,
        b"x" * 200_000,
        b'{"v":1,"type":"grant","idle_cores":-5,"cores":0,"lease":3}\n',
        encode(Grant(idle_cores=10_000, cores=10_000, lease=60, reason="take them all")),
    ],
    ids=["junk", "a huge line", "nonsense", "10,000 cores"],
)
async def test_lying(balancer: StartBalancer, origin: Origin, tmp_path: Path, says: bytes) -> None:
    path = tmp_path / "liar.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        heard = threading.Event()

        def lie() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    with peer:
                        peer.recv(65536)
                        peer.sendall(says)
                        heard.set()
                        peer.recv(65536)

        threading.Thread(target=lie, daemon=True).start()
        running = balancer("--workers", "1..2", "--controller", f"unix:{path}", servers=(origin.address,))
        assert heard.wait(50)
        await serves(running)
        # Forced down to what is configured, whatever is granted.
        with pytest.raises(Exception, match="1 to 2"):
            running.scale(3)
        running.scale(2)
        await serves(running, 2)
        listener.shutdown(socket.SHUT_RDWR)
