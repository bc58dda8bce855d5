"""More clients than descriptors: who is served, who waits, what does it cost, and does it go on afterwards?

Each may have 256 descriptors (``ulimit -n``); 300 clients connect and say nothing. Then some of those
that were accepted first ask for something, half of all leave, and all others ask.
"""

from __future__ import annotations

import os
import selectors
import socket
import tempfile
import time
from pathlib import Path

import psutil

from bench.failures.report import Row
from bench.rig.origins import origin
from bench.rig.peers import Site, running

LIMIT = 256
CLIENTS = 300
ASKING = 40
WATCHED = 2.0
"""Seconds in which the CPU time is measured while clients wait."""
GET = b"GET /small HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


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


def _play(name: str, port: int, process: psutil.Process) -> Row:
    clients = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(CLIENTS)]
    time.sleep(0.5)
    before = sum(process.cpu_times()[:2])
    time.sleep(WATCHED)
    cpu = (sum(process.cpu_times()[:2]) - before) / WATCHED
    open_ = len(os.listdir(f"/proc/{process.pid}/fd"))
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
    wrap = ("prlimit", f"--nofile={LIMIT}:{LIMIT}")
    with origin() as server, tempfile.TemporaryDirectory() as folder:
        for name in ("pylb", "haproxy"):
            site = Site([server])
            more = {"connections": 0} if name == "haproxy" else {}
            with running(name, Path(folder, name), site, wrap=wrap, **more) as program:
                (worker,) = program.workers(1) if name == "pylb" else program.tree()
                rows.append(_play(name, site.port, worker))
    return rows
