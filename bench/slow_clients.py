"""``python -m bench.slow_clients``: ordinary clients while slowhttptest holds 1,000 connections.

A balancer limited to 2,000 connections is attacked in each of slowhttptest's modes (slow headers, slow body,
slow read, range). Before and during each attack the latency is measured that ordinary clients see.
Needs slowhttptest. Exit code 1 if an ordinary request fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.balancer import Balancer, free_port, frontend, in_front_of
from bench.machine import in_words, machine

console = Console()
MODES = {"slow headers": "-H", "slow body": "-B", "slow read": "-X", "range": "-R"}
_CLIENTS = 16
_PAUSE = 0.02  # seconds


async def _serve(port: int) -> None:
    """The server: 128 bytes, or 1 MiB for /1m, after the whole of the request's body."""
    bodies = {b"/small": b"x" * 128, b"/1m": bytes(1 << 20)}

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
                if length is not None:
                    await reader.readexactly(int(length[1]))
                body = bodies.get(head.split(b" ", 2)[1], b"")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


async def _ordinary(port: int, seconds: float) -> tuple[list[float], list[str]]:
    latencies: list[float] = []
    trouble: list[str] = []
    end = time.monotonic() + seconds

    async def client() -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while time.monotonic() < end:
                begin = time.perf_counter()
                writer.write(b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 200 " not in head:
                    raise ValueError(head.decode())
                await reader.readexactly(128)
                latencies.append(1000 * (time.perf_counter() - begin))
                await asyncio.sleep(_PAUSE)
            writer.close()
        except (OSError, EOFError, ValueError) as error:
            trouble.append(f"{type(error).__name__}: {error}")

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    return latencies, trouble


def ordinary(port: int, seconds: int) -> dict[str, Any]:
    """What 16 keep-alive clients see that rest 20 ms between requests; latencies in milliseconds."""
    latencies, trouble = asyncio.run(_ordinary(port, seconds))
    latencies.sort()
    return {
        "p50_ms": latencies[len(latencies) // 2],
        "p99_ms": latencies[len(latencies) * 99 // 100],
        "requests": len(latencies),
        "trouble": trouble,
    }


def attack(port: int, mode: str, seconds: int) -> subprocess.Popen[bytes]:
    """1,000 connections, opened at 500 a second, and kept as slow as the mode says."""
    command = ["slowhttptest", MODES[mode], "-c", "1000", "-r", "500", "-l", str(seconds), "-i", "2"]
    command += ["-u", f"http://127.0.0.1:{port}/1m", "-p", "5", "-x", "24"]
    if mode == "slow read":
        command += ["-w", "16", "-y", "64", "-n", "1", "-z", "32", "-k", "3"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(balancer: Balancer, port: int, mode: str, seconds: int) -> dict[str, Any]:
    """Latency before and during one attack."""
    before = ordinary(port, seconds)
    accepted = balancer.status()["totals"]["accepted"]
    attacker = attack(port, mode, seconds + 30)
    try:
        held = balancer.wait("attacked", lambda s: s["totals"]["accepted"] >= accepted + 900, 40)["totals"]
        during = ordinary(port, seconds)
        after = balancer.status()["totals"]
    finally:
        attacker.terminate()
        attacker.wait()
    balancer.wait("over", lambda status: status["totals"]["connections"] == 0, 90)
    result = {
        "mode": mode,
        "before": before,
        "during": during,
        "held_at_the_start": held["connections"],
        "held_at_the_end": after["connections"],
        "timeouts": after["timeouts"],
    }
    console.log(mode, result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="per measurement [8]")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    options = parser.parse_args()
    if shutil.which("slowhttptest") is None:
        parser.error("slowhttptest is not installed (apt-get install slowhttptest)")
    folder = Path(tempfile.mkdtemp(prefix="pylb-bench-"))
    port = free_port()
    try:
        limits = "limits = {connections = 2000}\n"
        with in_front_of(_serve, folder, limits + frontend("f", port)) as balancer:
            results = [measure(balancer, port, mode, options.seconds) for mode in MODES]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "slow_clients.json").write_text(
        json.dumps({"machine": machine(), "results": results}, indent=1) + "\n"
    )
    lines = [
        "# Ordinary clients while slow ones hold 1,000 connections",
        "",
        f"Written by `python -m bench.slow_clients`. {in_words()}. One worker, at most 2,000 connections.",
        "",
        "| attack | connections held | p50 before → during | p99 before → during | requests/s | failed |",
        "|---|---|---|---|---|---|",
    ]
    for one in results:
        before, during = one["before"], one["during"]
        lines.append(
            f"| {one['mode']} | {one['held_at_the_start']} to {one['held_at_the_end']} | "
            f"{before['p50_ms']:.2f} → {during['p50_ms']:.2f} ms | "
            f"{before['p99_ms']:.2f} → {during['p99_ms']:.2f} ms | "
            f"{before['requests'] / options.seconds:.0f} → {during['requests'] / options.seconds:.0f} | "
            f"{during['trouble'] or 'none'} |"
        )
    (options.out / "slow_clients.md").write_text("\n".join(lines) + "\n")
    console.print("\n".join(lines))
    sys.exit(any(one["during"]["trouble"] for one in results))


if __name__ == "__main__":
    main()
