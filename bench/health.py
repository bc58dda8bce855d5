"""``python -m bench.health``: servers that fail in several ways under load, beside HAProxy.

Three servers, of which one is killed, stopped (SIGSTOP), slow, flapping, lying (its check passes, its
requests fail) or withdrawn (its check fails, its requests don't), and works again some seconds later. Both
balancers have the same settings of health checks, retries and timeouts. Told are the errors that clients see,
and how long it takes until the balancer says that the server is out, and back in. With ``withdrawn`` also:
the last request at the server after pylb's verdict.
"""

from __future__ import annotations

import asyncio
import csv
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from bench.rig.balancer import free_port, frontend
from bench.rig.command import console, need, parser
from bench.rig.load import open_loop
from bench.rig.origins import SMALL
from bench.rig.peers import versions
from bench.rig.processes import child, listens, start, wait_for
from bench.rig.report import in_words, quantile, write
from pylb.config.address import Address
from pylb.control import view

RATE = 200.0  # requests per second
BREAKS, WORKS, ENDS = 1.0, 5.5, 8.5  # seconds since the load began
INTERVAL, TIMEOUT, RISE, FALL = 0.5, 1.0, 2, 3
FAULTS = ("killed", "stopped", "slow", "flapping", "lying", "withdrawn")
_FLAP = 0.7  # seconds for which a flapping server works, and doesn't


class _Origin(asyncio.Protocol):
    """A server whose mode says how it misbehaves."""

    mode = "good"
    last = 0.0
    """When the last request came that was no check (`time.time`)."""

    def __init__(self) -> None:
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        check = data.startswith(b"GET /health ")
        if not check:
            _Origin.last = time.time()
        mode = self.mode
        if mode == "flapping":
            mode = "bad" if time.monotonic() % (2 * _FLAP) < _FLAP else "good"
        bad = mode == "bad" or mode == "withdrawn" and check or mode == "lying" and not check
        answer = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n" if bad else SMALL
        if mode == "slow":
            asyncio.get_running_loop().call_later(3.0, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(answer)


async def _serve(port: int, pipe: Connection[Any, Any]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Origin, "127.0.0.1", port, backlog=1024)

    def told() -> None:
        order = pipe.recv()
        if order == "last?":
            pipe.send(_Origin.last)
        else:
            _Origin.mode = order

    loop.add_reader(pipe.fileno(), told)
    pipe.send(os.getpid())
    await server.serve_forever()


def _run(port: int, pipe: Connection[Any, Any]) -> None:
    uvloop.run(_serve(port, pipe))


class Faulty:
    """The server that breaks and works again, in a process of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self.port = free_port()
        self._stack = stack
        self._begin()

    def _begin(self) -> None:
        self.pipe = self._stack.enter_context(child(_run, self.port))
        self._pid = self.pipe.recv()

    def breaks(self, fault: str) -> None:
        """From now on it has the fault."""
        if fault == "killed":
            os.kill(self._pid, signal.SIGKILL)
        elif fault == "stopped":
            os.kill(self._pid, signal.SIGSTOP)
        else:
            self.pipe.send(fault)

    def works(self, fault: str) -> None:
        """It works again."""
        if fault == "killed":
            self._begin()
        elif fault == "stopped":
            os.kill(self._pid, signal.SIGCONT)
        else:
            self.pipe.send("good")

    def last(self) -> float:
        """When its last request came."""
        self.pipe.send("last?")
        return float(self.pipe.recv())


def pylb_text(folder: Path, port: int, servers: list[str], passive: bool) -> str:
    """pylb's configuration; ``passive``: what clients get counts, too."""
    return (
        f'admin = "unix:{folder}/admin.sock"\nworkers = {{min = 2, max = 2}}\n'
        "[timeouts]\nserver = 2\nconnect = 1\n"
        f"{frontend('f', port)}"
        f'[[backend]]\nname = "b"\nbalance = "roundrobin"\nserver = {servers!r}\n'
        f'[backend.check]\npath = "/health"\ninterval = {INTERVAL}\ntimeout = {TIMEOUT}\n'
        f"rise = {RISE}\nfall = {FALL}\n"
        + ('[backend.outliers]\nfailures = 5\nstatuses = "5xx"\neject = 1\n' if passive else "")
    )


def haproxy_text(folder: Path, port: int, servers: list[str], passive: bool) -> str:
    """HAProxy's."""
    observe = " observe layer7 error-limit 5 on-error mark-down" if passive else ""
    lines = "".join(f"  server s{number} {server} check\n" for number, server in enumerate(servers, 1))
    return (
        f"global\n  nbthread 2\n  stats socket {folder}/haproxy.sock level admin\n"
        "defaults\n  mode http\n  http-reuse always\n  retries 3\n  option redispatch\n"
        "  timeout connect 1s\n  timeout client 60s\n  timeout server 2s\n"
        f"  timeout check {TIMEOUT * 1000:.0f}ms\nfrontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n"
        "backend b\n  balance roundrobin\n  option httpchk GET /health\n"
        f"  default-server inter {INTERVAL * 1000:.0f}ms rise {RISE} fall {FALL}{observe}\n{lines}"
    )


def pylb_is_up(folder: Path) -> bool:
    """Whether pylb says that the first server is up."""
    status = view.fetch(Address("", 0, f"{folder}/admin.sock"), "GET", "/status")
    return str(status["servers"][0]["state"]) == "up"


def pylb_since(folder: Path) -> float:
    """When pylb's last verdict on the first server was (`time.time`)."""
    status = view.fetch(Address("", 0, f"{folder}/admin.sock"), "GET", "/status")
    return float(status["servers"][0]["check"]["since"])


def haproxy_is_up(folder: Path) -> bool:
    """Whether HAProxy says so (management.txt §9.3, ``show stat``)."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{folder}/haproxy.sock")
        sock.sendall(b"show stat\n")
        text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
    rows = csv.DictReader(text.removeprefix("# ").splitlines())
    return next(row["status"] for row in rows if row["svname"] == "s1").startswith("UP")


PASSIVE = ", by responses"
"""Of a balancer's name: servers are taken out by what clients get, too."""
IS_UP: dict[str, Callable[[Path], bool]] = {
    name + passive: is_up
    for passive in ("", PASSIVE)
    for name, is_up in (("pylb", pylb_is_up), ("haproxy", haproxy_is_up))
}


@contextmanager
def running(name: str, folder: Path, port: int, servers: list[str]) -> Iterator[None]:
    """One of the balancers, with all servers up."""
    folder.mkdir()
    passive = name.endswith(PASSIVE)
    if name.startswith("pylb"):
        (folder / "pylb.toml").write_text(pylb_text(folder, port, servers, passive))
        command = [sys.executable, "-m", "pylb", "serve", "-c", str(folder / "pylb.toml")]
        end = signal.SIGQUIT
    else:
        (folder / "haproxy.cfg").write_text(haproxy_text(folder, port, servers, passive))
        command, end = ["haproxy", "-db", "-q", "-f", str(folder / "haproxy.cfg")], signal.SIGTERM
    program = start(command, folder / "out", port, listens, end)
    try:
        wait_for("all servers up", lambda: IS_UP[name](folder))
        yield
    finally:
        program.stop()


class _Seen(threading.Thread):
    """Asks the balancer every 10 ms whether the server is up, and notes each change."""

    def __init__(self, is_up: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self._is_up = is_up
        self.stopped = threading.Event()
        self.changes: list[tuple[float, bool]] = []

    def run(self) -> None:
        up = True
        while not self.stopped.wait(0.01):
            with suppress(OSError, ValueError, StopIteration):
                now = self._is_up()
                if now is not up:
                    up = now
                    self.changes.append((time.monotonic(), up))


def measure(name: str, fault: str, folder: Path) -> dict[str, Any]:
    """One fault with one balancer."""
    with ExitStack() as stack:
        faulty = Faulty(stack)
        good = [free_port(), free_port()]
        for port in good:
            stack.enter_context(child(_run, port)).recv()
        port = free_port()
        servers = [f"127.0.0.1:{one}" for one in (faulty.port, *good)]
        stack.enter_context(running(name, folder, port, servers))
        seen = _Seen(lambda: IS_UP[name](folder))
        seen.start()
        began = time.monotonic()
        marks: dict[str, float] = {}

        def breaks() -> None:
            marks["breaks"] = time.monotonic()
            faulty.breaks(fault)

        def works() -> None:
            if fault == "withdrawn" and name == "pylb":
                marks["after"] = faulty.last() - pylb_since(folder)
            marks["works"] = time.monotonic()
            faulty.works(fault)

        timers = [threading.Timer(BREAKS, breaks), threading.Timer(WORKS, works)]
        for timer in timers:
            timer.start()
        outcome = open_loop(port, lambda _: RATE, ENDS, path="/small")
        for timer in timers:
            timer.join()
        seen.stopped.set()
        seen.join()
        result: dict[str, Any] = {
            "balancer": name,
            "fault": fault,
            "requests": len(outcome.latencies) + outcome.failed,
            "failed": outcome.failed,
            "slow": sum(one > 0.5 for one in outcome.latencies),
            "p99_ms": quantile(outcome.latencies, 0.99) * 1000,
            "out": _first(seen.changes, False, marks["breaks"]),
            "back": _first(seen.changes, True, marks["works"]),
            "changes": len(seen.changes),
            "seconds": time.monotonic() - began,
        }
        if "after" in marks:
            result["last_after_verdict_ms"] = 1000 * marks["after"]
        return result


def _first(changes: list[tuple[float, bool]], up: bool, after: float) -> float | None:
    """Seconds from a moment until the server was first so."""
    return next((at - after for at, now in changes if now is up and at >= after), None)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="of these faults")
    chosen = options.parse_args()
    need(options, "haproxy")
    found = []
    with TemporaryDirectory() as folder:
        for fault in chosen.only:
            for name in IS_UP:
                if name.endswith(PASSIVE) and fault != "lying":
                    continue
                console.print(f"{fault}, {name} …")
                place = f"{fault}-{name}".replace(", ", "-").replace(" ", "-")
                found.append(measure(name, fault, Path(folder) / place))
    write("health", {"versions": versions("haproxy"), "faults": found}, _page(found), chosen.out)


def _page(found: list[dict[str, Any]]) -> list[str]:
    lines = [
        "# Servers that fail under load, beside HAProxy",
        "",
        f"Written by `python -m bench.health`. {in_words()}; haproxy {versions('haproxy')['haproxy']}.",
        "",
        f"Three servers and {RATE:.0f} requests per second, each on a connection of its own. One server "
        f"breaks after {BREAKS:g} s and works again after {WORKS:g} s. Both balancers: two workers, "
        f"`roundrobin`, an HTTP check every {INTERVAL:g} s with a timeout of {TIMEOUT:g} s, rise {RISE}, "
        f"fall {FALL}; 1 s to connect, 2 s to answer, 3 retries. By responses: after 5 failures in a row, "
        "too (pylb: `outliers` for 1 s; HAProxy: `observe layer7`, marked down).",
        "",
        "| fault | balancer | requests | failed | slower than 0.5 s | p99 | out after | back after |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def seconds(value: float | None) -> str:
        return "never" if value is None else f"{value:.2f} s"

    for one in found:
        lines.append(
            f"| {one['fault']} | {one['balancer']} | {one['requests']:,} | {one['failed']} | {one['slow']} "
            f"| {one['p99_ms']:.1f} ms | {seconds(one['out'])} | {seconds(one['back'])} |"
        )
    for one in found:
        if "last_after_verdict_ms" in one:
            lines += [
                "",
                f"`withdrawn`: its last request came {one['last_after_verdict_ms']:+.1f} ms after pylb's "
                "verdict.",
            ]
    return lines


if __name__ == "__main__":
    main()
