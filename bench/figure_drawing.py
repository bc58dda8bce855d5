"""Draws what `figures.py` measured as the paper draws it, and puts the paper's claims beside the figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rig.report import in_words, pyplot
from bench.setups import SETUPS

Cells = dict[str, dict[str, dict[str, Any]]]
"""By set-up and balancer, as `bench.figure_turns.condensed` gives them."""

COLOURS = {"1": "#8c8c8c", "2": "#3b7dd8", "3": "#2e9e5b", "4": "#c2552d", "adaptive": "#111111"}
TITLES = {setup.key: setup.title for setup in SETUPS}
NEAR = 0.05
"""Two figures within this are the same, as far as a claim goes."""


def _range(one: dict[str, float]) -> str:
    """Median and range, for a table."""
    digits = 0 if one["max"] >= 100 else 1
    return f"{one['median']:.{digits}f} ({one['min']:.{digits}f}–{one['max']:.{digits}f})"


@dataclass
class Claim:
    """What the paper shows in a figure, and what was measured here."""

    figure: str
    says: str
    measured: str
    agrees: bool


def claims(cells: Cells) -> list[Claim]:
    """All claims whose figures were measured, judged by medians over repetitions."""
    found: list[Claim] = []

    def add(figure: str, says: str, judge: Callable[[], tuple[str, bool]]) -> None:
        if all(key in cells for key in figure.split("+")):
            measured, agrees = judge()
            found.append(Claim(figure.split("-")[0].split("+")[0], says, measured, agrees))

    def p50(key: str, name: str) -> float:
        return float(cells[key][name]["p50_ms"]["median"])

    def rate(key: str, name: str) -> float:
        return float(cells[key][name]["rps"]["median"])

    for kind in ("pylb", "haproxy"):

        def two_beat_one(kind: str = kind) -> tuple[str, bool]:
            one, two = p50("2a", f"{kind} 1"), p50("2a", f"{kind} 2")
            return f"median {one:.0f} → {two:.0f} ms", two < one * (1 - NEAR)

        def four_are_slower(kind: str = kind) -> tuple[str, bool]:
            two, four = rate("2a", f"{kind} 2"), rate("2a", f"{kind} 4")
            return f"{two:.0f} → {four:.0f} answered/s", four < two * (1 - NEAR)

        def first_sooner(kind: str = kind) -> tuple[str, bool]:
            first = [cells["2b"][f"{kind} {count}"]["p10_ms"]["median"] for count in (1, 2, 3)]
            text = " → ".join(f"{value:.0f}" for value in first)
            return f"fastest tenth within {text} ms for 1, 2, 3", first[0] > first[1] > first[2]

        def little_after_three(kind: str = kind) -> tuple[str, bool]:
            three, four = rate("2b", f"{kind} 3"), rate("2b", f"{kind} 4")
            return f"{three:.0f} → {four:.0f} answered/s", abs(four / three - 1) < 0.1

        def all_help(kind: str = kind) -> tuple[str, bool]:
            medians = [p50("2c", f"{kind} {count}") for count in (1, 2, 4)]
            text = " → ".join(f"{value:.0f}" for value in medians)
            return f"median {text} ms for 1, 2, 4", medians[0] > medians[1] > medians[2]

        def nothing(kind: str = kind) -> tuple[str, bool]:
            rates = [rate("3-1", f"{kind} {count}") for count in (1, 2, 4)]
            text = ", ".join(f"{value:.0f}" for value in rates)
            return f"{text} answered/s for 1, 2, 4", max(rates) < 1.1 * rates[0]

        def twice(kind: str = kind) -> tuple[str, bool]:
            ratio = rate("3-2", f"{kind} 2") / rate("3-2", f"{kind} 1")
            return f"{ratio:.2f} times", 1.6 <= ratio <= 2.4

        def no_more(kind: str = kind) -> tuple[str, bool]:
            ratio = rate("3-4", f"{kind} 4") / rate("3-4", f"{kind} 2")
            return f"{ratio:.2f} times as many as with 2 processes", ratio < 1.1

        def to_balancer(kind: str = kind) -> tuple[str, bool]:
            base, preferred = p50("4-Base", f"{kind} 2"), p50("4-L", f"{kind} 2")
            return f"median {base:.0f} → {preferred:.0f} ms", preferred < base * (1 - NEAR)

        def to_others(kind: str = kind) -> tuple[str, bool]:
            ours, base, theirs = (p50(f"4-{key}", f"{kind} 2") for key in ("L", "Base", "LA"))
            return f"median {base:.0f} → {theirs:.0f} ms (L: {ours:.0f})", theirs > ours * (1 + NEAR)

        who = "pylb" if kind == "pylb" else "HAProxy"
        add("2a", f"{who}: 2 processes answer sooner than 1", two_beat_one)
        add("2a", f"{who}: 4 processes are slower than 2", four_are_slower)
        add("2b", f"{who}: more processes bring the first responses sooner", first_sooner)
        add("2b", f"{who}: from 3 processes on little changes (within 10 %)", little_after_three)
        add("2c", f"{who}: more processes help the whole distribution", all_help)
        add("3-1", f"{who}, 1 vCPU: processes gain nothing", nothing)
        add("3-2", f"{who}, 2 vCPUs: 2 processes answer about 2 times as much", twice)
        add("3-4", f"{who}, 4 vCPUs: no more than with 2 processes", no_more)
        add("4-Base+4-L", f"{who}: cores given to the balancer shorten response times", to_balancer)
        add("4-LA+4-L+4-Base", f"{who}: cores given to the machine with little I/O are worse", to_others)
    return sorted(found, key=lambda claim: claim.figure)


def repetitions(cells: Cells) -> str:
    """How many there are, in words: set-ups may differ."""
    counts = {one["turns"] for found in cells.values() for one in found.values()}
    return " to ".join(str(count) for count in sorted({min(counts), max(counts)}))


def adaptive(cells: Cells, beside: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Adaptive beside each fixed count: lines of a table, and the verdicts.

    Args:
        beside: by set-up, as `bench.figure_turns.condensed` gives it.
    """
    lines = [
        "| set-up | 1 | 2 | 3 | 4 | adaptive | its workers | of the best fixed | not corrected |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    all_of: dict[str, list[float]] = {}
    worst = ("", math.inf, "")
    for key, one in beside.items():
        found, shares = cells[key], one["shares"]
        for count, share in shares.items():
            all_of.setdefault(count, []).append(share["mean"])
        ours = shares["adaptive"]
        error = math.nan if ours["error"] is None else 100 * ours["error"]
        certain = f"{ours['mean']:.1%} ± {error:.1f}"
        worst = min(worst, (key, ours["mean"], certain), key=lambda one: one[1])
        row = []
        for count in ("1", "2", "3", "4", "adaptive"):
            rate = f"{found[f'pylb {count}']['rps']['median']:.0f}" if f"pylb {count}" in found else ""
            row.append(f"**{rate}**" if count == one["best"] else rate)
        workers = found["pylb adaptive"]["workers"]["median"]
        of_best = f"{certain} ({ours['min']:.0%}–{ours['max']:.0%})"
        lines.append(f"| {key} | {' | '.join(row)} | {workers:.1f} | {of_best} | {one['uncorrected']:.1%} |")
    total = {count: statistics.geometric_mean(share) for count, share in all_of.items() if count != "3"}
    others = max(share for count, share in total.items() if count != "adaptive")
    means = ", ".join(f"{count}: {share:.1%}" for count, share in sorted(total.items()))
    verdicts = [
        f"Adaptive is within 5 % of the best fixed count in every set-up: "
        f"**{'holds' if worst[1] >= 0.95 else 'does not hold'}** (worst: {worst[0]}, {worst[2]}).",
        f"Adaptive is better than every single fixed count over all set-ups: "
        f"**{'holds' if total['adaptive'] > others else 'does not hold'}** "
        f"(geometric means of the share of the best fixed count: {means}).",
    ]
    return lines, verdicts


def _curve(axes: Any, cdf: dict[str, list[float]], **style: Any) -> None:
    """A CDF: the median over repetitions, and their range."""
    share = [step / (len(cdf["median"]) - 1) for step in range(len(cdf["median"]))]
    axes.plot(cdf["median"], share, **style)
    axes.fill_betweenx(share, cdf["min"], cdf["max"], color=style["color"], alpha=0.12, linewidth=0)


def _cdfs(cells: Cells, key: str, path: Path) -> None:
    figure, axes = pyplot().subplots(figsize=(8, 4.8), layout="constrained")
    for name, one in sorted(cells[key].items()):
        kind, count = name.split()
        wide = 2.4 if count == "adaptive" else 1.5
        dash = "-" if kind == "pylb" else ":"
        _curve(axes, one["cdf_ms"], color=COLOURS[count], linestyle=dash, linewidth=wide, label=name)
    longest = max(one["p99_ms"]["median"] for one in cells[key].values())
    axes.set(
        xlabel="response time (ms)",
        ylabel="share of requests answered",
        xlim=(0, 1.15 * longest),
        ylim=(0, 1),
        title=f"Figure {key}: {TITLES[key]}",
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def _bars(cells: Cells, path: Path) -> None:
    keys = [key for key in cells if key.startswith("3-")]
    names = sorted({name for key in keys for name in cells[key]})
    figure, axes = pyplot().subplots(figsize=(8, 4.8), layout="constrained")
    for number, name in enumerate(names):
        kind, count = name.split()
        at = [group + (number - (len(names) - 1) / 2) * 0.8 / len(names) for group in range(len(keys))]
        rates = [{what: 5 * rate for what, rate in cells[key][name]["rps"].items()} for key in keys]
        errors = [
            [one["median"] - one["min"] for one in rates],
            [one["max"] - one["median"] for one in rates],
        ]
        look: dict[str, Any] = {"color": COLOURS[count], "alpha": 1.0 if kind == "pylb" else 0.45}
        if kind != "pylb":
            look["hatch"] = "//"
        high = [one["median"] for one in rates]
        axes.bar(at, high, 0.72 / len(names), yerr=errors, label=name, capsize=2, **look)
    axes.set_xticks(range(len(keys)), [TITLES[key] for key in keys])
    axes.set(ylabel="requests answered in 5 s", title="Figure 3: vCPUs and processes")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _preferences(cells: Cells, path: Path) -> None:
    keys = [key for key in cells if key.startswith("4-")]
    colours = {"4-Base": "#8c8c8c", "4-LA": "#c2552d", "4-L": "#3b7dd8", "4-LW": "#2e9e5b"}
    figure, both = pyplot().subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    for axes, kind in zip(both, ("pylb", "haproxy"), strict=True):
        for key in keys:
            curve = cells[key][f"{kind} 2"]["cdf_ms"]
            _curve(axes, curve, color=colours[key], linewidth=1.6, label=f"{key[2:]}: 2")
            if kind == "pylb":
                curve = cells[key]["pylb adaptive"]["cdf_ms"]
                _curve(axes, curve, color=colours[key], linestyle="--", label=f"{key[2:]}: adaptive")
        longest = max(cells[key][f"{kind} 2"]["p99_ms"]["median"] for key in keys)
        axes.set(xlabel="response time (ms)", xlim=(0, 1.15 * longest), ylim=(0, 1))
        axes.set_title(f"Figure 4: {kind}")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="lower right")
    both[0].set_ylabel("share of requests answered")
    figure.savefig(path, dpi=110)


def draw(cells: Cells, folder: Path) -> list[str]:
    """One PNG per figure; gives their names."""
    made = []
    for key in cells:
        if key.startswith("2"):
            _cdfs(cells, key, folder / f"figure_{key}.png")
            made.append(f"figure_{key}.png")
    for number, one in (("3", _bars), ("4", _preferences)):
        if any(key.startswith(f"{number}-") for key in cells):
            one(cells, folder / f"figure_{number}.png")
            made.append(f"figure_{number}.png")
    return made


def _warm_ups(by_seconds: dict[str, int]) -> str:
    """Seconds of load before each turn, and how many repetitions had them."""
    parts = [f"{seconds} s ({count} repetitions)" for seconds, count in by_seconds.items()]
    return parts[0].partition(" (")[0] if len(parts) == 1 else " or ".join(parts)


def page(document: dict[str, Any], folder: Path) -> list[str]:
    """All of it in Markdown; draws the figures, too."""
    cells: Cells = document["cells"]
    table, verdicts = adaptive(cells, document["adaptive"])
    speed = document["speed"]
    lines = [
        "# The paper's experiments",
        "",
        f"Written by `python -m bench.figures` (`make figures`). {in_words(document['machine'])}.",
        f"A virtual core is {document['core']:g} of a real one ([accuracy](testbed.md)). "
        f"{document['clients']} clients; experiment 1 makes {document['connections']:,} connections with a "
        f"request each, experiment 2 lasts 5 s; {repetitions(cells)} repetitions, medians (range). Within "
        "a repetition all balancers of a set-up take several turns, with "
        f"{_warm_ups(document['warm_ups'])} of load before. "
        f"{failures(cells)} requests failed in all.",
        "",
        "## The paper's claims",
        "",
        "| figure | the paper's claim | measured here | |",
        "|---|---|---|---|",
        *(
            f"| {one.figure} | {one.says} | {one.measured} | {'agrees' if one.agrees else '**disagrees**'} |"
            for one in claims(cells)
        ),
        "",
        "## Adaptive",
        "",
        *(f"- {verdict}" for verdict in verdicts),
        "",
        "Requests per second, medians, the best fixed count in bold. The share of it is of the turns' rates "
        "at equal speed of the machine (bench/speed.py): geometric mean over the repetitions ± its standard "
        "error (range); the last column is the same without that correction. "
        f"The speed, {speed['lowest']:.0%} to 100% in nine of ten turns, explains {speed['explains']:.0%} of "
        "the rates' variance within repetitions.",
        "",
        *table,
        "",
        "## All of it",
        "",
        "| set-up | balancer | answered/s | median ms | p99 ms | cores used |",
        "|---|---|---|---|---|---|",
    ]
    for key, found in cells.items():
        for name, one in sorted(found.items()):
            row = " | ".join(_range(one[what]) for what in ("rps", "p50_ms", "p99_ms", "balancer_cores"))
            lines.append(f"| {key} | {name} | {row} |")
    notes = folder / "figures_notes.md"
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    return [*lines, "", *(f"![{name}]({name})" for name in draw(cells, folder))]


def failures(cells: Cells) -> int:
    """How many requests failed in all."""
    return sum(one["failed"] for found in cells.values() for one in found.values())
