"""``python -m bench.slow_clients``: ordinary clients while slowhttptest holds 1,000 connections.

A balancer limited to 2,000 connections is attacked in each of slowhttptest's modes (slow headers, slow body,
slow read, range). Before and during each attack the latency is measured that ordinary clients see.
Needs slowhttptest. Exit code 1 if an ordinary request fails.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from typing import Any

from bench.rig.balancer import Balancer, backend, free_port, frontend
from bench.rig.clients import exchange
from bench.rig.command import console, need, parser
from bench.rig.origins import origin, response
from bench.rig.report import in_words, quantile, write

MODES = {"slow headers": "-H", "slow body": "-B", "slow read": "-X", "range": "-R"}
_CLIENTS = 16
_PAUSE = 0.02  # seconds


async def _server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """128 bytes, or 1 MiB for /1m, after the whole of the request's body."""
    bodies = {b"/small": b"x" * 128, b"/1m": bytes(1 << 20)}
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if length is not None:
            await reader.readexactly(int(length[1]))
        writer.write(response(bodies.get(head.split(b" ", 2)[1], b"")))
        await writer.drain()


async def _ordinary(port: int, seconds: float) -> tuple[list[float], list[str]]:
    latencies: list[float] = []
    trouble: list[str] = []
    end = time.monotonic() + seconds

    async def client() -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while time.monotonic() < end:
                begin = time.perf_counter()
                await exchange(reader, writer, b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")
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
    return {
        "p50_ms": quantile(latencies, 0.5),
        "p99_ms": quantile(latencies, 0.99),
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
    options = parser(__doc__)
    options.add_argument("--seconds", type=int, default=8, help="per measurement [8]")
    chosen = options.parse_args()
    need(options, "slowhttptest")
    port = free_port()
    text = "workers = {min = 1, max = 1}\nlimits = {connections = 2000}\n" + frontend("f", port)
    with origin(_server) as server, Balancer(text=text + backend("b", [server])) as balancer:
        results = [measure(balancer, port, mode, chosen.seconds) for mode in MODES]
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
            f"{before['requests'] / chosen.seconds:.0f} → {during['requests'] / chosen.seconds:.0f} | "
            f"{during['trouble'] or 'none'} |"
        )
    write("slow_clients", {"results": results}, lines, chosen.out)
    sys.exit(any(one["during"]["trouble"] for one in results))


if __name__ == "__main__":
    main()
