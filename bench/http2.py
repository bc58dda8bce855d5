"""``python -m bench.http2``: a worker's CPU per request of HTTP/2 over TLS beside one HAProxy thread's.

h2load asks both in turns, in front of the same nginx, which speaks HTTP/1.1. What is measured is the CPU time
of the process that balances; a case's ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.rig import origins, peers
from bench.rig.balancer import Balancer
from bench.rig.command import need, parser
from bench.rig.peers import Site, pylb_text
from bench.rig.processes import cpu_seconds
from bench.rig.report import in_words, machine, write

_BROWSER = (
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0",
    "accept: text/html,application/xhtml+xml",
    "accept-encoding: gzip, deflate, br",
    "accept-language: en-US,en;q=0.9",
)
CLIENTS = ("taskset", "-c", "0")
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


CASES = (
    Case("equal heads, 10 connections × 10 streams", 10, 10, 40_000, 1.5),
    Case("differing heads, 10 × 10", 10, 10, 40_000, 2.5, differing=True),
    Case("64 KiB, 10 × 10", 10, 10, 6_000, 1.3, "/64k"),
    Case("equal heads, 1 connection × 100 streams", 1, 100, 40_000, 1.65),
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
    command += [word for line in _BROWSER for word in ("-H", line)]
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
    for _ in range(turns):
        for name, side in sides.items():
            seen[name].append(side(case))
    result: dict[str, Any] = {"case": case.name, "bar": case.bar}
    for name, ones in seen.items():
        result[name] = {what: median(one[what] for one in ones) for what in ("us", "rps")}
    pairs = zip(seen["pylb"], seen["haproxy"], strict=True)
    result["ratio"] = median(ours["us"] / theirs["us"] for ours, theirs in pairs)
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
    options.add_argument("--only", default="", help="part of a case's name")
    return options


def main() -> None:
    options = _options()
    chosen = options.parse_args()
    cases = [case for case in CASES if chosen.only in case.name]
    if not cases:
        options.error(f"--only: no case has {chosen.only!r} in its name")
    need(options, "haproxy", "nginx", "h2load", "taskset")
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as text:
        folder = Path(text)
        folder.chmod(0o755)
        peers.certificate(folder)
        with (
            origins.nginx(folder / "servers", CLIENTS) as (_, servers),
            peers.running(
                "haproxy", folder / "haproxy", theirs := Site.with_tls(servers), wrap=BALANCERS
            ) as haproxy,
        ):
            ours = Site.with_tls(servers)
            file = folder / "pylb.toml"
            file.write_text(f"workers = {{min = 1, max = 1}}\n{pylb_text(folder, ours)}")
            with Balancer("-c", str(file), wrap=BALANCERS) as pylb:
                worker = pylb.workers()[0]["pid"]
                sides: dict[str, Callable[[Case], dict[str, float]]] = {
                    "haproxy": lambda case: ask(theirs.tls_port, haproxy.process.pid, case, folder),
                    "pylb": lambda case: ask(ours.tls_port, worker, case, folder),
                }
                results = [measure(case, chosen.turns, sides) for case in cases]
    version = peers.versions("haproxy")["haproxy"]
    facts = {"machine": machine() | {"haproxy": version}, "results": results}
    write("http2", facts, page(results, version), chosen.out)


if __name__ == "__main__":
    main()
