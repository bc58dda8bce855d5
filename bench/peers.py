"""``python -m bench.peers``: pylb beside HAProxy, nginx, Envoy, Caddy, an aiohttp proxy and proxy.py in one
run.

The workloads are those of `bench.table` that all of these can serve. With one worker the balancer has CPU 0,
the load (wrk) and the servers (nginx) have CPU 1; with two it has both, and shares one. Balancers take turns.
At the end each one holds 10,000 idle connections, or as many as the limit of descriptors lets HAProxy hold.
Newer versions than Debian's release has, Envoy and Caddy are put beside (`bench.rig.unpacked`); what can't be
had is left out. Needs haproxy, nginx and wrk, and the extra ``bench``.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
from pathlib import Path
from typing import Any

from bench.rig import origins
from bench.rig.command import console, need, parser
from bench.rig.peers import COMMANDS, CONNECTIONS, Site, available, versions
from bench.rig.processes import Program, more_descriptors
from bench.rig.report import in_words, machine, write
from bench.table_report import answers, costs, draw, interleaved, label
from bench.turns import BASE, CLIENTS, measure, sides
from bench.workloads import WORKLOADS

IDLE = min(10_000, CONNECTIONS - 100)
_NAMES = (
    *("small, 64 keep-alive", "12 headers", "new connection each", "64 KiB", "1 MiB, 16 connections"),
    *("TLS, small", "TLS, 64 KiB"),
)
CASES = tuple(one for one in WORKLOADS if one.name in _NAMES)


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


def idle_table(idle: dict[str, dict[str, Any]], known: dict[str, str]) -> list[str]:
    """Memory of the idle connections; ``known`` are versions."""
    lines = [
        "| balancer | connections held | MiB without them | MiB more with them | MiB per 10,000 |",
        "|---|---|---|---|---|",
    ]
    for name, one in idle.items():
        more = each = one.get("error", "")
        if one["bytes"] is not None:
            more = f"{one['bytes'] / 2**20:.1f}"
            each = f"{one['bytes'] / 2**20 * 10_000 / max(1, one['connections']):.0f}"
        title = label(name, known)
        lines.append(f"| {title} | {one['connections']} | {one['before'] / 2**20:.1f} | {more} | {each} |")
    return lines


def page(document: dict[str, Any]) -> list[str]:
    """All of it in Markdown."""
    workloads, known = document["workloads"], document["versions"]
    names = list(document["idle"])
    return [
        "# Balancers side by side",
        "",
        f"Written by `make peers`. {in_words(document['machine'] | known)}.",
        f"{interleaved(workloads)} With 1 worker the balancer has a CPU of its own, with 2 it shares both "
        "with the load, so compare CPU per request rather than throughput.",
        "",
        *costs(workloads, names, known, BASE),
        "",
        *answers(workloads, names, known),
        "",
        "Memory of idle client connections (proportional set size of all processes):",
        "",
        *idle_table(document["idle"], known),
        "",
        "![CPU per request](peers.png)",
    ]


def run(options: argparse.Namespace, names: list[str], folder: Path) -> dict[str, Any]:
    """All cases, then the idle connections."""
    more_descriptors()
    found: dict[str, dict[str, Any]] = {}
    idle: dict[str, dict[str, Any]] = {}
    with origins.nginx(folder / "servers", CLIENTS) as (_, servers):

        def made() -> list[Site]:
            return [Site.with_tls(servers)]

        for workers in options.workers:
            wrap = ("taskset", "-c", "0" if workers == 1 else "0,1")
            with sides(names, folder / str(workers), made, workers, dict.fromkeys(names, wrap)) as there:
                turns = {name: side.turn for name, side in there.items()}
                for case in CASES:
                    balancers = measure(case, turns, options.turns, options.seconds)
                    key = f"{case.name}, {workers} worker{'s' if workers > 1 else ''}"
                    found[key] = {"bar": None, "over": case.over, "balancers": balancers}
        for name in names:
            with sides([name], folder / "idle", made) as there:
                side = there[name]
                idle[name] = idle_memory(side.program, side.sites[0].port, options.idle)
            console.log(f"{options.idle} idle connections: {name} {idle[name]}")
    return {"machine": machine(), "versions": versions(*names), "workloads": found, "idle": idle}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=3, help="per balancer and case [3]")
    options.add_argument("--seconds", type=int, default=1, help="per turn [1]")
    options.add_argument("--only", nargs="*", default=list(COMMANDS), help="balancers")
    options.add_argument("--workers", nargs="*", type=int, default=[1, 2], help="how many each runs [1 2]")
    options.add_argument("--idle", type=int, default=IDLE, help="idle connections")
    options.add_argument("--draw", action="store_true", help="only draw, from the JSON of an earlier run")
    chosen = options.parse_args()
    if chosen.draw:
        document = json.loads((chosen.out / "peers.json").read_text())
    else:
        need(options, "haproxy", "nginx", "wrk", "taskset")
        names, missing = available(chosen.only)
        for name, why in missing.items():
            console.print(f"without {name}: {why}", markup=False)
        with tempfile.TemporaryDirectory(prefix="pylb-peers-") as folder:
            document = run(chosen, names, Path(folder))
    write("peers", document, page(document), chosen.out)
    draw(document["workloads"], list(document["idle"]), document["versions"], chosen.out / "peers.png")


if __name__ == "__main__":
    main()
