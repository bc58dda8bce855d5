"""The one table: what h2load prints, ratios and bars, and what `make bench-check` finds in recorded results.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.rig.h2load import Load, parse, targets
from bench.rig.report import quartiles
from bench.table_check import differences, missed, slower
from bench.table_report import answers, costs
from bench.turns import measure
from bench.workloads import WORKLOADS, Workload, named, sites

H2LOAD = """starting benchmark...
finished in 1.00s, 20123.00 req/s, 3.96MB/s
requests: 20223 total, 20223 started, 20123 done, 20120 succeeded, 3 failed, 1 errored, 2 timeout
status codes: 20121 2xx, 0 3xx, 0 4xx, 0 5xx
"""


def test_what_h2load_prints_and_logs_is_understood() -> None:
    found = parse(H2LOAD, [f"1700000000000000\t200\t{number}000" for number in range(1, 101)] + [""])
    assert found == {"good": 20120, "rps": 20123.0, "p50_ms": 51.0, "p99_ms": 99.0, "failed": 3}
    with pytest.raises(ValueError, match="not h2load's output"):
        parse("could not connect", [])


def test_heads_of_http2_differ_where_they_should() -> None:
    assert targets(Load("/64k"), "https://127.0.0.1:1") == ["https://127.0.0.1:1/64k"]
    differing = targets(Load(varied=True), "")
    assert len(set(differing)) == len(differing) == 5000


def test_workloads_have_names_of_their_own_and_ask_sites_that_there_are() -> None:
    made = sites(["127.0.0.1:1"])
    assert len({one.name for one in WORKLOADS}) == len(WORKLOADS)
    assert all(made[one.site].tls_port or not one.tls for one in WORKLOADS)
    assert [one.name for one in named("1,000")] == ["1,000 routes, differing heads"]


def _turn(us: float | None) -> dict[str, Any]:
    return {"us": us, "rps": 1000.0, "p50_ms": 1.0, "p99_ms": 2.0, "failed": 0}


def _measured(ours: list[float | None], theirs: list[float], bar: float | None = 1.2) -> dict[str, Any]:
    """A workload, measured with these costs per turn."""
    costs = {"pylb": iter(ours), "haproxy": iter(theirs)}
    one = Workload("small", WORKLOADS[0].load, bar)
    turns = {name: lambda workload, seconds, rest=rest: _turn(next(rest)) for name, rest in costs.items()}
    return {"bar": bar, "over": one.over, "balancers": measure(one, turns, len(theirs), 1)}


def _document(**workloads: dict[str, Any]) -> dict[str, Any]:
    return {"machine": {"cpu": "2 x A", "date": "2026-01-01"}, "workloads": workloads}


def test_ratios_are_taken_turn_by_turn() -> None:
    # A machine that becomes slower by half hits both in the same turn, and the ratio stays.
    found = _measured([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert found["balancers"]["pylb"]["over"]["haproxy"] == pytest.approx(
        {"median": 1.1, "min": 1.1, "max": 1.1, "low": 1.1, "high": 1.1}
    )


def test_the_middle_half_of_the_turns_leaves_the_extremes_out() -> None:
    assert quartiles([5, 1, 2, 3, 100]) == {"median": 3, "min": 1, "max": 100, "low": 2, "high": 5}
    assert quartiles([7]) == {"median": 7, "min": 7, "max": 7, "low": 7, "high": 7}
    assert quartiles([])["high"] is None


BASE = [10.0] * 5


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ([10.5, 10.6, 10.7, 10.8, 10.9], [12.5, 12.6, 12.7, 12.8, 12.9], True),
        ([10.5, 10.6, 10.7, 10.8, 10.9], [10.6, 10.7, 10.8, 10.9, 11.0], False),  # halves overlap
        ([10.50, 10.51, 10.52, 10.53, 10.54], [10.70, 10.71, 10.72, 10.73, 10.74], False),  # 2 %
        ([10.5, 10.6, 10.7, 10.8, 19.0], [12.5, 12.6, 12.7, 12.8, 12.9], True),  # a disturbed turn hides none
        ([10.5, 10.6, 10.7, 10.8, 10.9], [10.5, 10.6, 10.7, 19.0, 10.8], False),  # ... and accuses nobody
        ([9.0, 10.0, 11.0, 13.0, 14.0], [12.0, 12.0, 12.5, 13.0, 13.0], False),  # a noisy one says little
        ([12.5, 12.6, 12.7, 12.8, 12.9], [10.5, 10.6, 10.7, 10.8, 10.9], False),  # faster
        ([10.5, 10.6, 10.7, 10.8, 10.9], [None] * 5, True),
    ],
)
def test_what_got_slower_beyond_the_noise_is_named(
    before: list[float | None], after: list[float | None], named: bool
) -> None:
    old, new = _document(small=_measured(before, BASE)), _document(small=_measured(after, BASE))
    assert bool(slower(old, new)) is named
    assert set(slower(old, new)) <= {"small"}


def test_both_ratios_are_said() -> None:
    old = _document(small=_measured([10.0] * 5, BASE), other=_measured([10.0] * 5, BASE))
    new = _document(small=_measured([12.0] * 5, BASE), other=_measured([10.0] * 5, BASE))
    assert slower(old, new) == {
        "small": "1.00 (1.00 to 1.00) of haproxy's CPU per request, now 1.20 (1.20 to 1.20)"
    }


def test_workloads_that_are_new_or_compared_otherwise_are_not_slower() -> None:
    new = _document(small=_measured([20.0] * 5, BASE))
    assert slower(_document(), new) == {}
    assert slower(_document(small=_measured([10.0] * 5, BASE) | {"over": "nginx"}), new) == {}


def test_missed_bars_are_named_and_a_workload_without_one_never_is() -> None:
    found = _document(
        good=_measured([11.0] * 5, BASE),
        bad=_measured([13.0] * 5, BASE),
        free=_measured([99.0] * 5, BASE, None),
    )
    assert missed(found) == {"bad": "1.30 (1.30 to 1.30) of haproxy's CPU per request, the bar is 1.2"}


def test_results_of_another_machine_are_told_apart() -> None:
    old, new = _document(), _document()
    new["machine"] = {"cpu": "2 x B", "date": "2026-02-01", "commit": "abc"}
    assert differences(old, new, "date") == ["cpu: 2 x A then, 2 x B now", "commit: None then, abc now"]


def test_the_page_has_costs_ratios_and_bars_and_says_what_was_not_answered() -> None:
    workloads = {
        "small": _measured([11.0] * 5, BASE),
        "bad": _measured([13.0] * 5, BASE),
        "none": _measured([None] * 5, BASE),
    }
    names, versions = ["pylb", "haproxy"], {"pylb": "0.1.0", "haproxy": "2.6.12-1+deb12u4"}
    assert costs(workloads, names, versions, "haproxy") == [
        "| workload | pylb 0.1.0, µs | haproxy 2.6.12, µs | pylb 0.1.0 / haproxy 2.6.12 | bar of pylb |",
        "|---|---|---|---|---|",
        "| small | 11.0 | 10.0 | 1.10 (1.10–1.10) | 1.20: holds |",
        "| bad | 13.0 | 10.0 | 1.30 (1.30–1.30) | 1.20: **missed** |",
        "| none | none | 10.0 |  | 1.20: not measured |",
    ]
    assert answers(workloads, names, versions)[2] == "| small | 1000 | 1000 | 2.0 | 2.0 | 0 |"
