"""``python -m tests.deploy.floors``: the oldest releases that pyproject.toml allows, as pip's constraints."""

from __future__ import annotations

import tomllib

from packaging.requirements import Requirement

from tests.deploy.compose import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = [Requirement(text) for text in PROJECT["dependencies"]]


def floor(requirement: Requirement) -> str:
    """The version that a requirement begins with; each has exactly one."""
    (least,) = (one.version for one in requirement.specifier if one.operator == ">=")
    return least


if __name__ == "__main__":
    for requirement in DEPENDENCIES:
        print(f"{requirement.name}=={floor(requirement)}")
