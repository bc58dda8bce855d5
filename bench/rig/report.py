"""How results are taken together and written: medians with their spread, the machine, Markdown and JSON.

Results keep the median, the extremes and the number of turns of each figure, and no turns.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.rig.command import console
from pylb.interpreter import BUILD


def quantile(values: Iterable[float], share: float) -> float:
    """Of some values, the one that this share of the others does not exceed; nan if there are none."""
    ordered = sorted(values)
    return ordered[round(share * (len(ordered) - 1))] if ordered else float("nan")


def spread(values: Iterable[float | None]) -> dict[str, float | None]:
    """Median, least, most; without those that are None, and None where there is nothing else."""
    there = [value for value in values if value is not None]
    if not there:
        return {"median": None, "min": None, "max": None}
    return {"median": statistics.median(there), "min": min(there), "max": max(there)}


def quartiles(values: Iterable[float]) -> dict[str, float | None]:
    """The `spread`, and between which (``low``, ``high``) the middle half lies."""
    there = sorted(values)
    if not there:
        return spread(()) | {"low": None, "high": None}
    low, _, high = statistics.quantiles(there, n=4, method="inclusive") if len(there) > 1 else there * 3
    return spread(there) | {"low": low, "high": high}


def together(turns: Sequence[Mapping[str, Any]], sums: Sequence[str] = ("failed",)) -> dict[str, Any]:
    """Turns as one: the `spread` of each number, but the sum of ``sums``, and how many ``turns``."""
    names = [name for name, value in turns[0].items() if isinstance(value, int | float | None)]
    found: dict[str, Any] = {name: spread(turn[name] for turn in turns) for name in names if name not in sums}
    return found | {name: sum(turn[name] for turn in turns) for name in names if name in sums} | {
        "turns": len(turns)
    }  # fmt: skip


def shown(value: float | None) -> str:
    """Three digits or more, for a table."""
    if value is None:
        return "none"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def machine() -> dict[str, str]:
    """What this was measured on."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": f"{BUILD.version} ({BUILD.words})",
        "date": time.strftime("%Y-%m-%d"),
    }


def in_words(facts: Mapping[str, str] | None = None) -> str:
    """The facts about the machine in one line, for a page."""
    return "; ".join(f"{key}: {value}" for key, value in (facts or machine()).items())


def rounded(value: Any) -> Any:
    """Numbers with six digits, or whole: more says nothing about what was measured."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if abs(value) < 1e6 else float(round(value))


def write(name: str, document: Mapping[str, Any], lines: Sequence[str], folder: Path) -> None:
    """``name.json``, with the machine unless the document has it, and the page ``name.md``; shows that."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"machine": machine()} | dict(document)
    text = json.dumps(rounded(found), indent=1)
    # What has nothing nested in it stands on one line. (Within strings JSON has no line ends.)
    text = re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda found: re.sub(r"\n\s*", " ", found[0]), text)
    (folder / f"{name}.json").write_text(text + "\n")
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n")
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def pyplot() -> Any:
    """matplotlib.pyplot without a window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as found

    return found
