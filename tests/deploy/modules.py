"""``python -m tests.deploy.modules``: every module with its floor and size, as pyproject.toml has the floors.

The top floor is 1. Of packages without floors of their own the modules are named by size, and ``-`` is their
floor. A size is the number of lines.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.deploy.compose import ROOT

LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
FLOORS: dict[str, dict[str, int]] = {
    container: {
        name: floor
        for floor, layer in enumerate(contract["layers"], 1)
        for name in layer.replace("|", " ").replace(":", " ").split()
    }
    for contract in LINTER["contracts"]
    if contract["type"] == "layers"
    for container in contract["containers"]
}


def modules(package: Path, depth: int = 0) -> Iterator[tuple[int, str, str, int]]:
    """Depth, floor, name and lines of each module below a package; a package has its ``__init__`` and all
    below it."""
    name = ".".join(package.relative_to(ROOT).parts)
    floors = FLOORS.get(name, {})
    found = []
    for one in package.iterdir():
        if one.suffix == ".py" and one.name != "__init__.py":
            found.append((floors.get(one.stem, 0), -lines(one), one))
        elif (one / "__init__.py").exists():
            found.append((floors.get(one.name, 0), -lines(*one.rglob("*.py")), one))
    for floor, size, one in sorted(found):
        yield depth, str(floor or "-"), one.stem, -size
        if one.is_dir():
            yield from modules(one, depth + 1)


def lines(*files: Path) -> int:
    """How many there are."""
    return sum(file.read_bytes().count(b"\n") for file in files)


if __name__ == "__main__":
    for root in LINTER["root_packages"]:
        print(root, lines(*(ROOT / root).rglob("*.py")))
        for depth, floor, name, size in modules(ROOT / root):
            indent = "    " * (depth + 1)
            print(f"{indent}{floor} {name:{30 - len(indent)}}{size:6}")
