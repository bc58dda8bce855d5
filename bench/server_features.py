"""``python -m bench.server_features``: what health checks, outliers, stickiness and discovery cost per
request, each and all together, beside a balancer without them.

One worker each over the same two nginx servers, in turns, with clients that have got their cookie; CPU time
is that of the worker and of the control plane together. Needs nginx and wrk.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.rig import origins, wrk
from bench.rig.balancer import Balancer, free_port
from bench.rig.command import console, in_turns, need, parser
from bench.rig.processes import cpu_seconds, titles
from bench.rig.report import in_words, machine, spread, together, write
from bench.rig.wrk import Load

BALANCERS, CLIENTS = ("taskset", "-c", "0"), ("taskset", "-c", "1")
BAR = 1.10
"""What a request may cost with everything on, to one without."""
PLAIN, ALL = "plain", "all of it"
COOKIE = "Cookie: session=0123456789abcdef; SRV={}"
LOADS = {
    "a cookie of the balancer's": Load(),
    "heads that differ": Load(varied=True),
}
"""Of the second each response sets a cookie, as for clients that come for the first time."""

CHECK = '[backend.check]\npath = "/small"\ninterval = "1s"\n'
OUTLIERS = '[backend.outliers]\nstatuses = "5xx"\n'
STICKY = '[backend.sticky]\ncookie = "SRV"\n'
JUDGED = 'panic = 0.3\nmin_servers = 1\non_marked_down = "shutdown-sessions"\n'


def features(file: Path) -> dict[str, tuple[str, bool]]:
    """By name, what stands in the backend, and whether its servers are discovered (in a ``file``)."""
    found = f'[[backend.discover]]\nfile = "{file}"\nallow_local = true\n'
    return {
        PLAIN: ("", False),
        "health checks": (CHECK, False),
        "outliers": (OUTLIERS, False),
        "stickiness": (STICKY, False),
        "discovery": (found, True),
        ALL: (JUDGED + CHECK + OUTLIERS + STICKY + found, True),
    }


def text_of(port: int, servers: list[str], feature: str, discovered: bool) -> str:
    """The configuration of one balancer; servers are named s1, s2."""
    named = ", ".join(f'{{address = "{one}", name = "s{at}"}}' for at, one in enumerate(servers, 1))
    listed = "" if discovered else f"server = [{named}]\n"
    return (
        "workers = {min = 1, max = 1}\n"
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\n{listed}{feature}'
    )


def cpu_of(balancer: Balancer) -> float:
    """Seconds that its worker and its control plane have used."""
    return sum(cpu_seconds(pid) for pid in titles(balancer.process.pid).values())


def measure(
    balancers: dict[str, tuple[str, Balancer, str]], load: Load, turns: int, seconds: int
) -> dict[str, Any]:
    """Turns of all; `together` by name, with the ratio to the plain one, turn by turn."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in balancers}
    for _, name in in_turns(list(balancers), turns):
        url, balancer, server = balancers[name]
        own = load if load.varied else replace(load, fields=(COOKIE.format(server),))
        runs[name].append(wrk.turn(url, own, seconds, partial(cpu_of, balancer), CLIENTS))
    plain = [one["us"] for one in runs[PLAIN]]
    found = {}
    for name, done in runs.items():
        ratios = (one["us"] / base for one, base in zip(done, plain, strict=True))
        found[name] = together(done) | {"ratio": spread(ratios)}
    return found


def page(results: dict[str, dict[str, Any]]) -> list[str]:
    """The results in Markdown."""
    turns = next(iter(results.values()))[PLAIN]["turns"]
    lines = [
        "# What looking after servers costs per request",
        "",
        f"Written by `python -m bench.server_features`. {in_words()}.",
        f"CPU of worker and control plane, median of {turns} turns each, in turns; in brackets the extremes.",
        f"The bar is {BAR} for all of it, with clients that have their cookie.",
    ]
    for load, found in results.items():
        lines += ["", f"| {load} | µs | to plain | req/s | failed |", "|---|---|---|---|---|"]
        for name, one in found.items():
            ratio = one["ratio"]
            lines.append(
                f"| {name} | {one['us']['median']:.1f} | **{ratio['median']:.2f}** ({ratio['min']:.2f} to "
                f"{ratio['max']:.2f}) | {one['rps']['median']:.0f} | {one['failed']} |"
            )
    return lines


def main() -> None:
    """Measure, and say it."""
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=7, help="per balancer and load [7]")
    options.add_argument("--seconds", type=int, default=2, help="per measurement [2]")
    chosen = options.parse_args()
    need(options, "nginx", "wrk", "taskset")
    with tempfile.TemporaryDirectory(prefix="pylb-bench-") as folder, contextlib.ExitStack() as stack:
        _, servers = stack.enter_context(origins.nginx(Path(folder, "servers"), CLIENTS))
        file = Path(folder, "found")
        file.write_text("".join(f"{one}\n" for one in servers))
        balancers = {}
        for name, (feature, discovered) in features(file).items():
            port = free_port()
            text = text_of(port, list(servers), feature, discovered)
            balancer = stack.enter_context(Balancer(text=text, wrap=BALANCERS))
            balancer.wait("its servers", lambda status: len(status["servers"]) == len(servers))
            server = balancer.status()["servers"][0]["name"]
            balancers[name] = f"http://127.0.0.1:{port}", balancer, server
        results = {}
        for title, load in LOADS.items():
            results[title] = measure(balancers, load, chosen.turns, chosen.seconds)
            for name, one in results[title].items():
                console.log(f"{title}: {name}: {one['us']['median']} µs, {one['ratio']['median']:.3f}")
    write("server_features", {"machine": machine(), "results": results}, page(results), chosen.out)


if __name__ == "__main__":
    main()
