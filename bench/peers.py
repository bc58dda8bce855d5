"""``python -m bench.peers``: pylb, HAProxy, nginx, an aiohttp proxy and proxy.py in one run.

With one worker the balancer has CPU 0, the load (wrk) and the servers (nginx) have CPU 1; with two it has
both, and shares one. The balancers take turns in every case, in an order that is reversed each time, so that
what else the machine does hits all. The figure is the CPU time of all of a balancer's processes over the
requests that wrk counted; throughput and response times come second. At the end each one holds 10,000 idle
connections, or as many as the limit of descriptors lets HAProxy hold.
Needs haproxy, nginx and wrk, and the extra ``bench``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.hotpath import CLIENTS
from bench.peers_report import draw, page
from bench.rig import origins, wrk
from bench.rig.command import console, in_turns, need, parser, progress
from bench.rig.peers import COMMANDS, CONNECTIONS, Site, running, versions
from bench.rig.processes import Program, more_descriptors
from bench.rig.report import machine, spread, together, write
from bench.rig.wrk import BROWSER, Load

IDLE = min(10_000, CONNECTIONS - 100)


@dataclass(frozen=True)
class Case:
    """One kind of load."""

    name: str
    load: Load = Load()
    tls: bool = False


CASES = (
    Case("small"),
    Case("12 headers", Load(fields=BROWSER)),
    Case("new connection each", Load(fields=("Connection: close",))),
    Case("64 KiB", Load("/64k")),
    Case("1 MiB", Load("/1m", 16)),
    Case("TLS, small", tls=True),
    Case("TLS, 64 KiB", Load("/64k"), tls=True),
)


@contextlib.contextmanager
def everyone(
    names: Sequence[str], folder: Path, servers: list[str], workers: int
) -> Iterator[dict[str, tuple[Program, Site]]]:
    """All balancers by name, each with so many workers."""
    wrap = ("taskset", "-c", "0" if workers == 1 else "0,1")
    with contextlib.ExitStack() as stack:
        found = {}
        for name in names:
            site = Site.with_tls(servers)
            more = {"connections": CONNECTIONS} if name == "haproxy" else {}
            program = running(name, folder / name, site, wrap=wrap, workers=workers, **more)
            found[name] = stack.enter_context(program), site
        yield found


def ratios(turns: list[dict[str, Any]], base: list[dict[str, Any]]) -> list[float]:
    """CPU per request, turn by turn, over the same turn of ``base``; without those in which nothing came."""
    pairs = [(one["us"], other["us"]) for one, other in zip(turns, base, strict=False)]
    return [one / other for one, other in pairs if one and other]


def measure(
    case: Case, balancers: dict[str, tuple[Program, Site]], turns: int, seconds: int, said: Any
) -> dict[str, dict[str, Any]]:
    """All turns of one case, by balancer; ``said`` is called with what each turn found."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for _, name in in_turns(list(balancers), turns):
        program, site = balancers[name]
        url = f"https://127.0.0.1:{site.tls_port}" if case.tls else f"http://127.0.0.1:{site.port}"
        one = wrk.turn(url, case.load, seconds, program.cpu, CLIENTS)
        runs.setdefault(name, []).append(one)
        said(f"{name} {one['us']} µs, {one['rps']:.0f}/s, p99 {one['p99_ms']} ms, {one['failed']} failed")
    base = runs.get("haproxy", [])
    return {
        name: together(found) | {"over_haproxy": spread(ratios(found, base))} for name, found in runs.items()
    }


def idle_memory(balancer: Program, port: int, connections: int) -> dict[str, Any]:
    """Memory that idle connections cost, each after one request; those that it closed don't count."""
    before = balancer.memory()
    request = f"GET /small HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    held: list[socket.socket] = []
    try:
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", port), timeout=10)
            held.append(sock)
            sock.sendall(request)
            sock.recv(65536)
        used = balancer.memory() - before
        for sock in held:
            sock.setblocking(False)
        alive = sum(_alive(sock) for sock in held)
        return {"connections": alive, "bytes": used, "before": before}
    except OSError as error:
        return {"connections": len(held), "bytes": None, "before": before, "error": str(error)}
    finally:
        for sock in held:
            sock.close()


def _alive(sock: socket.socket) -> bool:
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All cases, then the idle connections."""
    more_descriptors()
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    idle: dict[str, dict[str, Any]] = {}
    with origins.nginx(folder / "servers", CLIENTS) as (_, servers), progress() as bar:
        steps = len(options.only) * (len(CASES) * options.turns * len(options.workers) + 1)
        task = bar.add_task("", total=steps)
        for workers in options.workers:
            with everyone(options.only, folder / str(workers), servers, workers) as balancers:
                for case in CASES:
                    key = f"{case.name}, {workers} worker{'s' if workers > 1 else ''}"

                    def said(text: str, key: str = key) -> None:
                        console.log(f"{key}: {text}")
                        bar.update(task, description=key, advance=1)

                    cases[key] = measure(case, balancers, options.turns, options.seconds, said)
        for name in options.only:
            with everyone([name], folder / "idle", servers, 1) as balancers:
                program, site = balancers[name]
                idle[name] = idle_memory(program, site.port, options.idle)
            console.log(f"{options.idle} idle connections: {name} {idle[name]}")
            bar.update(task, description="idle connections", advance=1)
    return {"machine": machine(), "versions": versions(*options.only), "cases": cases, "idle": idle}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=5, help="per balancer and case [5]")
    options.add_argument("--seconds", type=int, default=2, help="per measurement [2]")
    options.add_argument("--only", nargs="*", default=list(COMMANDS), help="balancers")
    options.add_argument("--workers", nargs="*", type=int, default=[1, 2], help="how many each runs [1 2]")
    options.add_argument("--idle", type=int, default=IDLE, help="idle connections")
    options.add_argument("--draw", action="store_true", help="only draw, from the JSON of an earlier run")
    chosen = options.parse_args()
    if chosen.draw:
        document = json.loads((chosen.out / "peers.json").read_text())
    else:
        need(options, "haproxy", "nginx", "wrk", "taskset")
        with tempfile.TemporaryDirectory(prefix="pylb-peers-") as folder:
            document = run(chosen, Path(folder))
    write("peers", document, page(document), chosen.out)
    draw(document["cases"], chosen.out / "peers.png")


if __name__ == "__main__":
    main()
