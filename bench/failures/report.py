"""What a scenario found, and the page that shows it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.machine import in_words, machine


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
    found = {"machine": machine(), "rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(found, indent=1) + "\n")
    lines = ["# One thing fails", "", f"`python -m bench.failures`; {in_words()}", ""]
    lines += ["| scenario | balancer | what happened |", "|---|---|---|"]
    lines += [f"| {row.scenario} | {row.balancer} | {row.outcome} |" for row in rows]
    (folder / "failures.md").write_text("\n".join(lines) + "\n")
