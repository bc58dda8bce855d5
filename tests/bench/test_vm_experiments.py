"""What the experiments with guests conclude from what they saw; no guest is needed for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.vm import demo, figure4, killed, tails, vcpus
from bench.vm.scene import read_wrk, used

_WRK = """\
Running 5s test @ http://10.213.1.2:8080/
  1 threads and 250 connections
  1234 requests in 5.01s, 0.3MB read
{errors}Requests/sec:    246.31
Transfer/sec:     61.02KB
{cdf}MOST 2500000
"""


def test_what_wrk_says() -> None:
    cdf = "".join(f"CDF {1000 * step}\n" for step in range(1, 1000))
    seen = read_wrk(_WRK.format(errors="", cdf=cdf))
    assert (seen["requests"], seen["rps"], seen["failed"]) == (1234, 246.31, 0)
    assert (seen["p50_ms"], seen["p99_ms"], seen["most_ms"]) == (500, 990, 2500)
    assert len(seen["cdf"]) == 199
    errors = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 5\n"
    seen = read_wrk(_WRK.format(errors=errors, cdf=cdf))
    assert (seen["failed"], seen["timeouts"]) == (15, 4)
    with pytest.raises(ValueError, match="unable to connect"):
        read_wrk("unable to connect to 10.213.1.2:8080 Connection refused")


def test_cores_between_two_moments() -> None:
    assert used({"lb": 1.0, "rest": 5.0, "at": 10.0}, {"lb": 2.5, "rest": 5.5, "at": 12.0}) == {
        "lb": 0.75,
        "rest": 0.25,
    }


def turn(mode: str, rps: float, p50: float) -> dict[str, Any]:
    cores = {"lb": 1.0, "web-1": 0.1, "web-2": 0.1, "extra": 0.6, "rest": 0.2}
    times = {"p50_ms": p50, "p99_ms": 3 * p50, "most_ms": 4 * p50}
    more: dict[str, Any] = {"requests": int(5 * rps), "failed": 0, "timeouts": 0, "workers": 2}
    more |= {"preferred_after": 1.0, "again": []}
    return {"mode": mode, "rps": rps, "cores": cores, **times, **more}


def rounds(l_times: float) -> dict[str, Any]:
    """Base differs from round to round, and L answers so many times as much in each."""
    found = []
    for base in (100.0, 300.0, 200.0):
        rates = {"Base": base, "L/A": 0.6 * base, "L": l_times * base, "L/W": 2 * base}
        found.append({mode: turn(mode, rate, 60_000 / rate) for mode, rate in rates.items()})
    cdf = dict.fromkeys(figure4.MODES, [300.0] * 199)
    return {"machine": {"cpu": "2 x test"}, "accelerator": "tcg", "load": 0.1, "rounds": found, "cdf": cdf}


def test_figure_4_is_judged_within_rounds(tmp_path: Path) -> None:
    found = rounds(1.6)
    assert figure4.ratios(found, "L") == pytest.approx([1.6] * 3)
    assert [so for _, _, so in figure4.claims(found)] == [True, True, True]
    page = figure4.page(found)
    assert "| balancer (L) | 320 (240–400) | 1.60 (1.60–1.60) |" in page
    assert "L answers 1.60 times as many as Base (wanted: 1.5)" in page
    assert "None of the 12 turns" in page
    found["rounds"][1]["L"]["again"] = ["the controller doesn't answer"]
    assert "12 turns 1 failed and were taken again: L: the controller doesn't answer. " in figure4.page(found)
    assert [so for _, _, so in figure4.claims(rounds(0.5))] == [False, False, True]
    figure4.draw(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def story(lent: int, taken: int, acts: int) -> dict[str, Any]:
    workers = {demo.CALM: 1, demo.LENT: lent, demo.TAKEN: taken, demo.ACTS: acts, demo.ENDED: 1}
    samples: list[dict[str, Any]] = []
    for phase, count in workers.items():
        for step in range(12):
            cores = {"lb": 0.9 * count, "neighbour": 0.5, "rest": 0.1}
            preferred = phase == demo.ACTS or (phase == demo.ENDED and step < 6)
            sample = {"at": len(samples) / 4, "phase": phase, "rps": 500.0 * count, "cores": cores}
            samples.append(sample | {"workers": count, "leased": count, "preferred": preferred})
    return {"machine": {}, "accelerator": "tcg", "samples": samples, "actions": [], "decisions": []}


def test_the_demos_story(tmp_path: Path) -> None:
    assert list(demo.checks(story(2, 1, 2)).values()) == [True] * 4
    assert list(demo.checks(story(1, 1, 1)).values()) == [False, True, False, True]
    assert list(demo.checks(story(2, 2, 2)).values()) == [True, False, False, True]
    del (found := story(2, 1, 2))["samples"][5]["workers"]  # the controller was just started anew
    assert "| load, the neighbour sleeps | 2.0 | 1.80 | 0.50 | 0.10 | 1000 |" in demo.page(found)
    demo.draw(found, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").stat().st_size > 10_000


def test_pages_of_vcpus_and_tails() -> None:
    taken = {"online_call": 0.1, "up": 0.7, "offline_call": 0.1, "down": 2.5}
    page = vcpus.page(
        {
            "machine": {},
            "accelerator": "tcg",
            "before": 1,
            "limits": [1, 2],
            "turns": {vcpus.HOST: [taken] * 3},
            "reasons": {vcpus.HOST: ["because"]},
            "acting": [{"online": 1.0, "serving": 1.5, "offline": None}],
        }
    )
    assert "| 0.70 s | 0.70 s | 3 of 3 | 0.10 s |" in page
    assert "| 2.50 s | 2.50 s | 0 of 3 | 0.10 s |" in page
    assert "| 1.00 s | 1.50 s | not lent |" in page
    ends = {name: 2 for name in tails.COUNTERS}
    times = {"count": 64, "p99_ms": 900.0, "most_ms": 1000.0, "late": 1}
    seen = {
        "rps": 100.0,
        "first": times,
        "later": times,
        "late_ms": {"most": 20.0},
        "guest": ends,
        "host": ends,
    }
    found = {
        "machine": {},
        "accelerator": "tcg",
        "turns": [{"server": "pylb", "neighbour": "sleeps", **seen}],
    }
    assert (
        "| sleeps | pylb | 100 | 1000 ms | 1 of 64 | 900 ms | 1000 ms | 1 of 64 | 20 ms | 4 | 16 |"
        in tails.page(found)
    )


def test_the_kernels_counters() -> None:
    text = "Tcp: InSegs RetransSegs\nTcp: 7 5\nTcpExt: TCPTimeouts ListenDrops New\nTcpExt: 3 2 1\n"
    found = tails.counters(text)
    assert (found["RetransSegs"], found["TCPTimeouts"], found["ListenDrops"]) == (5, 3, 2)
    assert found["ListenOverflows"] == 0


def test_the_page_of_a_killed_controller() -> None:
    turn = {"usual": 1024, "given": 10240, "killed": 10240, "lent": True, "seconds": 0.5, "ended": 1024}
    turns: list[dict[str, Any]] = [
        {**turn, "case": case, "said": [f"said {case}"], "good": True} for case in killed.CASES
    ]
    turns[0]["offline"] = 0.25
    lines = killed.page({"machine": {}, "accelerator": "tcg", "turns": turns})
    assert "| the load ends | 1024 | 10240 | 10240 | 1024 | 0.50 s | 0.25 s later | 1024 | yes |" in lines
    assert f"- {killed.GOES_ON}: said {killed.GOES_ON}" in lines
    assert any("| 1024, then 10240 | 0.50 s | — |" in line for line in lines)
    assert any("| 3000 | 0.50 s | **not** | 1024 |" in line for line in lines)
