"""Claims are judged by what was measured, both ways."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

from bench.load import Outcome
from rich.console import Console

from bench.figure_drawing import adaptive, claims, standard_error, write
from bench.figures import CONNECTIONS, QUANTILES, TURNS, name_of, summary, variants
from bench.setups import SETUPS


def result(rate: float, workers: float = 1) -> dict[str, Any]:
    """A run with so many requests per second by 250 clients."""
    outcome = Outcome(seconds=10.0)
    outcome.latencies.extend(250 / rate * (0.5 + step / 1000) for step in range(1000))
    one = summary(outcome) | {"rps": rate, "answered": int(rate * 5), "balancer_cores": 1.0}
    return one | {"workers": workers, "warm_up": 2.5, "turns": [(rate, 5.0)] * 3}


def runs(rates: dict[int, float]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The same rates by count (0: adaptive) in every set-up."""
    return {
        setup.key: {name_of(*one): [result(rates[one[1]])] * 2 for one in variants(setup)} for setup in SETUPS
    }


def test_quantiles_are_of_the_answers() -> None:
    one = result(1000)
    assert len(one["cdf_ms"]) == QUANTILES + 1
    assert one["cdf_ms"][0] <= one["p10_ms"] <= one["p50_ms"] <= one["p90_ms"] <= one["cdf_ms"][-1]
    assert one["cdf_ms"][-1] == round(1000 * 0.25 * 1.499, 2)


def test_claims_agree_or_disagree_by_the_figures() -> None:
    as_in_the_paper = claims(runs({0: 2000, 1: 1000, 2: 2000, 3: 2600, 4: 1500}))
    assert {one.figure for one in as_in_the_paper} == {"2a", "2b", "2c", "3", "4"}
    verdict = {one.says: one.agrees for one in as_in_the_paper}
    assert verdict["pylb: 2 processes answer sooner than 1"]
    assert verdict["pylb: 4 processes are slower than 2"]
    assert not verdict["pylb, 1 vCPU: processes gain nothing"]
    flat = {one.says: one.agrees for one in claims(runs(dict.fromkeys(range(5), 1000.0)))}
    assert not flat["HAProxy: 2 processes answer sooner than 1"]
    assert flat["HAProxy, 1 vCPU: processes gain nothing"]


def test_turns_divide_the_connections() -> None:
    assert CONNECTIONS % TURNS == 0


def test_the_standard_error_is_that_of_the_logarithms() -> None:
    assert standard_error([1.0, 1.0, 1.0]) == 0
    assert math.isclose(standard_error([math.e**-0.1, math.e**0.1]), 0.1)
    assert math.isnan(standard_error([0.9]))


def test_adaptive_is_held_against_the_best() -> None:
    _, holds = adaptive(runs({0: 1990, 1: 1000, 2: 2000, 3: 1900, 4: 1500}))
    assert "**holds**" in holds[0]
    assert "**does not hold**" in holds[1]  # 2 is best everywhere, and adaptive a little behind
    _, behind = adaptive(runs({0: 1800, 1: 1000, 2: 2000, 3: 1900, 4: 1500}))
    assert "**does not hold**" in behind[0]


def test_everything_is_written(tmp_path: Path) -> None:
    document = {
        "machine": {"cpu": "test"}, "core": 0.25, "clients": 250, "connections": 1000,
        "runs": runs({0: 2000, 1: 1000, 2: 2000, 3: 2600, 4: 1500}),
    }  # fmt: skip
    assert write(json.loads(json.dumps(document)), tmp_path, Console(file=io.StringIO())) == 0
    drawn = {file.name for file in tmp_path.glob("*.png")}
    assert drawn == {"figure_2a.png", "figure_2b.png", "figure_2c.png", "figure_3.png", "figure_4.png"}
    page = (tmp_path / "figures.md").read_text()
    assert page.count("| 2a |") >= 4
