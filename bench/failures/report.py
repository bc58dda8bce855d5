"""What a scenario found, and the page that shows it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.rig import report


@dataclass(frozen=True)
class Row:
    """What one balancer did in one scenario."""

    scenario: str
    balancer: str
    outcome: str
    """In words and figures, as the page shows it."""
    figures: dict[str, float]
    """The same for programs: counts, or seconds."""


def write(rows: list[Row], folder: Path) -> None:
    """Write ``failures.json`` and ``failures.md``; rows of scenarios that did not run now are kept."""
    file = folder / "failures.json"
    ran = {row.scenario for row in rows}
    kept = [Row(**row) for row in json.loads(file.read_text())["rows"]] if file.exists() else []
    rows = [row for row in kept if row.scenario not in ran] + rows
    lines = ["# One thing fails", "", f"`python -m bench.failures`; {report.in_words()}", ""]
    lines += ["| scenario | balancer | what happened |", "|---|---|---|"]
    lines += [f"| {row.scenario} | {row.balancer} | {row.outcome} |" for row in rows]
    report.write("failures", {"rows": [asdict(row) for row in rows]}, lines, folder)
