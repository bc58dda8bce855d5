"""``python -m bench.http2``: a worker's CPU per request of HTTP/2 over TLS beside one HAProxy thread's.

h2load asks both in turns, in front of the same nginx, which speaks HTTP/1.1; for gRPC's unary calls in front
of a server of HTTP/2. What is measured is the CPU time of the process that balances; a case's ratio is the
median over the turns. ``--against TREE`` has another checkout's pylb take its turns, too.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.rig import origins, peers
from bench.rig.balancer import Balancer
from bench.rig.command import need, parser
from bench.rig.grpc_origin import MESSAGE, grpc_origin
from bench.rig.peers import Site, pylb_text
from bench.rig.processes import cpu_seconds
from bench.rig.report import in_words, machine, write

_BROWSER = (
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0",
    "accept: text/html,application/xhtml+xml",
    "accept-encoding: gzip, deflate, br",
    "accept-language: en-US,en;q=0.9",
)
_GRPC = ("user-agent: grpc-go/1.60.1", "content-type: application/grpc", "te: trailers")
CLIENTS_CPU = 0
CLIENTS = ("taskset", "-c", str(CLIENTS_CPU))
BALANCERS = ("taskset", "-c", "1")


@dataclass(frozen=True)
class Case:
    """Requests in so many connections with so many streams each."""

    name: str
    connections: int
    streams: int
    requests: int
    bar: float
    path: str = "/small"
    differing: bool = False
    grpc: bool = False
    """Calls of gRPC, which its servers get by HTTP/2."""


CASES = (
    Case("equal heads, 10 connections × 10 streams", 10, 10, 40_000, 1.5),
    Case("differing heads, 10 × 10", 10, 10, 40_000, 2.0, differing=True),
    Case("64 KiB, 10 × 10", 10, 10, 6_000, 1.3, "/64k"),
    Case("equal heads, 1 connection × 100 streams", 1, 100, 40_000, 1.5),
    Case("gRPC unary, HTTP/2 on both sides, 10 × 10", 10, 10, 30_000, 2.0, "/bench.Echo/Say", grpc=True),
)


def uris(port: int, case: Case) -> list[str]:
    """Of a case; where heads differ, in a path with a query that looks like a session's."""
    start = f"https://127.0.0.1:{port}{case.path}"
    if not case.differing:
        return [start]
    return [
        f"{start}?item={number * 7919 % 100_000}&session=eyJhbGciOiJIUzI1Ni{number * 104729 % 1_000_003}Is"
        for number in range(5000)
    ]


def ask(port: int, pid: int, case: Case, folder: Path) -> dict[str, float]:
    """One turn.

    Raises:
        RuntimeError: a request failed.
    """
    file = folder / f"uris-{port}"
    file.write_text("\n".join(uris(port, case)) + "\n")
    command = [
        *CLIENTS,
        "h2load",
        "-c",
        str(case.connections),
        "-m",
        str(case.streams),
        "-n",
        str(case.requests),
    ]
    command += [word for line in (_GRPC if case.grpc else _BROWSER) for word in ("-H", line)]
    if case.grpc:
        message = folder / "message"
        message.write_bytes(MESSAGE)
        command += ["-d", str(message)]
    before = cpu_seconds(pid)
    done = subprocess.run(
        [*command, "-i", str(file)], capture_output=True, text=True, check=True, timeout=300
    )
    spent = cpu_seconds(pid) - before
    if f", {case.requests} succeeded" not in done.stdout:
        raise RuntimeError(done.stdout)
    rate = re.search(r"([\d.]+) req/s", done.stdout)
    assert rate is not None
    return {"us": spent / case.requests * 1e6, "rps": float(rate[1])}


def measure(case: Case, turns: int, sides: dict[str, Callable[[Case], dict[str, float]]]) -> dict[str, Any]:
    """A case, in turns."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for turn in range(turns):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            seen[name].append(sides[name](case))
    result: dict[str, Any] = {"case": case.name, "bar": case.bar}
    for name, ones in seen.items():
        result[name] = {what: median(one[what] for one in ones) for what in ("us", "rps")}
    for name in ("pylb", "other") if "other" in sides else ("pylb",):
        pairs = zip(seen[name], seen["haproxy"], strict=True)
        result["ratio" if name == "pylb" else "other_ratio"] = median(a["us"] / b["us"] for a, b in pairs)
    return result


def page(results: Sequence[dict[str, Any]], version: str) -> list[str]:
    """The results as Markdown."""
    lines = [
        "# HTTP/2 over TLS: CPU per request",
        "",
        f"Written by `python -m bench.http2`. {in_words()}; {version}. One worker, one thread, "
        "an HTTP/1.1 server behind; medians of turns.",
        "",
        "| case | pylb µs | HAProxy µs | ratio | bar | | pylb/s | HAProxy/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        ours, theirs = one["pylb"], one["haproxy"]
        lines.append(
            f"| {one['case']} | {ours['us']:.1f} | {theirs['us']:.1f} | **{one['ratio']:.2f}** | "
            f"{one['bar']} | {'holds' if one['ratio'] <= one['bar'] else 'missed'} | "
            f"{ours['rps']:.0f} | {theirs['rps']:.0f} |"
        )
    return lines


def _options() -> argparse.ArgumentParser:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=5, help="per balancer and case [5]")
    options.add_argument("--against", metavar="TREE", help="another checkout, measured in turns with this")
    options.add_argument("--only", default="", help="part of a case's name")
    return options


def _pid(serving: Balancer) -> int:
    pid: int = serving.workers()[0]["pid"]
    return pid


def main() -> None:
    options = _options()
    chosen = options.parse_args()
    cases = [case for case in CASES if chosen.only in case.name]
    if not cases:
        options.error(f"--only: no case has {chosen.only!r} in its name")
    need(options, "haproxy", "nginx", "h2load", "taskset")
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as text, ExitStack() as stack:
        folder = Path(text)
        folder.chmod(0o755)
        peers.certificate(folder)
        _, servers = stack.enter_context(origins.nginx(folder / "servers", CLIENTS))
        calls = [stack.enter_context(grpc_origin(CLIENTS_CPU))]
        sides: dict[str, Callable[[Case], dict[str, float]]] = {}

        def add(name: str, pid: int, sites: Sequence[Site]) -> None:
            sides[name] = lambda case: ask(sites[case.grpc].tls_port, pid, case, folder)

        def ours(name: str, tree: str = "") -> None:
            sites = [Site.with_tls(servers), Site.with_tls(calls, http2=True)]
            file = folder / f"{name}.toml"
            file.write_text(f"workers = {{min = 1, max = 1}}\n{pylb_text(folder, *sites)}")
            path = os.pathsep.join((tree, *sys.path[1:]))
            wrap = (*BALANCERS, "env", "-C", tree, f"PYTHONPATH={path}") if tree else BALANCERS
            add(name, _pid(stack.enter_context(Balancer("-c", str(file), wrap=wrap))), sites)

        sites = [Site.with_tls(servers), Site.with_tls(calls, http2=True)]
        haproxy = stack.enter_context(peers.running("haproxy", folder / "haproxy", *sites, wrap=BALANCERS))
        add("haproxy", haproxy.process.pid, sites)
        ours("pylb")
        if chosen.against:
            ours("other", chosen.against)
        results = [measure(case, chosen.turns, sides) for case in cases]
    version = peers.versions("haproxy")["haproxy"]
    if chosen.against:
        for one in results:
            print(
                f"{one['case']}: {one['ratio']:.3f} of HAProxy, there {one['other_ratio']:.3f}"
                f" ({one['pylb']['us']:.1f}, {one['other']['us']:.1f}, {one['haproxy']['us']:.1f} µs)"
            )
        return
    facts = {"machine": machine() | {"haproxy": version}, "results": results}
    write("http2", facts, page(results, version), chosen.out)


if __name__ == "__main__":
    main()
