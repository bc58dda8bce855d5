"""``python -m bench.table``: pylb, HAProxy and nginx on every workload, in one run, beside the bars.

Each has one worker on CPU 0; the client and two servers (nginx) have CPU 1 (`bench.turns`). The workloads and
the bars stand in `bench.workloads`. HAProxy is there twice, as installed and in Debian's newest version,
unpacked beside (`bench.rig.unpacked`), if that can be had. ``--check`` writes nothing: it compares the ratios
with those of the last results, measures again what seems slower, and ends with exit code 1 and its name if it
stays so. Needs haproxy, nginx, wrk and h2load.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.rig import origins
from bench.rig.command import console, need, parser
from bench.rig.peers import available, versions
from bench.rig.processes import more_descriptors
from bench.rig.report import in_words, machine, write
from bench.table_check import differences, missed, slower
from bench.table_report import answers, costs, draw, interleaved
from bench.turns import BASE, CLIENTS, measure, sides
from bench.workloads import Workload, named, sites

NAMES = ("pylb", "haproxy", "haproxy-latest", "nginx")
_FOLDER = Path(__file__).parents[1]
_DATED = ("date",)
_SETTINGS = ("date", "commit")


def commit() -> str:
    """The commit that last changed pylb, with a + if files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(_FOLDER), *words], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "pylb")
    return (git("log", "-1", "--format=%h", "--", "pylb") or "unknown") + ("+" if changed else "")


def run(
    workloads: Sequence[Workload], names: Sequence[str], turns: int, seconds: int, folder: Path
) -> dict[str, Any]:
    """The table of these workloads, by name."""
    found: dict[str, Any] = {}
    with (
        origins.nginx(folder / "servers", CLIENTS) as (_, servers),
        sides(names, folder, partial(sites, servers)) as there,
    ):
        for one in workloads:
            balancers = measure(one, {name: side.turn for name, side in there.items()}, turns, seconds)
            found[one.name] = {"bar": one.bar, "over": one.over, "balancers": balancers}
    return found


def page(document: dict[str, Any]) -> list[str]:
    """All of it in Markdown."""
    workloads, facts = document["workloads"], document["machine"]
    names = [name for name in NAMES if any(name in one["balancers"] for one in workloads.values())]
    return [
        "# pylb beside HAProxy and nginx",
        "",
        f"Written by `make bench`. {in_words(facts)}.",
        f"{interleaved(workloads)} One worker each, with a CPU of its own; the client and the servers share "
        "the other, so mostly they limit the requests per second: compare CPU per request.",
        "",
        "CPU time per request, of all processes of a balancer:",
        "",
        *costs(workloads, names, facts, BASE),
        "",
        "What clients saw:",
        "",
        *answers(workloads, names, facts),
        "",
        "![CPU per request](table.png)",
    ]


def keep(document: dict[str, Any], folder: Path) -> None:
    """Write JSON, page and chart."""
    write("table", document, page(document), folder)
    draw(document["workloads"], NAMES, document["machine"], folder / "table.png")


def _options() -> argparse.ArgumentParser:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=5, help="per balancer and workload [5]")
    options.add_argument("--seconds", type=int, default=1, help="per turn [1]")
    options.add_argument(
        "--only", default="", metavar="PART", help="part of workloads' names; adds to results of this commit"
    )
    options.add_argument("--balancers", nargs="+", default=list(NAMES), help=f"[{' '.join(NAMES)}]")
    options.add_argument("--quick", action="store_true", help="a turn of each, shown and not written")
    options.add_argument("--check", action="store_true", help="compare with the last results; write nothing")
    options.add_argument("--draw", action="store_true", help="only page and chart, from the JSON")
    return options


def _last(folder: Path) -> dict[str, Any] | None:
    file = folder / "table.json"
    found: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return found


def check(old: dict[str, Any], new: dict[str, Any], again: Any) -> int:
    """Say what is slower than in ``old``, the last results; the exit code.

    Args:
        again: measures workloads of these names once more, with twice the turns.
    """
    for line in differences(old, new, *_SETTINGS):
        console.print(f"not the same: {line}", markup=False)
    suspected = slower(old, new)
    if suspected:
        console.print(f"measured again: {', '.join(suspected)}", markup=False)
        new = new | {"workloads": new["workloads"] | again(list(suspected))}
    found = slower(old, new)
    for name, what in missed(new).items():
        console.print(f"misses its bar: {name}: {what}", markup=False)
    for name, what in found.items():
        console.print(f"slower: {name}: {what}", markup=False)
    if not found:
        console.print(f"nothing is slower than at {old['machine'].get('commit')}")
    return 1 if found else 0


def main() -> None:
    options = _options()
    chosen = options.parse_args()
    old = _last(chosen.out)
    if (chosen.draw or chosen.check) and old is None:
        options.error(f"{chosen.out} has no table.json")
    if chosen.draw:
        assert old is not None
        return keep(old, chosen.out)
    workloads = named(chosen.only)
    if not workloads:
        options.error(f"--only: no workload has {chosen.only!r} in its name")
    need(options, "haproxy", "nginx", "wrk", "h2load", "taskset")
    names, missing = available(chosen.balancers)
    for name, why in missing.items():
        console.print(f"without {name}: {why}", markup=False)
    facts = machine() | {"commit": commit()} | versions(*names)
    new: dict[str, Any] = {"machine": facts, "workloads": {}}
    partial_run = bool(chosen.only) and old is not None and not (chosen.check or chosen.quick)
    if partial_run and old is not None and (other := differences(old, new, *_DATED)):
        options.error(f"--only adds to results of the same machine and commit (or --out): {'; '.join(other)}")
    more_descriptors()
    turns = 1 if chosen.quick else chosen.turns

    def measured(some: Sequence[Workload], turns: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="pylb-bench-") as folder:
            return run(some, names, turns, chosen.seconds, Path(folder))

    new["workloads"] = measured(workloads, turns)
    if chosen.check and old is not None:

        def again(suspected: list[str]) -> dict[str, Any]:
            return measured([one for one in workloads if one.name in suspected], 2 * turns)

        sys.exit(check(old, new, again))
    if chosen.quick:
        return console.print("\n".join(page(new)), markup=False, soft_wrap=True)
    if partial_run and old is not None:
        both = old["workloads"] | new["workloads"]
        order = [one.name for one in named("") if one.name in both]
        new["workloads"] = {name: both[name] for name in order}
    keep(new, chosen.out)


if __name__ == "__main__":
    main()
