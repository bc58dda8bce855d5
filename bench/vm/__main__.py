"""``python -m bench.vm NAME``: run an experiment with guests, and write its page."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from bench.vm.image import missing

EXPERIMENTS: dict[str, tuple[str, int]] = {
    "serial": ("serial", 5),
    "accuracy": ("accuracy", 3),
    "libvirt": ("libvirtd", 1),
    "vcpus": ("vcpus", 5),
    "killed": ("killed", 2),
    "figure4": ("figure4", 12),
    "demo": ("demo", 2),
    "tails": ("tails", 4),
}
"""By name, the module whose ``run(folder, turns)`` plays it and says whether all was as it should be, and the
usual number of turns. A module may say why it can't run here: ``missing() -> str``."""


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.vm", description=__doc__)
    parser.add_argument("name", choices=sorted(EXPERIMENTS))
    parser.add_argument("--turns", type=int, metavar="N", help="how often each thing is measured")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results", metavar="FOLDER")
    options = parser.parse_args()
    name, turns = EXPERIMENTS[options.name]
    module = importlib.import_module(f"bench.vm.{name}")
    if why := missing() or getattr(module, "missing", lambda: "")():
        print(f"skipped: {why}")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    good = module.run(options.out.resolve(), options.turns or turns)
    print("all was as it should be" if good else "not all was as it should be")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
