"""The demo's servers: five small HTTP servers in a process of their own (``python -m pylb.demo``).

They are plain asyncio servers, so that the demo needs nothing installed. Two are fast, two are slow, and
one answers some requests with an error. With ``--listen HOST:PORT`` the process is one server at that
address, as in ``compose.yaml``. Only the command line knows this module, and it imports nothing of pylb.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# name, seconds an answer takes, share of requests that fail
TEMPERS = (
    ("swift-1", 0.0, 0.0),
    ("swift-2", 0.0, 0.0),
    ("slow-1", 0.02, 0.0),
    ("slow-2", 0.05, 0.0),
    ("moody", 0.002, 0.05),
)


@dataclass
class DemoServers:
    """The running servers' process and addresses."""

    process: subprocess.Popen[bytes]
    addresses: list[str]

    def stop(self) -> None:
        """End the process and wait for it."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()


def start() -> DemoServers:
    """Start the servers on free ports of 127.0.0.1.

    Raises:
        OSError: they didn't come up.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pylb.demo"],
        stdin=subprocess.PIPE,  # its end of file tells them that this process is gone, however it ended
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C must reach the balancer only, which drains to these servers
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise OSError("no answer from the demo servers' process")
    except BaseException:  # KeyboardInterrupt as well
        process.kill()
        process.wait()
        raise
    return DemoServers(process, json.loads(line))


def welcome(bind: str, servers: list[str], admin: str | None) -> None:
    """Print what runs and what to try."""
    where = bind.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
    url, curl = f"http://{where}/", "curl -i"
    if where.startswith("unix:"):
        url, curl = "http://demo/", f"curl -i --unix-socket {where.removeprefix('unix:')}"
    listed = []
    for (name, delay, failing), address in zip(TEMPERS, servers, strict=True):
        manner = f"answers after {1000 * delay:g} ms" if delay else "answers at once"
        listed.append((name, address, manner + (f", {failing:.0%} with 500" if failing else "")))
    python, option = _python(), f" --admin {admin}" if admin else ""
    tried = [
        (f"{curl} {url}", "which server answers?"),
        (f"{python} -m pylb status --watch{option}", "workers, and why so many"),
        (f"{python} -m pylb scale 2{option}", "back again: scale auto"),
    ]
    if not where.startswith("unix:"):
        wrk = "workers follow idle cores" if shutil.which("wrk") else "first: apt-get install wrk"
        tried.append((f"wrk -c 64 -d 20 {url}", wrk))
    here = "" if Path(python).is_absolute() else ", in this folder"
    lines = [
        f"pylb demo: {where if where.startswith('unix:') else url} in front of {len(servers)} servers",
        "",
        *_columns(listed),
        "",
        f"Try, in another terminal{here}:",
        "",
        *_columns(tried),
        "",
        "Ctrl-C stops everything.",
        "",
    ]
    print("\n".join(lines), file=sys.stderr)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines whose columns align."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "   ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _python() -> str:
    """This interpreter as a user in the same folder would type it."""
    path = Path(sys.executable)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


async def _answer(
    name: str, delay: float, failing: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lower = head.lower()
            start = lower.find(b"\ncontent-length:")
            if start >= 0:
                await reader.readexactly(int(lower[start + 16 : lower.index(b"\r", start)]))
            if delay:
                await asyncio.sleep(delay)
            status = "500 Internal Server Error" if random.random() < failing else "200 OK"
            body = f"{name} says hello\n".encode()
            writer.write(
                f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nX-Server: {name}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + (b"" if head.startswith(b"HEAD ") else body)
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
        pass
    finally:
        writer.close()


async def _listen(name: str, delay: float, failing: float, host: str, port: int) -> str:
    """Start one server of `TEMPERS`' kind; gives its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _answer(name, delay, failing, reader, writer)

    server = await asyncio.start_server(answer, host, port, backlog=1024)
    return f"{host}:{server.sockets[0].getsockname()[1]}"


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGINT, stop.set)
    if options.listen:
        host, _, port = options.listen.rpartition(":")
        addresses = [await _listen(options.name, options.delay, 0.0, host, int(port))]
    else:
        addresses = [await _listen(*temper, "127.0.0.1", 0) for temper in TEMPERS]
        loop.add_reader(sys.stdin.fileno(), stop.set)
    print(json.dumps(addresses), flush=True)
    await stop.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pylb.demo", description="Servers for a balancer to try.")
    parser.add_argument("--listen", metavar="HOST:PORT", help="one server, here [five on free ports]")
    parser.add_argument("--name", default="web", help="what that one calls itself")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="how long it thinks")
    return parser.parse_args()


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(_options()))
