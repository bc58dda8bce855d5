"""The demo: five small servers of different temper, in one process of their own (``python -m pylb.demo``).

They are plain asyncio servers so that the demo needs nothing installed. Two are fast, two are slow, and one
fails every now and then. With ``--listen HOST:PORT`` it is one server there, as in ``compose.yaml``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
from dataclasses import dataclass

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
        stdin=subprocess.PIPE,  # its end tells them that we are gone, however that came
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C is the balancer's first, which drains to these servers
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise OSError("no answer from the demo servers' process")
    except BaseException:  # a Ctrl-C, too
        process.kill()
        process.wait()
        raise
    return DemoServers(process, json.loads(line))


def welcome(bind: str, servers: list[str], admin: str | None) -> None:
    """Print what runs and what to try."""
    from rich.console import Console
    from rich.panel import Panel

    option = f" --admin {admin}" if admin else ""
    host = bind.replace("0.0.0.0", "127.0.0.1")
    lines = [
        f"The balancer listens on [bold]http://{host}/[/] in front of {len(servers)} servers:",
        "  " + ", ".join(f"{temper[0]} ({at})" for temper, at in zip(TEMPERS, servers, strict=True)),
        "",
        "Try, in another terminal:",
        f"  curl -i http://{host}/",
        f"  python -m pylb status --watch{option}",
        f"  python -m pylb scale 2{option}      (and: scale auto)",
        f"  wrk -c 64 -d 20 http://{host}/       (watch the workers come and go)",
        "",
        "Ctrl-C stops everything.",
    ]
    Console(stderr=True).print(Panel("\n".join(lines), title="pylb demo", expand=False))


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
    """Start one server; gives its address."""

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
