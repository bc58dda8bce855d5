"""A second worker comes: how soon does it have its share of the clients that hold a connection?

Twenty busy clients with HTTP/1.1 over TLS, then with HTTP/2, then ten of each and ten without TLS. HAProxy
can't change ``nbthread`` while it runs: it is reloaded with two threads instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.failures.goaway import origin
from bench.failures.report import Row
from bench.rig import peers
from bench.rig.balancer import Balancer
from bench.rig.peers import RELOAD, Site

WATCHED = 6.0
"""Seconds from the order for a second worker to the end."""
CASES: dict[str, dict[str, int]] = {
    "HTTPS": {"http1": 20},
    "HTTP/2": {"own": 20},
    "mixed": {"http1": 10, "own": 10, "plain": 10},
}
"""How many clients of which kind (`httpx_client`; plain ones are HTTP/1.1 without TLS)."""


@contextlib.contextmanager
def _clients(kinds: dict[str, int], site: Site) -> Iterator[dict[str, subprocess.Popen[str]]]:
    programs = {}
    try:
        for kind, count in kinds.items():
            url, how = f"https://127.0.0.1:{site.tls_port}/small", kind
            if kind == "plain":
                url, how = f"http://127.0.0.1:{site.port}/small", "http1"
            programs[kind] = subprocess.Popen(
                [sys.executable, "-m", "bench.failures.httpx_client", url, str(count), how],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
        for program in programs.values():
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        yield programs
    finally:
        for program in programs.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()


def _end(programs: dict[str, subprocess.Popen[str]]) -> tuple[int, int]:
    """How many requests were answered, and how many failed."""
    found = [json.loads(program.communicate(timeout=30)[0]) for program in programs.values()]
    return sum(one["answered"] for one in found), sum(one["failed"] for one in found)


def _pylb(case: str, folder: Path, site: Site) -> Row:
    folder.mkdir()
    peers.certificate(folder)
    kinds = CASES[case]
    total = sum(kinds.values())
    text = "workers = {min = 1, max = 2}\n" + peers.pylb_text(folder, site)
    with Balancer(text=text) as balancer, contextlib.ExitStack() as stack:
        balancer.scale(1)
        programs = stack.enter_context(_clients(kinds, site))
        balancer.wait("connected", lambda status: status["totals"]["connections"] >= total)
        began = time.monotonic()
        balancer.scale(2)
        level = 0.0
        held: list[int] = []
        while time.monotonic() < began + WATCHED:
            held = [worker["connections"] for worker in balancer.workers()]
            if len(held) < 2 or max(abs(one - total / 2) for one in held) > total / 10:
                level = 0.0
            else:
                level = level or time.monotonic() - began
            time.sleep(0.05)
        answered, failed = _end(programs)
        accepted = balancer.status()["totals"]["accepted"]
    shown = " and ".join(str(one) for one in held)
    when = f"level after {level:.1f} s" if level else "not level"
    outcome = (
        f"{total} clients: {when}, {shown} at the end; {accepted - total} connected anew, "
        f"{failed} of {answered + failed} requests failed"
    )
    figures = {"level": level, "failed": failed, "anew": accepted - total}
    return Row(f"a second worker for {case} clients", "pylb", outcome, figures)


def _command(folder: Path, line: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{folder}/haproxy.sock")
        sock.sendall(line.encode() + b"\n")
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def _haproxy(case: str, folder: Path, site: Site) -> Row:
    kinds = CASES[case]
    total = sum(kinds.values())
    options: dict[str, Any] = {"connections": 2000, "master": True}
    with (
        peers.running("haproxy", folder, site, workers=1, **options) as program,
        _clients(kinds, site) as programs,
    ):
        time.sleep(1)
        peers.haproxy(folder, site, workers=2, **options)
        program.process.send_signal(RELOAD["haproxy"])
        time.sleep(WATCHED)
        answered, failed = _end(programs)
        lines = [
            line for line in _command(folder, "show activity").splitlines() if line.startswith("accepted:")
        ]
    threads = lines[0].partition("[")[2].strip(" ]").split() if lines else []
    outcome = (
        f"{total} clients: a reload with two threads closes all; accepted by the new threads: "
        f"{' and '.join(threads)}; {failed} of {answered + failed} requests failed"
    )
    figures: dict[str, Any] = {"failed": failed, "anew": sum(map(int, threads))}
    return Row(f"a second worker for {case} clients", "haproxy", outcome, figures)


def run(only: str = "") -> list[Row]:
    """Every case with both."""
    with origin() as (server, _), tempfile.TemporaryDirectory(prefix="levelling-") as text:
        return [
            play(case, Path(text, f"{case.replace('/', '')}{play.__name__}"), Site.with_tls([server]))
            for case in CASES
            for play in (_pylb, _haproxy)
            if only in case
        ]


if __name__ == "__main__":
    for row in run(*sys.argv[1:]):
        print(f"{row.scenario}: {row.balancer}: {row.outcome}", flush=True)
