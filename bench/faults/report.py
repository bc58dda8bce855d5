"""What came of the faults, and the page that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.faults.balancers import NAMES
from bench.rig import report
from bench.rig.peers import versions


@dataclass(frozen=True)
class Outcome:
    """What one balancer's clients had of one fault."""

    fault: str
    covered: bool
    """Whether a balancer may keep it from all clients."""
    balancer: str
    requests: int
    errors: dict[str, int]
    """By what the client got: a status, ``cut off``, ``no answer``, ``refused``."""
    longest: float
    """Seconds that the slowest answer took."""

    def in_words(self) -> str:
        """For the page."""
        count = sum(self.errors.values())
        if not count:
            return f"0 of {self.requests}"
        kinds = ", ".join(f"{number} × {kind}" for kind, number in sorted(self.errors.items()))
        return f"**{count}** of {self.requests} ({kinds})"


def write(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Write ``faults.json`` and ``faults.md``; outcomes of faults that weren't played now are kept."""
    file = folder / "faults.json"
    played = {outcome.fault for outcome in outcomes}
    kept = json.loads(file.read_text())["outcomes"] if file.exists() else []
    found = [Outcome(**one) for one in kept if one["fault"] not in played] + list(outcomes)
    by_fault: dict[str, dict[str, Outcome]] = {}
    for outcome in found:
        by_fault.setdefault(outcome.fault, {})[outcome.balancer] = outcome
    facts = report.in_words()
    peers = ", ".join(f"{name} {version}" for name, version in versions("haproxy").items())
    lines = [
        "# Faults, and what clients notice",
        "",
        f"`python -m bench.faults`; {facts}; {peers}.",
        "",
        "Requests that were not answered with 200 within 3 s, of all that clients sent from before a fault "
        "until behind it. Both balancers have two workers (threads), four servers, health checks every "
        "0.2 s, three retries at another server first, 0.3 s to connect and 1 s for an answer.",
        "",
        "| fault | a retry may cover it | pylb | slowest | HAProxy | slowest |",
        "|---|---|---|---|---|---|",
    ]
    for fault, both in by_fault.items():
        cells = [fault, "yes" if next(iter(both.values())).covered else "no"]
        for name in NAMES:
            one = both.get(name)
            cells += [one.in_words(), f"{one.longest:.2f} s"] if one is not None else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    report.write("faults", {"outcomes": [asdict(one) for one in found]}, lines, folder)
