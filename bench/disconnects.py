"""``python -m bench.disconnects``: clients and servers that leave at any moment leak nothing.

Each request has a random fate: which side goes away (the client, the server, nobody), at which phase, and
whether in order or with a reset. At the end the scoreboard must be back at zero, and the worker's descriptors
where they were. Exit code 1 if something stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import sys
from typing import Any

import psutil
import uvloop
from rich.progress import track

from bench.rig.balancer import Balancer
from bench.rig.command import parser
from bench.rig.origins import origin
from bench.rig.report import in_words, write

AT_A_TIME = 50
_BATCH = 2000
_BODY = b"b" * 3000
CLIENT_PHASES = ("before", "in head", "after head", "in body", "in answer", "never")
SERVER_PHASES = ("accept", "reading", "before answer", "in head", "in body", "after", "never")


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST (man 7 socket, SO_LINGER)."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class _Gone(Exception):
    """This side has left."""


def _leave(phase: str, chosen: str, writer: asyncio.StreamWriter, source: random.Random) -> None:
    if phase == chosen:
        if source.random() < 0.5:
            _reset(writer)
        else:
            writer.close()
        raise _Gone


async def _server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    source = random.Random()
    with contextlib.suppress(_Gone, asyncio.LimitOverrunError):
        phase = source.choice(SERVER_PHASES)
        _leave("accept", phase, writer, source)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            phase = source.choice(SERVER_PHASES)
            _leave("reading", phase, writer, source)
            if b"\r\nContent-Length: 3000" in head:
                await reader.readexactly(3000)
            elif b"\r\nTransfer-Encoding" in head:
                await reader.readuntil(b"0\r\n\r\n")
            _leave("before answer", phase, writer, source)
            kind = source.randrange(3)
            framing = (b"Content-Length: 3000", b"Transfer-Encoding: chunked", b"Connection: close")[kind]
            answer = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"
            if phase == "in head":
                writer.write(answer[: source.randrange(len(answer))])
                await writer.drain()
                _leave("in head", phase, writer, source)
            body = b"bb8\r\n" + _BODY + b"\r\n0\r\n\r\n" if kind == 1 else _BODY
            if phase == "in body":
                writer.write(answer + body[: source.randrange(len(body))])
                await writer.drain()
                _leave("in body", phase, writer, source)
            writer.write(answer + body)
            await writer.drain()
            _leave("after", phase, writer, source)
            if kind == 2:
                return


async def _client(port: int, source: random.Random) -> None:
    """One connection with a few requests, at some moment perhaps the last one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(_Gone, OSError, EOFError):
        for _ in range(source.randint(1, 3)):
            phase = source.choice(CLIENT_PHASES)
            _leave("before", phase, writer, source)
            kind = source.randrange(3)
            head = (
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            )[kind]
            body = (b"", _BODY, b"bb8\r\n" + _BODY + b"\r\n0\r\n\r\n")[kind]
            if phase == "in head":
                writer.write(head[: source.randrange(1, len(head))])
                await writer.drain()
                _leave("in head", phase, writer, source)
            writer.write(head)
            await writer.drain()
            _leave("after head", phase, writer, source)
            if body and phase == "in body":
                writer.write(body[: source.randrange(len(body))])
                await writer.drain()
                _leave("in body", phase, writer, source)
            writer.write(body)
            answer = await reader.readuntil(b"\r\n\r\n")
            _leave("in answer", phase, writer, source)
            if b"\r\nContent-Length: " in answer:
                length = int(answer.partition(b"\r\nContent-Length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
            elif b"chunked" in answer:
                await reader.readuntil(b"\r\n0\r\n\r\n")
            else:
                await reader.read()
            if b"\r\nConnection: close" in answer:
                break
    writer.close()


async def _batch(port: int, count: int, seed: int) -> None:
    left = iter(range(count))

    async def some() -> None:
        for number in left:
            with contextlib.suppress(OSError):
                await _client(port, random.Random(f"{seed}.{number}"))

    await asyncio.gather(*(some() for _ in range(AT_A_TIME)))


def run(connections: int) -> dict[str, Any]:
    """That many client connections; what is left of them at the end."""
    with (
        origin(_server) as server,
        Balancer("--workers", "1", servers=[server]) as balancer,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        worker = psutil.Process(balancer.workers()[0]["pid"])
        size = min(connections, _BATCH)
        runner.run(_batch(balancer.port, size, 0))
        before, memory = worker.num_fds(), worker.memory_info().rss
        for number in track(range(connections // size), f"{connections:,} connections"):
            runner.run(_batch(balancer.port, size, number + 1))
        # The clients that left with a half-sent request, too, are noticed at once: their sockets are closed.
        status = balancer.wait(
            "nothing active",
            lambda status: (
                not status["totals"]["connections"]
                and not status["totals"]["in_flight"]
                and not any(server["active"] for server in status["servers"])
            ),
            60,
        )
        return {
            "connections": connections,
            "totals": {key: value for key, value in status["totals"].items() if value},
            "active": sum(one["active"] for one in status["servers"]),
            "descriptors_before": before,
            "descriptors_after": worker.num_fds(),
            "memory_growth": worker.memory_info().rss - memory,
        }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--connections", type=int, default=100_000, help="of each kind [100,000]")
    chosen = options.parse_args()
    result = run(chosen.connections)
    totals = result["totals"]
    lines = [
        "# Clients and servers that leave at any moment",
        "",
        f"Written by `python -m bench.disconnects`. {in_words()}.",
        "",
        f"{result['connections']:,} client connections with {totals['requests']:,} requests, of which "
        f"{totals.get('aborted', 0):,} were cut off by one side, {totals.get('status_5xx', 0):,} answered "
        f"with a 5xx, and {totals.get('retries', 0):,} sent again. At the end: 0 connections, 0 requests in "
        f"flight, **{result['active']} active** at servers; descriptors {result['descriptors_before']} → "
        f"{result['descriptors_after']}; memory {result['memory_growth'] / (1 << 20):+.1f} MiB.",
    ]
    write("disconnects", result, lines, chosen.out)
    sys.exit(
        result["active"] != 0
        or result["descriptors_after"] > result["descriptors_before"] + AT_A_TIME
        or result["memory_growth"] > 8 << 20
    )


if __name__ == "__main__":
    main()
