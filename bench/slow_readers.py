"""``python -m bench.slow_readers``: the memory that clients take which ask for much and read nothing.

100 HTTP/1 clients ask pylb (one worker) and HAProxy (one thread) for a response without an end, and don't
read. The resident memory (RSS) of the worker, and of HAProxy, is taken before they come and when no more
moves; without TLS and with it. pylb's may be at most twice HAProxy's. Exit code 1 where it is more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from bench.rig import peers
from bench.rig.command import console, parser
from bench.rig.origins import origin
from bench.rig.peers import Site
from bench.rig.processes import wait_for
from bench.rig.report import in_words, write

CLIENTS = 100
BAR = 2.0
"""Times that pylb's memory may be HAProxy's."""
_GET = b"GET /endless HTTP/1.1\r\nHost: bench\r\n\r\n"
_SIZE = 1 << 40  # bytes that a response is said to have
_PIECE = bytes(1 << 16)
_STILL = 1.0  # seconds without CPU time, after which nothing moves any more


async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much as the other end takes; ``/small`` is small."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /endless "):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _SIZE)
            while True:
                writer.write(_PIECE)
                await writer.drain()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@contextmanager
def _clients(port: int, tls: bool, count: int) -> Iterator[None]:
    """Clients that have asked and read nothing more than a handshake needs."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            if tls:
                sock = stack.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
            sock.sendall(_GET)
        yield


def _settled(process: psutil.Process) -> int:
    """Bytes of RSS, as soon as the process has done nothing for a while."""

    def still() -> bool:
        before = sum(process.cpu_times()[:2])
        time.sleep(_STILL)
        return sum(process.cpu_times()[:2]) - before <= 0.05 * _STILL

    wait_for("nothing moves", still)
    return int(process.memory_info().rss)


def measure(process: psutil.Process, port: int, tls: bool, count: int) -> float:
    """KiB for each of so many clients."""
    with _clients(port, tls, 10):  # so that what is made once is there
        _settled(process)
    before = _settled(process)
    with _clients(port, tls, count):
        return (_settled(process) - before) / count / 1024


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clients", type=int, default=CLIENTS, help=f"[{CLIENTS}]")
    chosen = options.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as text, origin(_endless) as server:
        for name in ("pylb", "haproxy"):
            site = Site.with_tls([server])
            folder = Path(text, name)
            folder.mkdir()
            with peers.running(name, folder, site) as program:
                process = program.workers(1)[0] if name == "pylb" else program.tree()[-1]
                found[name] = {}
                for tls in (False, True):
                    kib = measure(process, site.tls_port if tls else site.port, tls, chosen.clients)
                    found[name]["TLS" if tls else "plain"] = kib
                    console.log(name, "TLS" if tls else "plain", f"{kib:.0f} KiB")
    ratios = {kind: found["pylb"][kind] / found["haproxy"][kind] for kind in found["pylb"]}
    lines = [
        "# Clients that ask for much and read nothing",
        "",
        f"Written by `python -m bench.slow_readers`. {in_words()}; haproxy: "
        f"{peers.versions('haproxy')['haproxy']}. {chosen.clients} HTTP/1 clients; one worker, one thread.",
        "",
        "Resident memory (RSS) for each of them, in KiB:",
        "",
        "| | pylb | HAProxy | ratio |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {kind} | {found['pylb'][kind]:.0f} | {found['haproxy'][kind]:.0f} | {ratio:.2f} |"
        for kind, ratio in ratios.items()
    ]
    write("slow_readers", {"kib": found, "ratios": ratios}, lines, chosen.out)
    with contextlib.suppress(BrokenPipeError):
        sys.exit(max(ratios.values()) > BAR)


if __name__ == "__main__":
    main()
