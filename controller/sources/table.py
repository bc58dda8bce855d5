"""Idleness by allocation: physical cores minus the vCPUs that were given out (the paper's figure 1).

The table is a TOML file that whoever starts virtual machines keeps, and is read again when it changes::

    cores = 4
    [vms]
    web-1 = 1
    web-2 = 1
    balancer = 1      # the vCPUs a balancer's VM has are not idle: it has them
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path


class TableSource:
    """Reads the allocation table of a host."""

    name = "table"

    def __init__(self, path: str | None) -> None:
        """``path`` of the file.

        Raises:
            ValueError: the file is missing or wrong.
        """
        if not path:
            raise ValueError("the table source needs a file: --source table:FILE")
        self._path = Path(path)
        self._cores, self._given = self._load()
        self.problem = ""

    def _load(self) -> tuple[float, float]:
        try:
            table = tomllib.loads(self._path.read_text())
        except OSError as error:
            raise ValueError(f"{self._path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{self._path}: not valid TOML: {error}") from None
        vms = table.get("vms", {})
        if not isinstance(vms, dict):
            raise ValueError(f"{self._path}: vms: expected a table of NAME = CORES")
        numbers = {"cores": table.get("cores")} | {f"vms.{name}": given for name, given in vms.items()}
        for key, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{self._path}: {key}: expected a number of cores")
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{self._path}: {key}: expected a number of cores")
        return float(table["cores"]), float(sum(vms.values()))

    def sample(self, now: float) -> None:
        try:
            self._cores, self._given = self._load()
            self.problem = ""
        except ValueError as error:
            self.problem = str(error)  # the last good table stays in force

    def idle(self) -> float:
        return max(0.0, self._cores - self._given)

    def usable(self) -> float:
        return self._cores

    def per_cpu(self) -> list[float]:
        return []
