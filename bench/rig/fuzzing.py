"""Fuzzing: inputs made of seeds, in several processes, until a time or a number of them is reached."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from bench.rig.command import console, parser

PIECE = 200
"""Inputs between two looks at the clock."""


@dataclass(frozen=True)
class Fuzzed:
    """What has come of it."""

    inputs: int
    minutes: float
    first_seed: int
    findings: list[dict[str, str]]
    """Of each its seed, and what was wrong."""
    runs: int = 1


def options(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a fuzzer."""
    found = parser(doc)
    found.add_argument("--minutes", type=float, default=20, help="stop after so many [20]")
    found.add_argument("--inputs", type=int, default=10_000_000, help="stop after so many")
    found.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="[cores]")
    found.add_argument(
        "--more", type=Path, metavar="FILE", help="add the results of an earlier run, a JSON file"
    )
    found.add_argument("--seed", default="", help="repeat one input, as printed with a finding")
    return found


def with_earlier(found: Fuzzed, file: Path, check: Callable[[str], None]) -> Fuzzed:
    """Add what has come of an earlier run, whose findings are checked again."""
    before = json.loads(file.read_text())
    findings = list(found.findings)
    for one in before["findings"]:
        try:
            check(one["seed"])
        except Exception as error:
            findings.append({"seed": one["seed"], "what": f"{type(error).__name__}: {error}"[:2000]})
    minutes = round(found.minutes + before["minutes"], 1)
    inputs, runs = found.inputs + before["inputs"], found.runs + before.get("runs", 1)
    return Fuzzed(inputs, minutes, found.first_seed, findings, runs)


def _work(
    check: Callable[[str], None], first: int, until: float, most: int, counted: Any, found: Any
) -> None:
    os.nice(19)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who has begun it ends it
    number = 0
    while time.monotonic() < until and number < most:
        for _ in range(PIECE):
            seed = f"{first}.{number}"
            number += 1
            try:
                check(seed)
            except Exception as error:  # any exception at all is a finding
                found.put({"seed": seed, "what": f"{type(error).__name__}: {error}"[:2000]})
        with counted.get_lock():
            counted.value += PIECE


def fuzz(check: Callable[[str], None], chosen: argparse.Namespace) -> Fuzzed:
    """Check inputs as `options` say.

    Args:
        check: makes the input of a seed, and raises whatever is wrong with it.
    """
    counted = multiprocessing.Value("q", 0)
    found: Any = multiprocessing.Queue()
    first = random.SystemRandom().randrange(1 << 30)
    begin = time.monotonic()
    rest = begin + 60 * chosen.minutes, chosen.inputs // chosen.processes, counted, found
    workers = [
        multiprocessing.Process(target=_work, args=(check, first + number, *rest))
        for number in range(chosen.processes)
    ]
    for worker in workers:
        worker.start()
    findings: list[dict[str, str]] = []
    with Progress(console=console) as progress, contextlib.suppress(KeyboardInterrupt):
        bar = progress.add_task("fuzzing", total=60 * chosen.minutes)
        while any(worker.is_alive() for worker in workers) or not found.empty():
            while not found.empty():
                findings.append(found.get())
                console.print(findings[-1], markup=False)
            time.sleep(0.5)
            progress.update(
                bar,
                completed=time.monotonic() - begin,
                description=f"{counted.value:,} inputs, {len(findings)} findings",
            )
    inputs = counted.value
    for worker in workers:
        worker.terminate()  # those that are left where it was ended early (Ctrl-C)
    return Fuzzed(inputs, round((time.monotonic() - begin) / 60, 1), first, findings)
