"""What `bench.table`, `bench.peers` and `bench.pythons` have measured, as tables and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.rig.report import pyplot, shown
from bench.table_check import ratio

Workloads = Mapping[str, Mapping[str, Any]]
"""By name: ``bar``, ``over``, and by balancer its turns together (`bench.turns.measure`)."""
COLOURS = {
    "pylb": "#3b7dd8",
    "haproxy-latest": "#777777",
    "nginx": "#2e9e5b",
    "envoy": "#8a4fc0",
    "caddy": "#18a5a5",
    "aiohttp": "#c2552d",
    "proxy.py": "#d8a33b",
}


def label(name: str, versions: Mapping[str, str]) -> str:
    """A balancer's name with its version, without Debian's part of it."""
    return f"{name.removesuffix('-latest')} {versions.get(name, '').partition('-')[0]}".strip()


def interleaved(workloads: Workloads) -> str:
    """How often each had its turn, for a page."""
    turns = sorted({each["turns"] for one in workloads.values() for each in one["balancers"].values()})
    count = " to ".join(str(number) for number in dict.fromkeys((turns[0], turns[-1])))
    return f"{count} turns each, interleaved; medians, in brackets the extremes of the turns."


def _median(one: Mapping[str, Any] | None, what: str) -> str:
    return shown(one[what]["median"]) if one else ""


def _over(found: Mapping[str, Any] | None) -> str:
    if not found or found["median"] is None:
        return ""
    return f"{found['median']:.2f} ({found['min']:.2f}–{found['max']:.2f})"


def _bar(one: Mapping[str, Any]) -> str:
    if one["bar"] is None:
        return ""
    now = ratio(one)
    verdict = "not measured" if now is None else "holds" if now["median"] <= one["bar"] else "**missed**"
    over = "" if one["over"] == "haproxy" else f" of {one['over']}"
    return f"{one['bar']:.2f}{over}: {verdict}"


def costs(workloads: Workloads, names: Sequence[str], versions: Mapping[str, str], base: str) -> list[str]:
    """CPU per request of each balancer, the ratios over ``base``'s, and the bars where there are any."""
    others = [name for name in names if name != base]
    titles = [label(name, versions) for name in names]
    barred = any(one["bar"] is not None for one in workloads.values())
    head = ["workload", *(f"{title}, µs" for title in titles)]
    head += [f"{label(name, versions)} / {label(base, versions)}" for name in others]
    head += ["bar of pylb"] if barred else []
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, one in workloads.items():
        there = one["balancers"]
        row = [name, *(_median(there.get(who), "us") for who in names)]
        row += [_over(there[who]["over"].get(base)) if who in there else "" for who in others]
        row += [_bar(one)] if barred else []
        lines.append(f"| {' | '.join(row)} |")
    return lines


def answers(workloads: Workloads, names: Sequence[str], versions: Mapping[str, str]) -> list[str]:
    """Requests per second and the 99th percentile of response times of each balancer; and what failed."""
    titles = [label(name, versions) for name in names]
    head = ["workload", *(f"{title}, {what}" for what in ("requests/s", "p99 ms") for title in titles)]
    lines = [f"| {' | '.join([*head, 'failed'])} |", "|---" * (len(head) + 1) + "|"]
    for name, one in workloads.items():
        there = one["balancers"]
        row = [name, *(_median(there.get(who), what) for what in ("rps", "p99_ms") for who in names)]
        failed = [f"{label(who, versions)} {of['failed']}" for who, of in there.items() if of["failed"]]
        lines.append(f"| {' | '.join([*row, ', '.join(failed) or '0'])} |")
    return lines


def draw(workloads: Workloads, names: Sequence[str], versions: Mapping[str, str], path: Path) -> None:
    """CPU per request over HAProxy's, as bars on a logarithmic scale, with the extremes and pylb's bars."""
    keys = list(workloads)
    drawn = [name for name in names if name in COLOURS]
    figure, axes = pyplot().subplots(figsize=(9, 0.5 * len(keys) + 1.6), layout="constrained")
    for number, name in enumerate(drawn):
        for place, key in enumerate(keys):
            one = workloads[key]["balancers"].get(name)
            over = one["over"].get("haproxy") if one else None
            if not over or over["median"] is None:
                continue
            at = place + (number - (len(drawn) - 1) / 2) * 0.8 / len(drawn)
            axes.barh(
                at,
                over["median"],
                0.72 / len(drawn),
                color=COLOURS[name],
                label=label(name, versions) if place == 0 else None,
                xerr=[[over["median"] - over["min"]], [over["max"] - over["median"]]],
                error_kw={"elinewidth": 0.8},
            )
    bars = [(one["bar"], place) for place, one in enumerate(workloads.values()) if one["over"] == "haproxy"]
    barred = [(bar, place) for bar, place in bars if bar is not None]
    if barred:
        axes.plot(*zip(*barred, strict=True), "k|", markersize=16, label="pylb's bar")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(keys)), keys)
    axes.invert_yaxis()
    axes.set_xlabel(f"CPU per request over that of {label('haproxy', versions)} (less is better)")
    axes.grid(axis="x", alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot().close(figure)
