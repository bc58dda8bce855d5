"""Mistakes of users as lines, each naming the key as it stands in the file, and the fix.

Above `keys`, below `load`. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from pylb.config.keys import keys, section_at
from pylb.excerpt import shown


class ConfigError(Exception):
    """The configuration can't be used; ``problems`` has one line per mistake, which begins with the key.

    Args:
        places: by position in ``problems``, the file and line that it is about; empty where there is none.
    """

    def __init__(self, problems: list[str], places: Sequence[str] = ()) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.places = places or [""] * len(problems)

    @property
    def located(self) -> list[str]:
        """The lines for the user, each with its place first: ``pylb.toml:12: frontend[0].bind: …``."""
        pairs = zip(self.problems, self.places, strict=True)
        return [f"{place}: {problem}" if place else problem for problem, place in pairs]


def lines(error: ValidationError) -> list[str]:
    """What pydantic found, a line per mistake."""
    found = error.errors()
    # A list that holds a mistake is also reported as too short; the mistake itself says enough.
    return [
        _line(problem)
        for problem in found
        if problem["type"] != "too_short"
        or not any(
            other["loc"][: len(problem["loc"])] == problem["loc"] and other is not problem for other in found
        )
    ]


def _line(problem: Any) -> str:
    location = problem["loc"]
    path = path_of(location)
    kind = problem["type"]
    given = problem.get("input")
    if kind == "extra_forbidden":
        return f"{path}: unknown key; {_hint(location)}"
    if kind == "missing":
        return f"{path}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    if kind in ("model_type", "dict_type"):
        message = "expected a table"
    message = message[0].lower() + message[1:] if message[1:2].islower() else message
    if isinstance(given, str | int | float | bool) and (text := shown(given, 120)) not in message:
        message += f" (got {text})"
    return f"{path}: {message}" if path else message


def path_of(location: Sequence[int | str]) -> str:
    """A location as messages name it: ``frontend[0].bind[1]``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path


def _hint(location: Sequence[int | str]) -> str:
    """What may stand in the section in place of a key that it doesn't know."""
    section = section_at(location[:-1])
    field = section.model_fields.get(str(location[-1]))
    if field is not None:  # the name that code uses: frontends
        names = [part for part in location[:-1] if isinstance(part, str)]
        return f"did you mean [[{'.'.join([*names, str(field.validation_alias)])}]]?"
    return f"allowed: {', '.join(sorted(key.name for key in keys(section)))}"
