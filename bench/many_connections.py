"""``python -m bench.many_connections``: memory before and after 100,000 connections of each kind.

Kinds: HTTP/1.1, TLS, HTTP/2, an upgraded tunnel, TCP mode, and the PROXY protocol. Each connection has one
request and its answer. A worker's resident memory and descriptors are taken after a warm-up and again after
the whole number; at the end nothing may be counted as open. Exit code 1 if something stays.

``--idle``: in place of that, what idle connections cost in memory and CPU (`bench.idle`). Exit code 1 above a
bar. Needs nginx and wrk.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2.connection
import psutil
import trustme
import uvloop
from rich.progress import track

from bench import idle
from bench.rig.balancer import Balancer, backend, free_port, frontend
from bench.rig.command import console, need, parser
from bench.rig.origins import origin, response
from bench.rig.report import in_words, write

MIB = 1 << 20
BAR = 8 * MIB  # of growth after the warm-up
AT_A_TIME = 100
MANY = 15_000  # idle ones
_BATCH = 2000
# OpenSSL keeps a server's last sessions, 20,480 of them (SSL_CTX_sess_set_cache_size(3)); that fills up once.
_WARM_UP, _WARM_UP_TLS = 4_000, 30_000


@dataclass(frozen=True)
class Kind:
    """What a client sends, and what shows that the answer has come."""

    name: str
    frontend: str
    request: bytes
    answer: bytes
    tls: bool = False


def _http2_request() -> bytes:
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    head = [(":method", "GET"), (":scheme", "http"), (":authority", "bench"), (":path", "/")]
    connection.send_headers(1, head, end_stream=True)
    return connection.data_to_send()


_GET = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
_UPGRADE = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
KINDS = (
    Kind("HTTP/1.1", "http", _GET, b"answered"),
    Kind("TLS", "tls", _GET, b"answered", tls=True),
    Kind("HTTP/2", "http", _http2_request(), b"answered"),
    Kind("upgraded tunnel", "http", _UPGRADE, b"echoed"),
    Kind("TCP mode", "tcp", _GET, b"answered"),
    Kind("PROXY protocol", "proxy", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + _GET, b"answered"),
)


async def _server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"\r\nUpgrade: echo" in head:
            writer.write(b"HTTP/1.1 101 OK\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nechoed")
            await reader.read()
            return
        writer.write(response(b"answered"))


async def _batch(port: int, kind: Kind, count: int, context: ssl.SSLContext) -> int:
    """``count`` connections, some at a time; gives how many were not answered."""
    left = iter(range(count))
    failed = 0

    async def client() -> None:
        nonlocal failed
        for _ in left:
            data = b""
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=context if kind.tls else None
                )
                writer.write(kind.request)
                while kind.answer not in data:
                    piece = await reader.read(65536)
                    if not piece:
                        break
                    data += piece
                writer.close()
            except OSError:
                pass
            failed += kind.answer not in data

    await asyncio.gather(*(client() for _ in range(AT_A_TIME)))
    return failed


def measure(balancer: Balancer, port: int, kind: Kind, count: int, context: ssl.SSLContext) -> dict[str, Any]:
    """One kind; bytes of memory."""
    worker = psutil.Process(balancer.workers()[0]["pid"])
    failed = 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        def run(connections: int, what: str) -> None:
            nonlocal failed
            for _ in track(range(connections // _BATCH), f"{kind.name}: {what}"):
                failed += runner.run(_batch(port, kind, _BATCH, context))
            balancer.wait(
                "empty",
                lambda status: (
                    not status["totals"]["connections"]
                    and not status["totals"]["in_flight"]
                    and all(not server["active"] for server in status["servers"])
                ),
                60,
            )

        run(_WARM_UP_TLS if kind.tls else _WARM_UP, "warm-up")
        before, descriptors = worker.memory_info().rss, worker.num_fds()
        begin = time.monotonic()
        run(count, f"{count:,} connections")
        seconds = time.monotonic() - begin
    return {
        "kind": kind.name,
        "connections": count,
        "failed": failed,
        "rss_before": before,
        "rss_after": worker.memory_info().rss,
        "descriptors_before": descriptors,
        "descriptors_after": worker.num_fds(),
        "seconds": round(seconds, 1),
    }


def _idle(ca: trustme.CA, context: ssl.SSLContext, out: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    many = min(MANY, most // 2 - 500)  # a worker keeps a descriptor for the server of each client
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pylb-bench-")))
        folder.chmod(0o755)  # nginx's workers are others than root
        certificate = folder / "cert.pem"
        ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        site = idle.site(stack, folder, certificate)
        results = idle.measure(site, 9_000, 3_000, many, context)
    write("idle_connections", {"results": results}, idle.page(results), out)
    sys.exit(not idle.good(results))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--connections", type=int, default=100_000, help="of each kind [100,000]")
    options.add_argument("--idle", action="store_true", help="idle connections, in place of that")
    chosen = options.parse_args()
    ca = trustme.CA()
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if chosen.idle:
        need(options, "nginx", "wrk")
        _idle(ca, context, chosen.out)
        return
    ports = {name: free_port() for name in ("http", "tls", "tcp", "proxy")}
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as folder, origin(_server) as server:
        certificate = Path(folder, "cert.pem")
        ca.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        more = {
            "tls": f'tls = {{certificates = "{certificate}"}}\n',
            "tcp": 'mode = "tcp"\n',
            "proxy": 'accept_proxy = true\ntrusted_proxies = ["127.0.0.0/8"]\n',
        }
        text = "".join(frontend(name, port, more.get(name, "")) for name, port in ports.items())
        text = "workers = {min = 1, max = 1}\n" + text + backend("b", [server])
        results = []
        with Balancer(text=text) as balancer:
            for kind in KINDS:
                results.append(measure(balancer, ports[kind.frontend], kind, chosen.connections, context))
                console.log(results[-1])
    lines = [
        "# A worker's memory before and after many connections",
        "",
        f"Written by `python -m bench.many_connections`. {in_words()}.",
        "",
        "| kind | connections | failed | memory before | after | growth | descriptors before | after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    good = True
    for one in results:
        growth = one["rss_after"] - one["rss_before"]
        # What the pool of server connections holds comes and goes.
        kept = one["descriptors_after"] - one["descriptors_before"]
        good = good and not one["failed"] and growth <= BAR and kept <= AT_A_TIME
        lines.append(
            f"| {one['kind']} | {one['connections']:,} | {one['failed']} | "
            f"{one['rss_before'] / MIB:.1f} MiB | "
            f"{one['rss_after'] / MIB:.1f} MiB | **{growth / MIB:+.1f} MiB** | "
            f"{one['descriptors_before']} | {one['descriptors_after']} |"
        )
    write("many_connections", {"results": results}, lines, chosen.out)
    sys.exit(not good)


if __name__ == "__main__":
    main()
