"""More clients than descriptors: who is served, who waits, what does it cost, and does it go on afterwards?

Each may have 256 descriptors (``ulimit -n``); 300 clients connect and say nothing. Then some of those
that were accepted first ask for something, half of all leave, and all others ask.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.balancer import Balancer, free_port
from bench.failures.goaway import origin
from bench.failures.report import Row

LIMIT = 256
CLIENTS = 300
ASKING = 40
WATCHED = 2.0
"""Seconds in which the CPU time is measured while clients wait."""
GET = b"GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def _pylb(folder: Path, server: int) -> Iterator[tuple[int, int]]:
    port = free_port()
    file = folder / "pylb.toml"
    file.write_text(
        "workers = {min = 1, max = 1}\n"
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "127.0.0.1:{server}"\n'
    )
    balancer = Balancer("-c", str(file), wrap=("prlimit", f"--nofile={LIMIT}:{LIMIT}"))
    try:
        yield port, balancer.workers()[0]["pid"]
    finally:
        balancer.stop()


@contextlib.contextmanager
def _haproxy(folder: Path, server: int) -> Iterator[tuple[int, int]]:
    port = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(
        "global\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n"
        f"  timeout server 60s\nfrontend f\n  bind 127.0.0.1:{port}\n  backlog 4096\n  default_backend b\n"
        f"backend b\n  server s 127.0.0.1:{server}\n"
    )
    process = subprocess.Popen(
        ["haproxy", "-db", "-q", "-f", str(file)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT)),
    )
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def _ask(clients: list[socket.socket], seconds: float) -> tuple[int, int, list[socket.socket]]:
    """Answered, refused or cut off, and those that still wait."""
    chooser = selectors.DefaultSelector()
    answered = refused = 0
    for client in clients:
        client.setblocking(False)
        try:
            client.send(GET)
        except OSError:
            refused += 1
            continue
        chooser.register(client, selectors.EVENT_READ)
    deadline = time.monotonic() + seconds
    while chooser.get_map() and time.monotonic() < deadline:
        for key, _ in chooser.select(0.2):
            taker = key.fileobj
            assert isinstance(taker, socket.socket)
            chooser.unregister(taker)
            try:
                good = taker.recv(65536).startswith(b"HTTP/1.1 200 ")
            except OSError:
                good = False
            answered, refused = answered + good, refused + (not good)
            taker.close()
    waiting = [key.fileobj for key in chooser.get_map().values() if isinstance(key.fileobj, socket.socket)]
    chooser.close()
    return answered, refused, waiting


def _play(name: str, port: int, pid: int) -> Row:
    clients = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(CLIENTS)]
    time.sleep(0.5)
    process = psutil.Process(pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(WATCHED)
    cpu = (sum(process.cpu_times()[:2]) - before) / WATCHED
    open_ = len(os.listdir(f"/proc/{pid}/fd"))
    first = _ask(clients[:ASKING], 5.0)
    rest = clients[ASKING:]
    for client in rest[: CLIENTS // 2]:
        client.close()
    last = _ask(rest[CLIENTS // 2 :], 10.0)
    for client in (*first[2], *last[2]):
        client.close()
    outcome = (
        f"of {ASKING} accepted clients {first[0]} answered, {first[1]} refused, {len(first[2])} waiting; "
        f"{open_} descriptors open, {cpu:.1%} of a CPU while others waited; after half had left, of the "
        f"{len(rest) - CLIENTS // 2} others {last[0]} answered, {last[1]} refused, {len(last[2])} waiting"
    )
    figures = {
        "answered": first[0], "refused": first[1], "waiting": len(first[2]), "cpu": cpu, "open": open_,
        "later_answered": last[0], "later_refused": last[1], "later_waiting": len(last[2]),
    }  # fmt: skip
    return Row(f"{CLIENTS} clients, {LIMIT} descriptors", name, outcome, figures)


def run() -> list[Row]:
    """One row for each balancer."""
    rows = []
    for name, started in (("pylb", _pylb), ("haproxy", _haproxy)):
        with (
            origin() as (server, _),
            tempfile.TemporaryDirectory() as folder,
            started(Path(folder), server) as (port, pid),
        ):
            rows.append(_play(name, port, pid))
    return rows
