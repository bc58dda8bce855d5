"""``python -m bench.model``: checks the model against measured figures, predicts, and tries policies."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.model.predict import FLEETS, HOSTS, figures, fleets, turns, validate
from bench.model.report import write
from bench.model.scene import CALIBRATED_FROM, calibrate
from bench.model.tuning import TRACES, settings, tune

console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=__doc__)
    measured = Path("bench/results/figures.json")
    parser.add_argument("--figures", type=Path, default=measured, help="what was measured")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    try:
        document = json.loads(options.figures.read_text())
        runs = document["runs"]
        missing = [one for one in sorted(CALIBRATED_FROM) if f"pylb {one[1]}" not in runs[one[0]]]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{options.figures} is missing or incomplete ({error}): run `make figures` first")
    if missing:
        sys.exit(f"{options.figures} lacks {missing}: run `make figures` first")
    options.out.mkdir(parents=True, exist_ok=True)
    costs = calibrate(runs)
    steps = sum(len(turns(host)) for host in HOSTS)
    steps += 3 * len(FLEETS) + len(settings()) * len(TRACES)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=steps, completed=-1)

        def step(what: str) -> None:
            progress.update(bar, description=what, advance=1)

        hosts = {host: figures(costs, host, step) for host in HOSTS}
        together = fleets(costs, step)
        trials = tune(costs, step)
        progress.update(bar, completed=steps)
    checks = validate(runs, hosts[HOSTS[0]])
    lines = write(document, costs, checks, hosts, together, trials, options.out)
    console.print("\n".join(lines), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
