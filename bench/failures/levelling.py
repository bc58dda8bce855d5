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

from bench.balancer import Balancer, free_port
from bench.failures.goaway import origin, serving
from bench.failures.report import Row
from bench.peer_processes import certificate

WATCHED = 6.0
"""Seconds from the order for a second worker to the end."""
CASES: dict[str, dict[str, int]] = {
    "HTTPS": {"http1": 20},
    "HTTP/2": {"own": 20},
    "mixed": {"http1": 10, "own": 10, "plain": 10},
}
"""How many clients of which kind (`httpx_client`; plain ones are HTTP/1.1 without TLS)."""


@contextlib.contextmanager
def _clients(kinds: dict[str, int], plain: int, tls: int) -> Iterator[dict[str, subprocess.Popen[str]]]:
    programs = {}
    try:
        for kind, count in kinds.items():
            url, how = f"https://127.0.0.1:{tls}/small", kind
            if kind == "plain":
                url, how = f"http://127.0.0.1:{plain}/small", "http1"
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


def _pylb(case: str, folder: Path, server: int) -> Row:
    plain, tls = free_port(), free_port()
    file = folder / "pylb.toml"
    file.write_text(
        "workers = {min = 1, max = 2}\n"
        f'[[frontend]]\nname = "p"\nbind = "127.0.0.1:{plain}"\nbackend = "b"\n'
        f'[[frontend]]\nname = "t"\nbind = "127.0.0.1:{tls}"\nbackend = "b"\n'
        f'[frontend.tls]\ncertificates = "{folder}/both.pem"\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "127.0.0.1:{server}"\n'
    )
    kinds = CASES[case]
    total = sum(kinds.values())
    balancer = Balancer("-c", str(file))
    try:
        balancer.scale(1)
        with _clients(kinds, plain, tls) as programs:
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
    finally:
        balancer.stop()
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
        sock.connect(f"{folder}/ha.sock")
        sock.sendall(line.encode() + b"\n")
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def _haproxy(case: str, folder: Path, server: int) -> Row:
    plain, tls = free_port(), free_port()
    file = folder / "haproxy.cfg"

    def write(threads: int) -> None:
        file.write_text(
            f"global\n  nbthread {threads}\n  maxconn 2000\n"
            f"  stats socket {folder}/ha.sock level admin expose-fd listeners\n"
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            f"frontend f\n  bind 127.0.0.1:{plain}\n"
            f"  bind 127.0.0.1:{tls} ssl crt {folder}/both.pem alpn h2,http/1.1\n"
            f"  default_backend b\nbackend b\n  server s 127.0.0.1:{server}\n"
        )

    write(1)
    kinds = CASES[case]
    total = sum(kinds.values())
    command = ["haproxy", "-W", "-q", "-f", str(file)]
    with (
        serving(command, tls, folder / "log", signal.SIGINT) as process,
        _clients(kinds, plain, tls) as programs,
    ):
        time.sleep(1)
        write(2)
        process.send_signal(signal.SIGUSR2)
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
    return Row(f"a second worker for {case} clients", "HAProxy", outcome, figures)


def run(only: str = "") -> list[Row]:
    """Every case with both."""
    rows = []
    with origin() as (server, _):
        for case in CASES:
            for play in (_pylb, _haproxy):
                if only in case:
                    with tempfile.TemporaryDirectory(prefix="levelling-") as text:
                        certificate(Path(text))
                        rows.append(play(case, Path(text), server))
    return rows


if __name__ == "__main__":
    for row in run(*sys.argv[1:]):
        print(f"{row.scenario}: {row.balancer}: {row.outcome}", flush=True)
