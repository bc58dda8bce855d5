"""What `peers.py` measured, as a table and a chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.rig.report import in_words, pyplot, shown

Cases = dict[str, dict[str, dict[str, Any]]]
"""By case and balancer, its turns `together`, and ``over_haproxy``: CPU per request over HAProxy's."""

COLOURS = {
    "pylb": "#3b7dd8",
    "haproxy": "#111111",
    "nginx": "#2e9e5b",
    "aiohttp": "#c2552d",
    "proxy.py": "#d8a33b",
}


def table(cases: Cases) -> list[str]:
    """A row for each case and balancer; ratios are CPU per request over HAProxy's, median (extremes)."""
    lines = [
        "| case | balancer | CPU µs/request | over HAProxy's | requests/s | p50 ms | p99 ms | failed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, peers in cases.items():
        for name, one in peers.items():
            over = one["over_haproxy"]
            ratio = f"{over['median']:.2f} ({over['min']:.2f}–{over['max']:.2f})" if over["median"] else ""
            figures = " | ".join(shown(one[what]["median"]) for what in ("rps", "p50_ms", "p99_ms"))
            name = f"**{name}**" if name == "pylb" else name
            lines.append(
                f"| {key} | {name} | {shown(one['us']['median'])} | {ratio} | {figures} | {one['failed']} |"
            )
    return lines


def idle_table(idle: dict[str, dict[str, Any]]) -> list[str]:
    """Memory of the idle connections."""
    lines = [
        "| balancer | connections held | MiB without them | MiB more with them | MiB per 10,000 |",
        "|---|---|---|---|---|",
    ]
    for name, one in idle.items():
        more = each = one.get("error", "")
        if one["bytes"] is not None:
            more = f"{one['bytes'] / 2**20:.1f}"
            each = f"{one['bytes'] / 2**20 * 10_000 / max(1, one['connections']):.0f}"
        lines.append(f"| {name} | {one['connections']} | {one['before'] / 2**20:.1f} | {more} | {each} |")
    return lines


def draw(cases: Cases, path: Path) -> None:
    """CPU per request over HAProxy's, as bars on a logarithmic scale, with the extremes."""
    keys = [key for key in cases if "haproxy" in cases[key]]
    names = [name for name in COLOURS if any(name in cases[key] for key in keys) and name != "haproxy"]
    figure, axes = pyplot().subplots(figsize=(9, 0.62 * len(keys) + 1.6), layout="constrained")
    for number, name in enumerate(names):
        for place, key in enumerate(keys):
            over = cases[key][name]["over_haproxy"] if name in cases[key] else {"median": None}
            if over["median"] is None:
                continue
            at = place + (number - (len(names) - 1) / 2) * 0.8 / len(names)
            axes.barh(
                at,
                over["median"],
                0.72 / len(names),
                color=COLOURS[name],
                label=name if place == 0 else None,
                xerr=[[over["median"] - over["min"]], [over["max"] - over["median"]]],
                error_kw={"elinewidth": 0.8},
            )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [0.5, 1, 2, 5, 10, 20, 50]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(range(len(keys)), keys)
    axes.invert_yaxis()
    axes.set_xlabel("CPU per request over HAProxy's (less is better)")
    axes.grid(axis="x", alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def page(document: dict[str, Any]) -> list[str]:
    """All of it in Markdown."""
    cases: Cases = document["cases"]
    turns = max(one["turns"] for peers in cases.values() for one in peers.values())
    return [
        "# Balancers side by side",
        "",
        f"Written by `python -m bench.peers` (`make peers`). "
        f"{in_words(document['machine'] | document['versions'])}.",
        f"{turns} turns each, interleaved; medians. With 1 worker the balancer has a CPU of its own, with 2 "
        "it shares both with the load, so compare CPU per request rather than throughput.",
        "",
        *table(cases),
        "",
        "Memory of idle client connections (proportional set size of all processes):",
        "",
        *idle_table(document["idle"]),
        "",
        "![CPU per request](peers.png)",
    ]
