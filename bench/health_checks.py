"""``python -m bench.health_checks``: what health checks cost the control plane.

A thousand servers are a thousand addresses of loopback (127.1.0.0/16) behind one listening socket, in a
process of its own. Measured is the CPU time of the control plane's process with checks, less that without,
over some seconds, once all servers were checked.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import uvloop

from bench.rig.balancer import Balancer, backend, free_port, frontend
from bench.rig.command import console, parser
from bench.rig.peers import certificate
from bench.rig.processes import child, cpu_seconds
from bench.rig.report import in_words, write

BOUND = 0.15
"""Of one core, that 1,000 checks every two seconds may cost."""
_FEWER = 10
"""By so much fewer servers are checked by TLS: the servers' side of a handshake costs more than the check."""
KINDS = {
    "none": "",
    "tcp": "[backend.check]\ninterval = {interval}\n",
    "http": '[backend.check]\npath = "/small"\ninterval = {interval}\n',
    "http, body": '[backend.check]\npath = "/small"\nbody = "ok"\ninterval = {interval}\n',
    "tls": '[backend.check]\ntype = "tls"\ninterval = {interval}\n',
}
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class _Server(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(_ANSWER)
        self._transport.close()


async def _serve(folder: str, pipe: Connection[Any, Any]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/both.pem")
    loop = asyncio.get_running_loop()
    plain = await loop.create_server(_Server, "0.0.0.0", 0, backlog=4096)
    encrypted = await loop.create_server(_Server, "0.0.0.0", 0, backlog=4096, ssl=context)
    pipe.send([one.sockets[0].getsockname()[1] for one in (plain, encrypted)])
    await asyncio.Event().wait()


def _run(folder: str, pipe: Connection[Any, Any]) -> None:
    uvloop.run(_serve(folder, pipe))


def measure(kind: str, ports: list[int], servers: int, interval: float, seconds: float) -> dict[str, Any]:
    """The control plane's share of a core, and what of the checks was seen."""
    servers = servers // _FEWER if kind == "tls" else servers
    port = ports[kind == "tls"]
    addresses = [f"127.1.{number // 250}.{number % 250 + 1}:{port}" for number in range(servers)]
    text = f"workers = {{min = 1, max = 1}}\n{frontend('f', free_port())}{backend('b', addresses)}"
    with Balancer(text=text + KINDS[kind].format(interval=interval)) as running:
        children = psutil.Process(running.process.pid).children()
        control = next(one for one in children if "control" in " ".join(one.cmdline()))
        if kind != "none":
            running.wait("checked", lambda status: all(one["check"]["last"] for one in status["servers"]))
        before, began = cpu_seconds(control.pid), time.monotonic()
        checks = _checks(running)
        time.sleep(seconds)
        share = (cpu_seconds(control.pid) - before) / (time.monotonic() - began)
        done = _checks(running) - checks
        failures = sum(one["check"]["failures"] for one in running.status()["servers"] if one.get("check"))
    return {"kind": kind, "share": share, "per_second": done / seconds, "failures": failures}


def _checks(running: Balancer) -> int:
    return sum(one["check"]["checks"] for one in running.status()["servers"] if one.get("check"))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--servers", type=int, default=1000, help="[1,000]")
    options.add_argument("--interval", type=float, default=2.0, help="seconds between two checks [2]")
    options.add_argument("--seconds", type=float, default=15.0, help="of each measurement [15]")
    options.add_argument(
        "--only", nargs="+", choices=list(KINDS), default=list(KINDS), help="of these checks"
    )
    chosen = options.parse_args()
    found = []
    with TemporaryDirectory() as folder:
        certificate(Path(folder))
        with child(_run, folder) as pipe:
            ports = pipe.recv()
            for kind in dict.fromkeys(["none", *chosen.only]):
                console.print(f"{kind} …")
                found.append(measure(kind, ports, chosen.servers, chosen.interval, chosen.seconds))
    idle = found[0]["share"]
    for one in found:
        one["cost"] = one["share"] - idle
    lines = [
        "# What health checks cost",
        "",
        f"Written by `python -m bench.health_checks`. {in_words()}.",
        "",
        f"{chosen.servers:,} servers, each checked every {chosen.interval:g} s, for {chosen.seconds:g} s. "
        f"The bound for TCP and HTTP is {BOUND:.0%} of one core. By TLS a tenth of the servers is checked.",
        "",
        "| check | checks per second | failed | control plane, of a core | more than without | µs each |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        each = f"{1e6 * one['cost'] / one['per_second']:.0f}" if one["per_second"] else ""
        lines.append(
            f"| {one['kind']} | {one['per_second']:.0f} | {one['failures']} | {one['share']:.1%} "
            f"| {one['cost']:.1%} | {each} |"
        )
    document = {"servers": chosen.servers, "interval": chosen.interval, "kinds": found}
    write("health_checks", document, lines, chosen.out)
    raise SystemExit(any(one["cost"] > BOUND for one in found if one["kind"] != "tls"))


if __name__ == "__main__":
    main()
