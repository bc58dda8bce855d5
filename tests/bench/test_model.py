"""The simulated machines keep to what queueing theory and arithmetic say."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from simpy import Environment

from bench.model.fleet import Fleet
from bench.model.machine import Cores, Costs, Process, Vm, spin
from bench.model.report import better, report
from bench.model.scene import CLIENTS, Check, calibrate, held, median_off, run_setup
from bench.model.service import Balancer, Controller, closed_loop, open_loop
from bench.model.tuning import Trial, Trials
from bench.setups import ADAPTIVE, SETUPS
from pylb.scaling.policy import Tuning

COSTS = Costs(worker=0.001, web=0.0004, cold=0.2, control=0.0)
SETUP = {setup.key: setup for setup in SETUPS}


def scene(env: Environment, workers: int | None) -> Balancer:
    """A balancer with two web servers on a host."""
    host = Cores(env, 8)
    web, machine = Vm(env, "web", 2, host, 2), Vm(env, "pylb", 4, host, 1)
    servers = [Process(env, web, COSTS.cold) for _ in range(2)]
    controller = Controller(env, 8, [web, machine])
    chance = random.Random(1)
    return Balancer(env, machine, servers, COSTS, chance, workers, controller, (1, 4))


def test_every_request_is_answered_once_while_the_count_changes() -> None:
    env = Environment()
    balancer = scene(env, None)
    seen: list[tuple[float, float]] = []

    def rate(at: float) -> float:
        return 0.0 if at > 45 else 1500.0 if at < 5 else 100.0

    env.process(open_loop(balancer, rate, env, random.Random(2), seen))
    env.run(50)
    counts = [count for _, count in balancer.counts]
    assert counts[0] == counts[-1] == 1 < max(counts)
    assert len(seen) == balancer.answered == balancer.begun > 5_000
    assert not sum(worker.held for worker in balancer.workers)


def test_a_leaving_worker_loses_no_request() -> None:
    env = Environment()
    balancer = scene(env, 4)
    seen: list[tuple[float, float]] = []
    for _ in range(100):
        balancer.connect(env.now, lambda due: seen.append((env.now, due)))
    env.run(0.005)
    balancer._set(1)
    env.run(5)
    assert len(seen) == 100
    assert [worker.held for worker in balancer.workers] == [0]


def test_one_worker_answers_one_over_its_cost() -> None:
    result = run_setup(SETUP["2b"], 1, COSTS, seconds=4, settle=1)
    assert result.rps == pytest.approx(1 / COSTS.worker, rel=0.02)
    assert result.cores == pytest.approx(1, rel=0.01)


def test_littles_law() -> None:
    env = Environment()
    balancer = scene(env, 3)
    seen: list[tuple[float, float]] = []
    closed_loop(balancer, CLIENTS, env, seen)
    env.run(1)
    del seen[:]
    env.run(6)
    mean = sum(latency for _, latency in seen) / len(seen)
    assert len(seen) / 5 * mean == pytest.approx(CLIENTS, rel=0.03)


@pytest.mark.parametrize("key", ["2a", "2c", "4-Base", "4-LW"])
def test_never_more_cores_than_there_are(key: str) -> None:
    setup = SETUP[key]
    for count in setup.counts:
        result = run_setup(setup, count, COSTS, seconds=1, settle=0.5)
        assert result.cores <= min(count, setup.balancer, setup.cores) + 0.02


def test_cores_are_shared_by_machine_not_by_process() -> None:
    env = Environment()
    host = Cores(env, 2)
    one, four = Vm(env, "one", 1, host, 1), Vm(env, "four", 4, host, 4)
    spin(env, one, 1, 0.0)
    spin(env, four, 4, 0.0)
    env.run(10)
    assert one.used + four.used == pytest.approx(20, rel=0.01)
    assert one.used == pytest.approx(10, rel=0.1)  # the last slices and the memory are rough


def test_more_processes_than_vcpus_lose_what_was_calibrated() -> None:
    """Two or more for each vCPU lose `cold`, and no more when there are more of them."""
    rates = [run_setup(SETUP["2a"], count, COSTS, seconds=2, settle=0.5).rps for count in (2, 4)]
    assert rates[1] == pytest.approx(2 * (1 - COSTS.cold) / COSTS.worker, rel=0.03)
    assert rates[1] < rates[0]


def test_adaptive_stays_within_its_limits_and_finds_the_cores() -> None:
    result = run_setup(SETUP["2a"], ADAPTIVE, COSTS, seconds=2, settle=6)
    assert {count for _, count in result.counts} == {1, 2}
    assert result.workers == 2
    again = run_setup(SETUP["2a"], ADAPTIVE, COSTS, seconds=2, settle=6)
    assert again == result  # the same seed, the same run


def test_the_policy_takes_other_constants() -> None:
    slow = run_setup(SETUP["2a"], ADAPTIVE, COSTS, 1, 5, tuning=Tuning(grow_after=3.0))
    usual = run_setup(SETUP["2a"], ADAPTIVE, COSTS, 1, 5)
    assert slow.counts[1][0] >= usual.counts[1][0] + 2


def test_held_is_a_mean_over_time() -> None:
    assert held([(0.0, 1), (4.0, 3)], 2.0, 6.0) == 2.0
    assert held([(0.0, 1), (4.0, 3), (9.0, 7)], 2.0, 6.0) == 2.0


def test_costs_come_from_four_measured_numbers() -> None:
    def cell(rps: float, cores: float) -> dict[str, dict[str, float]]:
        return {"rps": {"median": rps}, "balancer_cores": {"median": cores}}

    cells = {
        "2b": {"pylb 1": cell(1000, 1.05)},
        "2c": {"pylb 4": cell(2500, 3.0)},
        "2a": {"pylb 4": cell(1560, 2.0)},
    }
    costs = calibrate(cells)
    assert costs.worker == 0.001
    assert costs.web == 0.0004
    assert costs.control == pytest.approx(0.05)
    assert costs.cold == pytest.approx(0.2)


def trials(name: str, p99_ms: float, workers: float) -> Trials:
    return Trials(name, {trace: Trial(p99_ms, 0.1, 100.0, workers, 2.0) for trace in ("steps", "day")})


def test_settings_are_better_only_if_nothing_is_worse() -> None:
    present = trials("present", 100, 3)
    sooner, fewer = trials("settle 0.5", 80, 3), trials("low 0.7", 101, 2.5)
    others = [trials("high 0.7", 80, 3.5), trials("low 0.4", 99, 3), trials("fixed 6", 10, 3)]
    assert better([present, sooner, fewer, *others]) == [sooner, fewer]


def test_everything_is_written(tmp_path: Path) -> None:
    def check(count: str, calibrated: bool, model: float) -> Check:
        return Check("2a", count, calibrated, 1000, model, 200, 100, 1, 1)

    checks = [check("1", False, 1100), check("2", False, 800), check("adaptive", False, 1010)]
    checks.append(check("4", True, 5000))
    assert median_off(checks) == pytest.approx(0.1)
    fleets = [Fleet(16, 2, variant, "3", 5, 50, 0.1, 0, 7, 12, 3) for variant in ("even", "most", "adaptive")]
    document = {"connections": 1000, "cells": {"2a": {"pylb 1": {"turns": 1}}}}
    tried = [trials("present", 100, 3), trials("settle 0.5", 80, 3)]
    report(document, COSTS, checks, fleets, tried, 3, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.md", "model.json"}
    page = (tmp_path / "model.md").read_text()
    assert "**10.0%**" in page
    assert "**settle 0.5** (p99 -20%, workers +0%" in page
    assert json.loads((tmp_path / "model.json").read_text())["checks"][0]["rps"] == 1000


@pytest.mark.parametrize("text", [None, "{", json.dumps({"cells": {"2b": {}}})])
def test_without_figures_it_says_what_to_do(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "figures.json"
    if text is not None:
        file.write_text(text)
    command = [sys.executable, "-m", "bench.model", "--figures", str(file), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "make figures" in done.stderr
