"""``python -m bench.model``: checks the model against measured figures, predicts, and tries policies."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.model.fleet import FLEETS, fleets
from bench.model.report import report
from bench.model.scene import CALIBRATED_FROM, calibrate, check, turns
from bench.model.tuning import SEEDS, TRACES, settings, tune
from bench.rig.command import parser, progress


def main() -> None:
    options = parser(__doc__)
    measured = Path("bench/results/figures.json")
    options.add_argument("--figures", type=Path, default=measured, help="what was measured")
    options.add_argument("--only", nargs="*", default=list(TRACES), metavar="TRACE", help=", ".join(TRACES))
    options.add_argument("--seeds", type=int, default=SEEDS, help=f"visitors on each trace [{SEEDS}]")
    chosen = options.parse_args()
    try:
        document = json.loads(chosen.figures.read_text())
        cells = document["cells"]
        missing = [one for one in sorted(CALIBRATED_FROM) if f"pylb {one[1]}" not in cells[one[0]]]
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{chosen.figures} is missing or incomplete ({error}): run `make figures` first")
    if missing:
        sys.exit(f"{chosen.figures} lacks {missing}: run `make figures` first")
    costs = calibrate(cells)
    steps = len(turns()) + 3 * len(FLEETS) + len(settings()) * len(chosen.only)
    with progress() as bar:
        task = bar.add_task("", total=steps, completed=-1)

        def step(what: str) -> None:
            bar.update(task, description=what, advance=1)

        checks = check(cells, costs, step)
        together = fleets(costs, step)
        trials = tune(costs, step, chosen.only, chosen.seeds)
        bar.update(task, completed=steps)
    report(document, costs, checks, together, trials, chosen.seeds, chosen.out)


if __name__ == "__main__":
    main()
