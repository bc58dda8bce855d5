"""``python -m bench.moved_tunnels``: does anybody with a tunnel notice that workers come and go (I1)?

250 WebSockets and 250 TCP connections stay open through 10 scalings and 10 reloads (SIGHUP). Most send a
piece after the echo of the last one; every tenth reads nothing until the end, while its server sends as much
as anybody takes. Every byte must come in order, and no connection may end. Printed is also how long
each worker that leaves takes until it is empty, from the moment when the others serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import uvloop

from bench.rig.balancer import Balancer, backend, free_port, frontend
from bench.rig.command import console, parser
from bench.rig.origins import origin
from bench.rig.processes import child, event
from bench.rig.report import in_words, write
from pylb.control import view

COUNTS = (3, 1, 2, 1, 4, 2, 3, 1, 2, 1)
PIECE = 1000  # bytes of a piece, with the head of a frame before it for WebSockets
FRAME = b"\x82\xfe" + PIECE.to_bytes(2, "big") + bytes(4)  # a binary one, masked with zeros (RFC 6455 §5.2)
STREAM = 2 << 20  # bytes that a server sends to who reads nothing; more than all buffers hold together
EMPTY_SECONDS = 1.0  # in which a worker that leaves is to be empty
PAUSE = 0.05  # seconds between two pieces of a client
UPGRADE = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def _stream(size: int) -> bytes:
    """Numbers, so that nothing can be left out or come twice unnoticed."""
    return b"".join(number.to_bytes(8, "big") for number in range(size // 8))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo what comes; or send a stream, where the first piece asks for it."""
    first = await reader.readexactly(4)
    if first == b"GET ":
        head = first + await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        first = b"deaf" if head.startswith(b"GET /deaf ") else b""
    if first == b"deaf":
        writer.write(_stream(STREAM))
        await writer.drain()
        first = b""
    writer.write(first)
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@dataclass
class Seen:
    """What the clients saw."""

    opened: int = 0
    pieces: int = 0
    bytes: int = 0
    cut: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


async def _client(port: int, upgrade: bool, deaf: bool, stop: asyncio.Event, seen: Seen) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    before = FRAME if upgrade else b""
    if upgrade:
        writer.write(UPGRADE % (b"deaf" if deaf else b"echo"))
        if not (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 "):
            raise ValueError("no upgrade")
    elif deaf:
        writer.write(b"deaf")
    seen.opened += 1
    if deaf:
        await stop.wait()
        if await reader.readexactly(STREAM) != _stream(STREAM):
            raise ValueError("a stream with other bytes")
        seen.bytes += STREAM
    number = 0
    while True:
        piece = before + (b"%09d " % number) * (PIECE // 10)
        writer.write(piece)
        if await reader.readexactly(len(piece)) != piece:
            raise ValueError(f"piece {number} is another one")
        number += 1
        seen.pieces += 1
        seen.bytes += len(piece)
        if stop.is_set():
            break
        await asyncio.sleep(PAUSE)
    writer.close()


def _clients(ports: tuple[int, int], each: int, ends: Event, pipe: Connection[Any, Any]) -> None:
    async def main() -> None:
        seen, stop = Seen(), asyncio.Event()

        async def client(number: int, upgrade: bool) -> None:
            try:
                await _client(ports[not upgrade], upgrade, number % 10 == 0, stop, seen)
            except (OSError, EOFError) as error:
                seen.cut.append(f"{type(error).__name__}: {error}")
            except ValueError as error:
                seen.wrong.append(str(error))

        tasks = [asyncio.create_task(client(number, up)) for number in range(each) for up in (True, False)]
        while seen.opened + len(seen.cut) + len(seen.wrong) < 2 * each:
            await asyncio.sleep(0.02)
        pipe.send(seen.opened)
        while not ends.is_set():
            await asyncio.sleep(0.05)
        stop.set()
        _, late = await asyncio.wait(tasks, timeout=50)
        seen.cut += ["no answer any more"] * len(late)
        pipe.send(seen)

    uvloop.run(main())


@dataclass
class Step:
    """A change, and how long the workers that left had something, in seconds."""

    name: str
    tunnels: int = 0
    """The most that was seen at those that left."""
    empty_after: float = 0.0


def _step(balancer: Balancer, name: str, workers: int, generation: int) -> Step:
    """Wait until exactly these workers are there."""
    step = Step(name)
    began = 0.0
    while True:
        with contextlib.suppress(OSError):
            status = balancer.status()
            good = [w for w in status["workers"] if w["state"] == "serving" and w["generation"] == generation]
            others = [worker for worker in status["workers"] if worker not in good]
            left = [one for one in others if one["state"] == "retiring" or one["generation"] < generation]
            step.tunnels = max(step.tunnels, sum(worker["tunnels"] for worker in left))
            if not began and len(good) == workers:
                began = time.monotonic()
            if began and not others:
                step.empty_after = time.monotonic() - began
                console.log(f"{name}: empty after {step.empty_after:.2f} s")
                return step
            if began and time.monotonic() - began > 20:
                step.empty_after = 99.0
                return step
        time.sleep(0.002)


def run(balancer: Balancer, ports: tuple[int, int], each: int, rounds: int) -> tuple[list[Step], Seen]:
    """All changes, while the clients send."""
    steps: list[Step] = []
    ends = event()
    workers, generation = 1, 1
    with child(_clients, ports, each, ends) as pipe:
        pipe.recv()
        for number in range(rounds):
            before, workers = workers, COUNTS[number % len(COUNTS)]
            view.fetch(balancer.admin, "POST", "/scale", {"n": workers})
            steps.append(_step(balancer, f"{before} to {workers} workers", workers, generation))
            generation += 1
            balancer.signal(signal.SIGHUP)
            steps.append(_step(balancer, f"SIGHUP with {workers}", workers, generation))
        ends.set()
        seen: Seen = pipe.recv()
    return steps, seen


def report(folder: Path, steps: list[Step], seen: Seen, each: int, totals: dict[str, int]) -> list[str]:
    """JSON and Markdown; gives the broken promises."""
    wrong = [f"{len(seen.cut)} connections were cut"] * bool(seen.cut)
    wrong += [f"{len(seen.wrong)} connections had other bytes"] * bool(seen.wrong)
    wrong += [
        f"{s.name}: empty after {s.empty_after:.2f} s" for s in steps if s.empty_after > EMPTY_SECONDS
    ]
    times = sorted(step.empty_after for step in steps if step.tunnels)
    causes = dict(Counter(seen.cut + seen.wrong))
    record = dict(broken=wrong, steps=list(map(asdict, steps)), opened=seen.opened, bytes=seen.bytes)
    record |= dict(pieces=seen.pieces, causes=causes, handed_over=totals["handed_over"])
    lines = [
        "# Tunnels while workers come, go and reload", "",
        f"Written by `python -m bench.moved_tunnels`. {in_words()}.", "",
        f"**{'Broken: ' + '; '.join(wrong) if wrong else 'All promises held.'}**", "",
        f"{each} WebSockets and {each} TCP connections, every tenth with a peer that reads nothing until the "
        f"end. {seen.opened} opened, {len(seen.cut)} cut, {len(seen.wrong)} with other bytes than were sent; "
        f"{seen.bytes / 1e6:.0f} MB in {seen.pieces} pieces came back in order. Connections were moved "
        f"{totals['handed_over']} times.", "",
        "A worker that leaves is empty, and gone, so many seconds after the others serve: at the median "
        f"{times[len(times) // 2] if times else 0:.2f}, at most {max(times, default=0):.2f}.", "",
        "| step | tunnels of those that left | empty after |", "|---|---|---|",
        *(f"| {s.name} | {s.tunnels} | {s.empty_after:.2f} s |" for s in steps), "",
        f"What went wrong: {'; '.join(causes) or 'nothing'}.",
    ]  # fmt: skip
    write("moved_tunnels", record, lines, folder)
    return wrong


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--each", type=int, default=250, help="WebSockets, and TCP connections")
    options.add_argument("--rounds", type=int, default=10, help="each with a scaling and a SIGHUP")
    chosen = options.parse_args()
    ports = free_port(), free_port()
    with origin(serve) as server:
        text = "[workers]\nmin = 1\nmax = 4\n" + frontend("web", ports[0])
        text += frontend("raw", ports[1], 'mode = "tcp"\n') + backend("b", [server])
        with Balancer(text=text) as balancer:
            balancer.scale(1)
            steps, seen = run(balancer, ports, chosen.each, chosen.rounds)
            totals = balancer.status()["totals"]
    sys.exit(1 if report(chosen.out, steps, seen, chosen.each, totals) else 0)


if __name__ == "__main__":
    main()
