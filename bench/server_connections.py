"""``python -m bench.server_connections``: connections to servers that are somebody's, or not what they seem.

One server each that authenticates connections (NTLM), that closes 2 ms after each answer, that says more than
it announces, and that has a dead address beside a good one. What clients see, through pylb, HAProxy (with its
default, ``http-reuse safe``) and nginx, each with one worker. Exit code 1 if pylb does worse than HAProxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.rig.command import console, need, parser
from bench.rig.origins import origin, response
from bench.rig.peers import Site, running, versions
from bench.rig.processes import child
from bench.rig.report import in_words, quantile, write

BALANCERS = ("pylb", "haproxy", "nginx")
REQUESTS = 150
_GET = b"GET /small HTTP/1.1\r\nHost: bench\r\n"
_POST = b"POST / HTTP/1.1\r\nHost: bench\r\nContent-Length: 4\r\n\r\nbody"
_STRAY = {
    "a CRLF with the answer": (b"\r\n", 0.0),
    "a CRLF 5 ms behind the answer": (b"\r\n", 0.005),
    "a byte 5 ms behind the answer": (b"!", 0.005),
    "a byte just before the next request": (b"!", 0.02),
}

Figures = dict[str, Any]


# The servers


async def _ntlm(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Who has authenticated the connection is asked no more, and answered by name."""
    user = b""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        mark = head.find(b"Authorization: NTLM ")
        if mark >= 0:
            user = head[mark + 20 : head.index(b"\r", mark)]
        if user or b" /small " in head:
            writer.write(response(user or b"nobody"))
        else:
            writer.write(b"HTTP/1.1 401 No\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n")


async def _closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One answer; 2 ms later the connection is closed."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"POST"):
        await reader.readexactly(4)
    writer.write(response(b"ok"))
    await asyncio.sleep(0.002)


async def _talks(
    stray: bytes, after: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Something follows each answer."""
    while await reader.readuntil(b"\r\n\r\n"):
        if not after:
            writer.write(response(b"ok") + stray)
            continue
        writer.write(response(b"ok"))
        await asyncio.sleep(after)
        if writer.is_closing():
            return
        writer.write(stray)


# The clients


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    """Status and body; 0 where the connection was closed without an answer."""
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lower = head.lower()
        start = lower.find(b"\ncontent-length:") + 16
        size = int(lower[start : lower.index(b"\r", start)]) if start > 16 else 0
        return int(head[9:12]), await reader.readexactly(size)
    except (OSError, EOFError):
        return 0, b""


@contextlib.asynccontextmanager
async def _client(port: int) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield partial(_ask, reader, writer)
    finally:
        writer.close()


async def _whose(port: int) -> Figures:
    """One client authenticates; then others ask, and it goes on."""
    async with _client(port) as alice:
        await alice(b"GET /who HTTP/1.1\r\nHost: bench\r\n\r\n")
        await alice(b"GET /who HTTP/1.1\r\nHost: bench\r\nAuthorization: NTLM alice\r\n\r\n")
        taken = kept = 0
        for _ in range(20):
            async with _client(port) as other:
                for _ in range(2):
                    taken += (await other(_GET + b"\r\n"))[1] == b"alice"
            kept += (await alice(b"GET /who HTTP/1.1\r\nHost: bench\r\n\r\n"))[1] == b"alice"
    return {"others answered as alice": taken, "of": 40, "alice still known": kept, "of her": 20}


async def _first(port: int) -> Figures:
    """A GET by one client, and 2 ms later a POST that is another client's first request."""
    statuses: Counter[int] = Counter()
    async with _client(port) as one:
        for number in range(REQUESTS):
            await one(_GET + b"\r\n")
            await asyncio.sleep(0.0015 + number % 10 * 0.0001)
            async with _client(port) as other:
                statuses[(await other(_POST))[0]] += 1
    return _named(statuses)


async def _later(port: int) -> Figures:
    """POSTs on kept connections, each 2 ms after the answer before it; a closed one is replaced."""
    statuses: Counter[int] = Counter()
    while statuses.total() < REQUESTS:
        async with _client(port) as one:
            status = (await one(_GET + b"\r\n"))[0]
            while status and statuses.total() < REQUESTS:
                await asyncio.sleep(0.0015 + statuses.total() % 10 * 0.0001)
                status = (await one(_POST))[0]
                statuses[status] += 1
    return _named(statuses)


async def _gets(pause: float, port: int) -> Figures:
    """GETs on a kept connection; a closed one is replaced."""
    statuses: Counter[int] = Counter()
    while statuses.total() < REQUESTS:
        async with _client(port) as one:
            status = 1
            while status and statuses.total() < REQUESTS:
                status = (await one(_GET + b"\r\n"))[0]
                statuses[status] += 1
                await asyncio.sleep(pause)
    return _named(statuses)


async def _dead(port: int) -> Figures:
    """Requests at a name whose first address swallows SYNs; each has a new connection to the server."""
    statuses: Counter[int] = Counter()
    times: list[float] = []
    for _ in range(10):
        async with _client(port) as one:
            begin = time.perf_counter()
            statuses[(await one(_GET + b"Connection: close\r\n\r\n"))[0]] += 1
            times.append(time.perf_counter() - begin)
    return _named(statuses) | {"slowest, s": max(times), "median, s": quantile(times, 0.5)}


def _named(statuses: Counter[int]) -> Figures:
    return {("closed" if status == 0 else str(status)): count for status, count in sorted(statuses.items())}


# The scenarios


async def _closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One answer, then the end, announced."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(response(b"ok", b"Connection: close\r\n"))


@contextmanager
def _two_addresses(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A name with a dead address and a good one, and what to start a program with so that it knows it.

    The dead one is a listening socket whose queue is full: the kernel drops what comes. The balancers have a
    file of hosts of their own, in a mount namespace.
    """
    with socket.socket() as dead, contextlib.ExitStack() as stack:
        dead.bind(("127.0.0.2", 0))
        dead.listen(0)
        port = dead.getsockname()[1]
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(dead.getsockname())
        hosts = folder / "hosts"
        hosts.write_text("127.0.0.1 localhost\n127.0.0.2 twice\n127.0.0.3 twice\n")
        stack.enter_context(child(_serve_on, port)).recv()
        mount = 'mount --bind "$0" /etc/hosts && exec "$@"'
        yield f"twice:{port}", ["unshare", "-m", "sh", "-c", mount, str(hosts)]


def _serve_on(port: int, pipe: Connection[Any, Any]) -> None:
    """The good one, at the same port."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await _closing(reader, writer)
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(connection, "127.0.0.3", port)
        pipe.send(True)
        await server.serve_forever()

    asyncio.run(main())


Play = Callable[[int], Coroutine[Any, Any, Figures]]


def _measure(name: str, server: str, folder: Path, play: Play, wrap: list[str]) -> Figures:
    site = Site([server])
    options: dict[str, Any] = {"haproxy": {"reuse": "safe"}}.get(name, {})
    with running(name, folder, site, wrap=wrap, **options):
        return asyncio.run(play(site.port))


def _row(title: str, server: str, play: Play, wrap: list[str] | None = None) -> Figures:
    row: Figures = {"scenario": title}
    for name in BALANCERS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                row[name] = _measure(name, server, Path(folder), play, wrap or [])
            except TimeoutError:
                row[name] = {"does not serve": 1}  # its first requests fail, too
        console.log(title, name, row[name])
    return row


def measure() -> list[Figures]:
    """All scenarios through all balancers."""
    rows: list[Figures] = []
    with origin(_ntlm) as server:
        rows.append(_row("NTLM: one client authenticates, 20 others ask", server, _whose))
    with origin(_closes) as server:
        rows.append(_row("server closes 2 ms after each answer: POST as first request", server, _first))
        rows.append(_row("the same: POST on a kept client connection", server, _later))
    for what, (stray, after) in _STRAY.items():
        with origin(partial(_talks, stray, after)) as server:
            rows.append(_row(f"server sends {what}", server, partial(_gets, max(after, 0.01))))
    with tempfile.TemporaryDirectory() as folder, _two_addresses(Path(folder)) as (name, wrap):
        rows.append(_row("server's name has a dead address first", name, _dead, wrap))
    return rows


def _bad(figures: Figures) -> int:
    """What no client should have seen."""
    errors: int = sum(count for key, count in figures.items() if key.isdigit() and int(key) >= 500)
    return errors + int(figures.get("others answered as alice", 0)) + int(figures.get("does not serve", 0))


def main() -> None:
    """Measure, and write the page."""
    options = parser(__doc__)
    chosen = options.parse_args()
    need(options, "haproxy", "nginx", "unshare", root=True)
    rows = measure()
    lines = [
        "# Connections to servers that are somebody's, or not what they seem",
        "",
        f"`python -m bench.server_connections`; {in_words()}",
        "",
        f"{REQUESTS} requests each. A number is a status; *closed* is a connection that was closed without "
        "an answer. A balancer has answered one request before it is measured.",
        "",
        "| | " + " | ".join(BALANCERS) + " |",
        "|---|" + "---|" * len(BALANCERS),
    ]
    for row in rows:
        cells = " | ".join(_text(row[name]) for name in BALANCERS)
        lines.append(f"| {row['scenario']} | {cells} |")
    write("server_connections", {"versions": versions(*BALANCERS), "rows": rows}, lines, chosen.out)
    sys.exit(any(_bad(row["pylb"]) > _bad(row["haproxy"]) for row in rows))


def _text(figures: Figures) -> str:
    return ", ".join(
        f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}"
        for key, value in figures.items()
    )


if __name__ == "__main__":
    main()
