"""One table of requests and their outcomes, for the rules alone and for a whole balancer (`scenario`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.rules import table_of_paths, table_of_requests
from tests.rules.scenario import Scenario


@dataclass(frozen=True)
class Case:
    """A request and its outcome."""

    scenario: str
    method: str
    host: str
    target: str
    fields: tuple[tuple[str, str], ...]
    outcome: str

    def __str__(self) -> str:
        fields = "".join(f" | {name}: {value}" for name, value in self.fields)
        return f"{self.scenario}: {self.method} {self.host}{self.target}{fields}"


SCENARIOS: dict[str, Scenario] = {**table_of_paths.SCENARIOS, **table_of_requests.SCENARIOS}


def cases() -> Iterator[Case]:
    """All of them."""
    for name, scenario in SCENARIOS.items():
        for line in scenario.table.strip().splitlines():
            request, _, outcome = line.strip().rpartition(" => ")
            first, *fields = request.strip().split(" | ")
            method, _, where = first.strip().partition(" ")
            begin = min(at for at in (where.find("/"), where.find("*"), len(where)) if at >= 0)
            split = [one.strip().partition(":") for one in fields]
            pairs = tuple((field, value.strip()) for field, _, value in split)
            yield Case(name, method, where[:begin], where[begin:], pairs, outcome.strip())


CASES = list(cases())
