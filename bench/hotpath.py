"""``python -m bench.hotpath``: CPU per request of a pylb worker beside an HAProxy thread, in one run.

Both balance over the same two nginx servers on 127.0.0.1, pinned to CPU 0, while wrk and nginx have CPU 1.
They take turns, so that what else the machine does hits both. With TLS they have the same certificate, and no
client resumes a session. The figure is the CPU time that the worker (or
haproxy) process itself used, over the requests that wrk counted. Needs haproxy, nginx and wrk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.rig import origins, peers, wrk
from bench.rig.balancer import Balancer
from bench.rig.command import console, in_turns, need, parser
from bench.rig.peers import Site
from bench.rig.processes import cpu_seconds
from bench.rig.report import in_words, machine, pyplot, spread, together, write
from bench.rig.wrk import BROWSER, CURL, Load

BALANCERS, CLIENTS = ("taskset", "-c", "0"), ("taskset", "-c", "1")


@dataclass(frozen=True)
class Case:
    """One kind of load; ``bar`` is the largest ratio that is good enough."""

    name: str
    load: Load
    bar: float
    tls: bool = False


CASES = (
    Case("small, 64 keep-alive", Load(), 1.25),
    Case("small, 250 keep-alive", Load(connections=250), 1.25),
    Case("12 headers, 64 keep-alive", Load(fields=BROWSER), 1.5),
    Case("differing heads, few headers", Load(fields=CURL, varied=True), 1.25),
    Case("differing heads, 12 headers", Load(fields=BROWSER, varied=True), 1.25),
    Case("64 KiB, 64 keep-alive", Load("/64k"), 1.0),
    Case("1 MiB, 16 keep-alive", Load("/1m", 16), 1.0),
    Case("small, new connection each", Load(fields=("Connection: close",)), 1.15),
    Case("TLS, small, 64 keep-alive", Load(), 1.1, tls=True),
    Case("TLS, small, new connection each", Load(fields=("Connection: close",)), 1.2, tls=True),
)

Turn = Callable[[Case], dict[str, float | None]]
"""Loads one balancer for some seconds (`wrk.turn`)."""


def measure(case: Case, balancers: dict[str, Turn], turns: int) -> dict[str, Any]:
    """Turns of both; `together` by name, and the ratio of their CPU per request turn by turn."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in balancers}
    for number, name in in_turns(list(balancers), turns):
        one = balancers[name](case)
        runs[name].append(one)
        console.log(
            f"{case.name}: turn {number + 1}/{turns} {name}: {one['us']} µs, {one['rps']:.0f}/s, "
            f"{one['failed']} failed"
        )
    pairs = zip(runs["pylb"], runs["haproxy"], strict=True)
    ratio = spread(ours["us"] / theirs["us"] for ours, theirs in pairs)
    return {"case": case.name, "bar": case.bar, "ratio": ratio} | {
        name: together(done) for name, done in runs.items()
    }


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """The ratios beside their bars."""
    figure, axes = pyplot().subplots(figsize=(8, 4), layout="constrained")
    places = list(range(len(results)))
    axes.barh(places, [one["ratio"]["median"] for one in results], color="#3b7dd8", height=0.5)
    axes.plot([one["bar"] for one in results], places, "k|", markersize=22, label="bar")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(places, [one["case"] for one in results])
    axes.invert_yaxis()
    axes.set_xlabel("CPU per request, pylb / HAProxy (less is better)")
    axes.legend()
    figure.savefig(path, dpi=120)


def page(results: list[dict[str, Any]], haproxy: str) -> list[str]:
    """The results in Markdown."""
    lines = [
        "# CPU per request: a pylb worker beside an HAProxy thread",
        "",
        f"Written by `make bench`. {in_words()}; haproxy: {haproxy}.",
        f"Median of {results[0]['pylb']['turns']} turns each, interleaved; in brackets the extremes.",
        "",
        "| case | pylb µs | HAProxy µs | ratio | bar | | pylb req/s | HAProxy req/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        ratio, pylb, haproxy_ = one["ratio"], one["pylb"], one["haproxy"]
        lines.append(
            f"| {one['case']} | {pylb['us']['median']:.1f} | {haproxy_['us']['median']:.1f} | "
            f"**{ratio['median']:.2f}** ({ratio['min']:.2f} to {ratio['max']:.2f}) | {one['bar']} | "
            f"{'holds' if ratio['median'] <= one['bar'] else 'missed'} | "
            f"{pylb['rps']['median']:.0f} | {haproxy_['rps']['median']:.0f} |"
        )
    return lines


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=5, help="per balancer and case [5]")
    options.add_argument("--seconds", type=int, default=3, help="per measurement [3]")
    options.add_argument("--only", default="", help="part of a case's name")
    chosen = options.parse_args()
    cases = [case for case in CASES if chosen.only in case.name]
    if not cases:
        options.error(f"--only: no case has {chosen.only!r} in its name")
    need(options, "haproxy", "nginx", "wrk", "taskset")
    with (
        tempfile.TemporaryDirectory(prefix="pylb-bench-") as text,
        origins.nginx(Path(text, "servers"), CLIENTS) as (_, servers),
        peers.running(
            "haproxy", folder := Path(text, "haproxy"), theirs := Site.with_tls(servers), wrap=BALANCERS
        ) as haproxy,
        Balancer(
            text=peers.ONE_WORKER + peers.pylb_text(folder, ours := Site.with_tls(servers)), wrap=BALANCERS
        ) as pylb,
    ):
        worker = pylb.workers()[0]["pid"]

        def turn(site: Site, pid: int, case: Case) -> dict[str, float | None]:
            url = f"https://127.0.0.1:{site.tls_port}" if case.tls else f"http://127.0.0.1:{site.port}"
            return wrk.turn(url, case.load, chosen.seconds, partial(cpu_seconds, pid), CLIENTS)

        balancers: dict[str, Turn] = {
            "haproxy": partial(turn, theirs, haproxy.process.pid),
            "pylb": partial(turn, ours, worker),
        }
        results = [measure(case, balancers, chosen.turns) for case in cases]
    version = peers.versions("haproxy")["haproxy"]
    facts = {"machine": machine() | {"haproxy": version}, "results": results}
    write("hotpath", facts, page(results, version), chosen.out)
    draw(results, chosen.out / "hotpath.png")


if __name__ == "__main__":
    main()
