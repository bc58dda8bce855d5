"""Idleness by allocation: physical cores minus the vCPUs that were given out (the paper's figure 1).

The table is a TOML file that whoever starts virtual machines keeps, and is read again when it changes::

    cores = 4
    [vms]
    web-1 = 1
    web-2 = 1
    balancer = 1      # by the name that the balancer says to the controller: it may use these, too
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def number_of_cores(path: Path, key: str, value: object) -> float:
    """A number from 0.

    Raises:
        ValueError: it is none; names the file and the key.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{path}: {key}: expected a number of cores")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{path}: {key}: expected a number of cores")
    return float(value)


def read_document(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        ValueError: it is missing or wrong.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from None


def read_table(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The file's keys, and its table ``vms``.

    Raises:
        ValueError: it is missing or wrong.
    """
    table = read_document(path)
    vms = table.get("vms", {})
    if not isinstance(vms, dict):
        raise ValueError(f"{path}: vms: expected a table")
    return table, vms


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

    def _load(self) -> tuple[float, dict[str, float]]:
        table, vms = read_table(self._path)
        given = {name: number_of_cores(self._path, f"vms.{name}", count) for name, count in vms.items()}
        return number_of_cores(self._path, "cores", table.get("cores")), given

    def sample(self, now: float) -> None:
        try:
            self._cores, self._given = self._load()
            self.problem = ""
        except ValueError as error:
            self.problem = str(error)  # the last good table stays in force

    def idle(self) -> float:
        return max(0.0, self._cores - sum(self._given.values()))

    def capacity(self, used: Mapping[str, float]) -> float:
        # What the balancers' own machines have is theirs whether they use it or not, and no more than that.
        theirs = sum(count for name, count in self._given.items() if name in used)
        return theirs + self.idle()

    def usable(self) -> float:
        return self._cores

    def per_cpu(self) -> list[float]:
        return []
