"""What a container's first process owes (it reaps what it did not start), and a health check (the truth)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.rig.balancer import free_port
from pylb.config.address import Address
from pylb.control import view
from tests.e2e.origin import Scripted, read_head

# Orphans come to this process as they come to PID 1 (man 2 prctl: PR_SET_CHILD_SUBREAPER), and one is made
# that ends when its standard input does. Then it becomes the program of its arguments.
_ADOPTING = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
if os.fork() == 0:
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.read(0, 1)
        os._exit(3)
    os._exit(0)
os.wait()
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_orphans_are_reaped(tmp_path: Path) -> None:
    admin = Address("", 0, str(tmp_path / "admin.sock"))
    command = [sys.executable, "-c", _ADOPTING, "-m", "pylb", "serve", "--admin", str(admin)]
    command += ["--bind", f"127.0.0.1:{free_port()}", "--server", "127.0.0.1:9", "--workers", "1"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        orphan = int(process.stdout.readline())
        while b"ready in" not in process.stderr.readline():
            assert process.poll() is None
        os.kill(orphan, 0)
        process.stdin.close()
        deadline = time.monotonic() + 50
        with pytest.raises(ProcessLookupError):  # a zombie could still be sent a signal
            while time.monotonic() < deadline:
                os.kill(orphan, 0)
                time.sleep(0.02)
        states = [worker["state"] for worker in view.fetch(admin, "GET", "/status")["workers"]]
        assert states == ["serving"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(25) == 0
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def health(admin: str) -> int:
    command = [sys.executable, "-m", "pylb", "status", "--json", "--admin", admin]
    return subprocess.run(command, capture_output=True, timeout=60).returncode


def test_status_says_whether_anybody_serves() -> None:
    body = json.dumps({"workers": [{"state": "starting"}, {"state": "retiring"}]}).encode()

    def play(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    with Scripted(play) as server:
        assert health(server.address) == 1
    assert health(f"127.0.0.1:{free_port()}") == 2
