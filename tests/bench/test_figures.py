"""Claims are judged by what was measured, both ways."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bench.figure_drawing import adaptive, claims, failures, page
from bench.figure_turns import condensed, standard_error
from bench.figures import CONNECTIONS, QUANTILES, TURNS, name_of, summary, variants
from bench.rig.load import Outcome
from bench.setups import SETUPS


def result(rate: float, workers: float = 1) -> dict[str, Any]:
    """A run with so many requests per second by 250 clients."""
    outcome = Outcome(seconds=10.0)
    outcome.latencies.extend(250 / rate * (0.5 + step / 1000) for step in range(1000))
    one = summary(outcome) | {"rps": rate, "answered": int(rate * 5), "balancer_cores": 1.0}
    return one | {"workers": workers, "warm_up": 2.5, "turns": [(rate, 5.0)] * 3}


def measured(rates: dict[int, float]) -> dict[str, Any]:
    """The same rates by count (0: adaptive) in every set-up, twice, as the results have it."""
    return condensed(
        {
            setup.key: {name_of(*one): [result(rates[one[1]])] * 2 for one in variants(setup)}
            for setup in SETUPS
        }
    )


def test_quantiles_are_of_the_answers() -> None:
    one = result(1000)
    assert len(one["cdf_ms"]) == QUANTILES + 1
    assert one["cdf_ms"][0] <= one["p10_ms"] <= one["p50_ms"] <= one["p90_ms"] <= one["cdf_ms"][-1]
    assert one["cdf_ms"][-1] == round(1000 * 0.25 * 1.499, 2)


def test_claims_agree_or_disagree_by_the_figures() -> None:
    as_in_the_paper = claims(measured({0: 2000, 1: 1000, 2: 2000, 3: 2600, 4: 1500})["cells"])
    assert {one.figure for one in as_in_the_paper} == {"2a", "2b", "2c", "3", "4"}
    verdict = {one.says: one.agrees for one in as_in_the_paper}
    assert verdict["pylb: 2 processes answer sooner than 1"]
    assert verdict["pylb: 4 processes are slower than 2"]
    assert not verdict["pylb, 1 vCPU: processes gain nothing"]
    flat = {one.says: one.agrees for one in claims(measured(dict.fromkeys(range(5), 1000.0))["cells"])}
    assert not flat["HAProxy: 2 processes answer sooner than 1"]
    assert flat["HAProxy, 1 vCPU: processes gain nothing"]


def test_turns_divide_the_connections() -> None:
    assert CONNECTIONS % TURNS == 0


def test_the_standard_error_is_that_of_the_logarithms() -> None:
    assert standard_error([1.0, 1.0, 1.0]) == 0
    assert math.isclose(standard_error([math.e**-0.1, math.e**0.1]), 0.1)
    assert math.isnan(standard_error([0.9]))


def test_adaptive_is_held_against_the_best() -> None:
    found = measured({0: 1990, 1: 1000, 2: 2000, 3: 1900, 4: 1500})
    _, holds = adaptive(found["cells"], found["adaptive"])
    assert "**holds**" in holds[0]
    assert "**does not hold**" in holds[1]  # 2 is best everywhere, and adaptive a little behind
    found = measured({0: 1800, 1: 1000, 2: 2000, 3: 1900, 4: 1500})
    _, behind = adaptive(found["cells"], found["adaptive"])
    assert "**does not hold**" in behind[0]


def test_everything_is_written(tmp_path: Path) -> None:
    document = {"machine": {"cpu": "test"}, "core": 0.25, "clients": 250, "connections": 1000}
    document |= measured({0: 2000, 1: 1000, 2: 2000, 3: 2600, 4: 1500})
    assert failures(document["cells"]) == 0  # type: ignore[arg-type]
    lines = page(json.loads(json.dumps(document)), tmp_path)
    drawn = {file.name for file in tmp_path.glob("*.png")}
    assert drawn == {"figure_2a.png", "figure_2b.png", "figure_2c.png", "figure_3.png", "figure_4.png"}
    assert "\n".join(lines).count("| 2a |") >= 4


def test_no_turn_is_kept() -> None:
    cell = measured(dict.fromkeys(range(5), 1000.0))["cells"]["2a"]["pylb 1"]
    assert cell["turns"] == 2  # repetitions
    assert cell["rps"] == {"median": 1000, "min": 1000, "max": 1000}
    assert [len(cell["cdf_ms"][what]) for what in ("median", "min", "max")] == [QUANTILES + 1] * 3
