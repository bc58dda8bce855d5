"""``python -m bench.failures [NAME ...]``: run scenarios, one after the other, and write the page."""

from __future__ import annotations

import importlib

from bench.failures.report import write
from bench.rig.command import parser

SCENARIOS = ("hung_worker", "long_connections", "stuck_log", "goaway", "levelling", "descriptors")
"""The modules whose ``run() -> list[Row]`` plays one."""


def main() -> None:
    """Run what was asked for, or all."""
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SCENARIOS))
    chosen = options.parse_args()
    for name in chosen.names or SCENARIOS:
        write(importlib.import_module(f"bench.failures.{name}").run(), chosen.out)


if __name__ == "__main__":
    main()
