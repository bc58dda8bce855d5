"""Draws what `figures.py` measured as the paper draws it, and puts the paper's claims beside the figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.setups import SETUPS
from bench.speed import at_equal_speed, explained

Runs = dict[str, dict[str, list[dict[str, Any]]]]

COLOURS = {"1": "#8c8c8c", "2": "#3b7dd8", "3": "#2e9e5b", "4": "#c2552d", "adaptive": "#111111"}
TITLES = {setup.key: setup.title for setup in SETUPS}
NEAR = 0.05
"""Two figures within this are the same, as far as a claim goes."""


def middle(runs: list[dict[str, Any]], what: str) -> float:
    """Median over the repetitions."""
    return float(statistics.median(run[what] for run in runs))


def spread(runs: list[dict[str, Any]], what: str) -> str:
    """Median and range, for a table."""
    values = [run[what] for run in runs]
    digits = 0 if max(values) >= 100 else 1
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


@dataclass
class Claim:
    """What the paper shows in a figure, and what was measured here."""

    figure: str
    says: str
    measured: str
    agrees: bool


def claims(runs: Runs) -> list[Claim]:
    """All claims whose figures were measured, judged by medians over repetitions."""
    found: list[Claim] = []

    def add(figure: str, says: str, judge: Callable[[], tuple[str, bool]]) -> None:
        if all(key in runs for key in figure.split("+")):
            measured, agrees = judge()
            found.append(Claim(figure.split("-")[0].split("+")[0], says, measured, agrees))

    def p50(key: str, name: str) -> float:
        return middle(runs[key][name], "p50_ms")

    def rate(key: str, name: str) -> float:
        return middle(runs[key][name], "rps")

    for kind in ("pylb", "haproxy"):

        def two_beat_one(kind: str = kind) -> tuple[str, bool]:
            one, two = p50("2a", f"{kind} 1"), p50("2a", f"{kind} 2")
            return f"median {one:.0f} → {two:.0f} ms", two < one * (1 - NEAR)

        def four_are_slower(kind: str = kind) -> tuple[str, bool]:
            two, four = rate("2a", f"{kind} 2"), rate("2a", f"{kind} 4")
            return f"{two:.0f} → {four:.0f} answered/s", four < two * (1 - NEAR)

        def first_sooner(kind: str = kind) -> tuple[str, bool]:
            first = [middle(runs["2b"][f"{kind} {count}"], "p10_ms") for count in (1, 2, 3)]
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


def repetitions(runs: Runs) -> str:
    """How many there are, in words: set-ups may differ."""
    counts = {len(one) for found in runs.values() for one in found.values()}
    return " to ".join(str(count) for count in sorted({min(counts), max(counts)}))


def turns_of(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[list[tuple[float, float]]]]:
    """Rate and speed of each turn of pylb in a set-up, by count and repetition."""
    return {
        name.split()[1]: [run["turns"] for run in one]
        for name, one in found.items()
        if name.startswith("pylb")
    }


def shares(found: dict[str, list[dict[str, Any]]]) -> tuple[str, dict[str, list[float]]]:
    """pylb's best fixed count in a set-up, and what each count answered of it, by repetition.

    Geometric means over turns, at equal speed of the machine.
    """
    by_repetition = {
        count: [statistics.geometric_mean(one) for one in cells]
        for count, cells in at_equal_speed(turns_of(found)).items()
    }
    fixed = by_repetition.keys() - {"adaptive"}
    best = max(fixed, key=lambda count: statistics.geometric_mean(by_repetition[count]))
    shares = {
        count: [rate / of for rate, of in zip(one, by_repetition[best], strict=True)]
        for count, one in by_repetition.items()
    }
    return best, shares


def standard_error(shares: list[float]) -> float:
    """Of the geometric mean of shares, as a fraction of it; nan for fewer than two."""
    if len(shares) < 2:
        return math.nan
    return statistics.stdev(map(math.log, shares)) / math.sqrt(len(shares))


def adaptive(runs: Runs) -> tuple[list[str], list[str]]:
    """Adaptive beside each fixed count: lines of a table, and the verdicts."""
    lines = [
        "| set-up | 1 | 2 | 3 | 4 | adaptive | its workers | of the best fixed | not corrected |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    all_of: dict[str, list[float]] = {}
    worst = ("", math.inf, "")
    for key, found in runs.items():
        if "pylb adaptive" not in found:
            continue
        best, by_count = shares(found)
        for count, share in by_count.items():
            all_of.setdefault(count, []).append(statistics.geometric_mean(share))
        ours = by_count["adaptive"]
        mean = statistics.geometric_mean(ours)
        certain = f"{mean:.1%} ± {100 * standard_error(ours):.1f}"
        worst = min(worst, (key, mean, certain), key=lambda one: one[1])
        cells = []
        for count in ("1", "2", "3", "4", "adaptive"):
            rate = f"{middle(found[f'pylb {count}'], 'rps'):.0f}" if f"pylb {count}" in found else ""
            cells.append(f"**{rate}**" if count == best else rate)
        workers = middle(found["pylb adaptive"], "workers")
        of_best = f"{certain} ({min(ours):.0%}–{max(ours):.0%})"
        as_it_is = statistics.geometric_mean(
            ours["rps"] / of["rps"]
            for ours, of in zip(found["pylb adaptive"], found[f"pylb {best}"], strict=True)
        )
        lines.append(f"| {key} | {' | '.join(cells)} | {workers:.1f} | {of_best} | {as_it_is:.1%} |")
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


def _curve(axes: Any, runs: list[dict[str, Any]], **style: Any) -> None:
    """A CDF: the median over repetitions, and their range."""
    columns = list(zip(*(run["cdf_ms"] for run in runs), strict=True))
    share = [step / (len(columns) - 1) for step in range(len(columns))]
    axes.plot([statistics.median(column) for column in columns], share, **style)
    low, high = [min(column) for column in columns], [max(column) for column in columns]
    axes.fill_betweenx(share, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _cdfs(runs: Runs, key: str, path: Path, pyplot: Any) -> None:
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    for name, one in sorted(runs[key].items()):
        kind, count = name.split()
        wide = 2.4 if count == "adaptive" else 1.5
        dash = "-" if kind == "pylb" else ":"
        _curve(axes, one, color=COLOURS[count], linestyle=dash, linewidth=wide, label=name)
    longest = max(middle(one, "p99_ms") for one in runs[key].values())
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
    pyplot.close(figure)


def _bars(runs: Runs, path: Path, pyplot: Any) -> None:
    keys = [key for key in runs if key.startswith("3-")]
    names = sorted({name for key in keys for name in runs[key]})
    figure, axes = pyplot.subplots(figsize=(8, 4.8), layout="constrained")
    for number, name in enumerate(names):
        kind, count = name.split()
        at = [group + (number - (len(names) - 1) / 2) * 0.8 / len(names) for group in range(len(keys))]
        high = [5 * middle(runs[key][name], "rps") for key in keys]
        all_of = [[5 * run["rps"] for run in runs[key][name]] for key in keys]
        low_error = [value - min(one) for value, one in zip(high, all_of, strict=True)]
        up_error = [max(one) - value for value, one in zip(high, all_of, strict=True)]
        look: dict[str, Any] = {"color": COLOURS[count], "alpha": 1.0 if kind == "pylb" else 0.45}
        if kind != "pylb":
            look["hatch"] = "//"
        axes.bar(at, high, 0.72 / len(names), yerr=[low_error, up_error], label=name, capsize=2, **look)
    axes.set_xticks(range(len(keys)), [TITLES[key] for key in keys])
    axes.set(ylabel="requests answered in 5 s", title="Figure 3: vCPUs and processes")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _preferences(runs: Runs, path: Path, pyplot: Any) -> None:
    keys = [key for key in runs if key.startswith("4-")]
    colours = {"4-Base": "#8c8c8c", "4-LA": "#c2552d", "4-L": "#3b7dd8", "4-LW": "#2e9e5b"}
    figure, both = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    for axes, kind in zip(both, ("pylb", "haproxy"), strict=True):
        for key in keys:
            _curve(axes, runs[key][f"{kind} 2"], color=colours[key], linewidth=1.6, label=f"{key[2:]}: 2")
            if kind == "pylb":
                label = f"{key[2:]}: adaptive"
                _curve(axes, runs[key]["pylb adaptive"], color=colours[key], linestyle="--", label=label)
        longest = max(middle(runs[key][f"{kind} 2"], "p99_ms") for key in keys)
        axes.set(xlabel="response time (ms)", xlim=(0, 1.15 * longest), ylim=(0, 1))
        axes.set_title(f"Figure 4: {kind}")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="lower right")
    both[0].set_ylabel("share of requests answered")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw(runs: Runs, folder: Path) -> list[str]:
    """One PNG per figure; gives their names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made = []
    for key in runs:
        if key.startswith("2"):
            _cdfs(runs, key, folder / f"figure_{key}.png", pyplot)
            made.append(f"figure_{key}.png")
    if any(key.startswith("3-") for key in runs):
        _bars(runs, folder / "figure_3.png", pyplot)
        made.append("figure_3.png")
    if any(key.startswith("4-") for key in runs):
        _preferences(runs, folder / "figure_4.png", pyplot)
        made.append("figure_4.png")
    return made


def _spread_of_speed(runs: Runs) -> str:
    by_setup = [turns_of(found) for found in runs.values()]
    speeds = sorted(
        speed for turns in by_setup for cells in turns.values() for one in cells for _, speed in one
    )
    low, high = (speeds[round(share * (len(speeds) - 1))] for share in (0.05, 0.95))
    part = statistics.median(explained(turns) for turns in by_setup)
    return (
        f"{low / high:.0%} to 100% in nine of ten turns, explains {part:.0%} of the rates' variance within "
        "repetitions"
    )


def _warm_ups(runs: Runs) -> str:
    """Seconds of load before each turn, and how many repetitions had them."""
    first = next(iter(next(iter(runs.values())).values()))
    seconds = [run["warm_up"] for run in first]
    parts = [f"{value:g} s ({seconds.count(value)} repetitions)" for value in sorted(set(seconds))]
    return parts[0].partition(" (")[0] if len(parts) == 1 else " or ".join(parts)


def write(document: dict[str, Any], folder: Path, console: Console) -> int:
    """The figures and the page about them; gives how many requests failed in all."""
    runs: Runs = document["runs"]
    table, verdicts = adaptive(runs)
    failed: int = sum(run["failed"] for found in runs.values() for one in found.values() for run in one)
    about = "; ".join(f"{key}: {value}" for key, value in document["machine"].items())
    lines = [
        "# The paper's experiments",
        "",
        f"Written by `python -m bench.figures` (`make figures`). {about}.",
        f"A virtual core is {document['core']:g} of a real one ([accuracy](testbed.md)). "
        f"{document['clients']} clients; experiment 1 makes {document['connections']:,} connections with a "
        f"request each, experiment 2 lasts 5 s; {repetitions(runs)} repetitions, medians (range). Within "
        f"a repetition all balancers of a set-up take several turns, with {_warm_ups(runs)} of load before. "
        f"{failed} requests failed in all.",
        "",
        "## The paper's claims",
        "",
        "| figure | the paper's claim | measured here | |",
        "|---|---|---|---|",
        *(
            f"| {one.figure} | {one.says} | {one.measured} | {'agrees' if one.agrees else '**disagrees**'} |"
            for one in claims(runs)
        ),
        "",
        "## Adaptive",
        "",
        *(f"- {verdict}" for verdict in verdicts),
        "",
        "Requests per second, medians, the best fixed count in bold. The share of it is of the turns' rates "
        "at equal speed of the machine (bench/speed.py): geometric mean over the repetitions ± its standard "
        "error (range); the last column is the same without that correction. "
        f"The speed, {_spread_of_speed(runs)}.",
        "",
        *table,
        "",
        "## All of it",
        "",
        "| set-up | balancer | answered/s | median ms | p99 ms | cores used |",
        "|---|---|---|---|---|---|",
    ]
    for key, found in runs.items():
        for name, one in sorted(found.items()):
            cells = " | ".join(spread(one, what) for what in ("rps", "p50_ms", "p99_ms", "balancer_cores"))
            lines.append(f"| {key} | {name} | {cells} |")
    notes = folder / "figures_notes.md"
    if notes.exists():
        lines += ["", notes.read_text().strip()]
    lines += ["", *(f"![{name}]({name})" for name in draw(runs, folder))]
    (folder / "figures.md").write_text("\n".join(lines) + "\n")
    console.print("\n".join(lines[:60]), markup=False)
    return failed
