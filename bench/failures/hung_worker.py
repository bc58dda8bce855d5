"""One of two workers is stopped (SIGSTOP): what do the clients of the other one notice, and new ones?

Clients send a request every 20 ms on connections that they keep. Whose a connection is at the moment of the
stop, the kernel tells. nginx shares its listening socket between its workers, as it does by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.balancer import free_port
from bench.failures.report import Row
from bench.nothing_lost import origin

CLIENTS = 100
PAUSE = 3.0  # seconds
HANGS = 1.0  # seconds of waiting from which a request hangs
PATIENCE = 5.0  # seconds that a new client waits
_GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def _pylb(folder: Path, port: int, server: str) -> list[str]:
    (folder / "pylb.toml").write_text(
        f'admin = "unix:{folder}/admin.sock"\n[workers]\nmin = 2\nmax = 2\n'
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{server}"\n'
    )
    return [sys.executable, "-m", "pylb", "serve", "-c", f"{folder}/pylb.toml"]


def _nginx(folder: Path, port: int, server: str) -> list[str]:
    temps = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"user root; worker_processes 2; daemon off; pid {folder}/pid; error_log {folder}/err;\n"
        "events { worker_connections 1000; }\n"
        f"http {{ access_log off; keepalive_requests 1000000; keepalive_timeout 300; {temps}\n"
        f"upstream b {{ server {server}; keepalive 64; }}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://b; proxy_http_version 1.1; "
        'proxy_set_header Connection ""; }}}\n'
    )
    return ["nginx", "-e", f"{folder}/err", "-c", f"{folder}/nginx.conf"]


@contextlib.contextmanager
def _running(name: str, server: str) -> Iterator[tuple[int, list[psutil.Process]]]:
    """A balancer's port and its two workers."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        port = free_port()
        command = {"pylb": _pylb, "nginx": _nginx}[name](folder, port, server)
        with (folder / "out").open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            yield port, _workers(process)
        finally:
            for child in psutil.Process(process.pid).children():
                child.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(20)


def _workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        found = [child for child in children if "worker" in " ".join(child.cmdline())]
        if len(found) == 2:
            return found
        time.sleep(0.05)
    raise TimeoutError("there are no two workers")


@dataclass
class _Client:
    port: int = 0
    """Its own."""
    since: float = 0.0
    """When it asked what isn't answered yet."""
    longest: float = 0.0
    answered: bool = False

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.since = time.monotonic()
        writer.write(_GET)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(128)
        self.longest = max(self.longest, time.monotonic() - self.since)
        self.since = 0.0
        self.answered = True

    async def run(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self.port = writer.get_extra_info("sockname")[1]
        while True:
            await self.ask(reader, writer)
            await asyncio.sleep(0.02)


async def _start(port: int) -> tuple[list[_Client], list[asyncio.Task[None]]]:
    clients = [_Client() for _ in range(CLIENTS)]
    return clients, [asyncio.create_task(client.run(port)) for client in clients]


async def _until_ready(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, EOFError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await _Client().ask(reader, writer)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise TimeoutError("it does not serve")


async def _paused(port: int, victim: psutil.Process) -> tuple[list[float], list[float]]:
    """The longest waits of the stopped worker's own clients, and of all others."""
    clients, tasks = await _start(port)
    while not all(client.answered for client in clients):
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    for client in clients:
        client.longest = 0.0
    victim.send_signal(signal.SIGSTOP)
    held = {sock.raddr.port for sock in victim.net_connections("tcp") if sock.raddr}
    await asyncio.sleep(PAUSE)
    victim.send_signal(signal.SIGCONT)
    await asyncio.sleep(1)
    now = time.monotonic()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    waits = [(max(one.longest, now - one.since if one.since else 0.0), one.port in held) for one in clients]
    return [wait for wait, own in waits if own], [wait for wait, own in waits if not own]


async def _for_ever(port: int, victim: psutil.Process) -> tuple[int, float]:
    """Of clients that come when a worker has stopped: how many are not answered, and the longest wait."""
    victim.send_signal(signal.SIGSTOP)
    clients, tasks = await _start(port)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not all(client.answered for client in clients):
        await asyncio.sleep(0.02)
    await asyncio.sleep(1.5)  # for levelling to move some of them
    now = time.monotonic()
    hang = [one for one in clients if not one.answered or one.since and now - one.since > HANGS]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return len(hang), max((one.longest for one in clients if one not in hang), default=0.0)


async def _both(name: str, server: str) -> list[Row]:
    with _running(name, server) as (port, workers):
        await _until_ready(port)
        own, others = await _paused(port, workers[0])
        hang = sum(wait > HANGS for wait in others)
        rows = [
            Row(
                f"one of two workers stops for {PAUSE:g} s, {CLIENTS} keep-alive clients",
                name,
                f"its own {len(own)} clients wait {max(own, default=0):.2f} s; of the {len(others)} others "
                f"{hang} hang, the longest waits {max(others, default=0):.2f} s",
                {"own": len(own), "own_longest": max(own, default=0), "others": len(others)}
                | {"others_hang": hang, "others_longest": max(others, default=0)},
            )
        ]
    with _running(name, server) as (port, workers):
        await _until_ready(port)
        left, longest = await _for_ever(port, workers[0])
        rows.append(
            Row(
                f"one of two workers stops for ever, then {CLIENTS} clients come",
                name,
                f"{left} hang for more than {PATIENCE:g} s; the others wait {longest:.2f} s at most",
                {"hang": left, "longest": longest},
            )
        )
    return rows


def run() -> list[Row]:
    """pylb beside nginx."""
    os.environ.setdefault("LANG", "C")
    with origin() as server:
        return [row for name in ("pylb", "nginx") for row in asyncio.run(_both(name, server))]
