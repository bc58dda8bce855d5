"""``python -m bench.failures [NAME ...]``: run scenarios, one after the other, and write the page."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from bench.failures.report import write

SCENARIOS: dict[str, str] = {
    "hung_worker": "hung_worker",
    "long_connections": "long_connections",
    "stuck_log": "stuck_log",
    "goaway": "goaway",
    "levelling": "levelling",
    "descriptors": "descriptors",
}
"""By name, the module whose ``run() -> list[Row]`` plays it."""


def main() -> None:
    """Run what was asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", metavar="FOLDER")
    options = parser.parse_args()
    for name in options.names or SCENARIOS:
        rows = importlib.import_module(f"bench.failures.{SCENARIOS[name]}").run()
        for row in rows:
            print(f"{row.scenario}: {row.balancer}: {row.outcome}", flush=True)
        write(rows, options.out)


if __name__ == "__main__":
    main()
