"""What stays of the turns that `figures.py` measured: medians with their spread, and adaptive's shares.

Rates are compared at equal speed of the machine (`speed.py`), for which all turns are needed; they are not
kept in the results.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from typing import Any

from bench.rig.report import quantile, spread, together
from bench.speed import at_equal_speed, explained

Runs = dict[str, dict[str, list[dict[str, Any]]]]
"""By set-up, balancer and repetition."""
_ASIDE = ("cdf_ms", "turns", "warm_up")


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
    return best, {
        count: [rate / of for rate, of in zip(one, by_repetition[best], strict=True)]
        for count, one in by_repetition.items()
    }


def standard_error(shares: list[float]) -> float:
    """Of the geometric mean of shares, as a fraction of it; nan for fewer than two."""
    if len(shares) < 2:
        return math.nan
    return statistics.stdev(map(math.log, shares)) / math.sqrt(len(shares))


def _adaptive(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Adaptive beside each fixed count of a set-up."""
    best, by_count = shares(found)

    def condensed(one: list[float]) -> dict[str, float | None]:
        error = standard_error(one)
        return {
            "mean": statistics.geometric_mean(one),
            "error": None if math.isnan(error) else error,
            "min": min(one),
            "max": max(one),
        }

    pairs = zip(found["pylb adaptive"], found[f"pylb {best}"], strict=True)
    return {
        "best": best,
        "shares": {count: condensed(one) for count, one in by_count.items()},
        "uncorrected": statistics.geometric_mean(ours["rps"] / of["rps"] for ours, of in pairs),
    }


def _cell(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All repetitions of one balancer in one set-up; ``turns`` is how many there were."""
    found = together([{key: run[key] for key in run if key not in _ASIDE} for run in runs])
    columns = [spread(column) for column in zip(*(run["cdf_ms"] for run in runs), strict=True)]
    return found | {"cdf_ms": {what: [one[what] for one in columns] for what in ("median", "min", "max")}}


def condensed(runs: Runs) -> dict[str, Any]:
    """The part of the results that is about the turns.

    ``cells`` by set-up and balancer; ``adaptive`` by set-up; the ``speed`` of the machine over all turns; how
    many repetitions had which seconds of load before each turn (``warm_ups``).
    """
    by_setup = [turns_of(found) for found in runs.values()]
    speeds = [speed for turns in by_setup for cells in turns.values() for one in cells for _, speed in one]
    first = next(iter(next(iter(runs.values())).values()))
    seconds = Counter(run["warm_up"] for run in first)
    return {
        "cells": {key: {name: _cell(one) for name, one in found.items()} for key, found in runs.items()},
        "adaptive": {key: _adaptive(found) for key, found in runs.items() if "pylb adaptive" in found},
        "speed": {
            "lowest": quantile(speeds, 0.05) / quantile(speeds, 0.95),
            "explains": statistics.median(explained(turns) for turns in by_setup),
        },
        "warm_ups": {f"{value:g}": seconds[value] for value in sorted(seconds)},
    }
