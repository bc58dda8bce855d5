"""What `peers.py` measured, as a table and a chart."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console

Turns = list[dict[str, Any]]

COLOURS = {
    "pylb": "#3b7dd8",
    "haproxy": "#111111",
    "nginx": "#2e9e5b",
    "aiohttp": "#c2552d",
    "proxy.py": "#d8a33b",
}


def middle(turns: Turns, what: str) -> float | None:
    """Median over the turns; None where nothing was answered."""
    values = [turn[what] for turn in turns if turn[what] is not None]
    return float(statistics.median(values)) if values else None


def ratios(turns: Turns, base: Turns, what: str = "us") -> list[float]:
    """Turn by turn, over the same turn of ``base``."""
    pairs = zip(turns, base, strict=False)
    return [one[what] / other[what] for one, other in pairs if one[what] and other[what]]


def _shown(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def table(runs: dict[str, dict[str, Turns]]) -> list[str]:
    """A row for each case and balancer; ratios are CPU per request over HAProxy's, median (extremes)."""
    lines = [
        "| case | balancer | CPU µs/request | over HAProxy's | requests/s | p50 ms | p99 ms | failed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, peers in runs.items():
        for name, turns in peers.items():
            over = ratios(turns, peers["haproxy"]) if "haproxy" in peers else []
            ratio = f"{statistics.median(over):.2f} ({min(over):.2f}–{max(over):.2f})" if over else ""
            figures = (middle(turns, what) for what in ("us", "rps", "p50_ms", "p99_ms"))
            us, rps, p50, p99 = (_shown(figure) for figure in figures)
            failed = sum(turn["failed"] for turn in turns)
            shown = f"**{name}**" if name == "pylb" else name
            lines.append(f"| {key} | {shown} | {us} | {ratio} | {rps} | {p50} | {p99} | {failed} |")
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


def draw(runs: dict[str, dict[str, Turns]], path: Path) -> None:
    """CPU per request over HAProxy's, as bars on a logarithmic scale, with the extremes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = [key for key in runs if "haproxy" in runs[key]]
    names = [name for name in COLOURS if any(name in runs[key] for key in keys) and name != "haproxy"]
    figure, axes = pyplot.subplots(figsize=(9, 0.62 * len(keys) + 1.6), layout="constrained")
    for number, name in enumerate(names):
        for place, key in enumerate(keys):
            over = ratios(runs[key].get(name, []), runs[key]["haproxy"])
            if not over:
                continue
            value = statistics.median(over)
            at = place + (number - (len(names) - 1) / 2) * 0.8 / len(names)
            axes.barh(
                at,
                value,
                0.72 / len(names),
                color=COLOURS[name],
                label=name if place == 0 else None,
                xerr=[[value - min(over)], [max(over) - value]],
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
    pyplot.close(figure)


def write(document: dict[str, Any], folder: Path, console: Console) -> None:
    """Markdown and PNG beside the JSON."""
    runs = document["runs"]
    draw(runs, folder / "peers.png")
    turns = max(len(turns) for peers in runs.values() for turns in peers.values())
    facts = document["machine"] | document["versions"]
    about = "; ".join(f"{key}: {value}" for key, value in facts.items())
    lines = [
        "# Balancers side by side",
        "",
        f"Written by `python -m bench.peers` (`make peers`). {about}.",
        f"{turns} turns each, interleaved; medians. With 1 worker the balancer has a CPU of its own, with 2 "
        "it shares both with the load, so compare CPU per request rather than throughput.",
        "",
        *table(runs),
        "",
        "Memory of idle client connections (proportional set size of all processes):",
        "",
        *idle_table(document["idle"]),
        "",
        "![CPU per request](peers.png)",
    ]
    (folder / "peers.md").write_text("\n".join(lines) + "\n")
    console.print("\n".join(lines), markup=False)
    (folder / "peers.json").write_text(json.dumps(document) + "\n")
