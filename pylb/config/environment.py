"""``${NAME}`` and ``${NAME:-default}`` in the texts of a configuration: values of environment variables.

The lowest floor of the configuration, beside `declaration`: pure, the environment is passed in. The notation
is the shell's (POSIX.1, Shell Command Language §2.6.2): the default holds where the variable is missing or
empty. ``$${`` stands for ``${``. What a variable holds isn't looked at for further variables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pylb.config.positions import Location

_USE = re.compile(r"\$(\$\{|\{([^}]*)(\}?))")
_WITHIN = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


def expand(
    value: Any, environ: Mapping[str, str], problems: list[tuple[Location, str]], at: Location = ()
) -> Any:
    """A parsed document with the variables' values in its texts; its keys stay as they are.

    Args:
        problems: gets the location and a sentence for each text whose variables can't be had.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if isinstance(value, str):
        if "${" not in value:
            return value
        try:
            return _USE.sub(lambda use: _value(use, environ), value)
        except ValueError as error:
            problems.append((at, str(error)))
            return value
    if isinstance(value, dict):
        return {key: expand(one, environ, problems, (*at, key)) for key, one in value.items()}
    if isinstance(value, list):
        return [expand(one, environ, problems, (*at, number)) for number, one in enumerate(value)]
    return value


def _value(use: re.Match[str], environ: Mapping[str, str]) -> str:
    if use[1] == "${":
        return "${"
    if not use[3]:
        raise ValueError("${ has no } after it; write $${ for ${ itself")
    within = _WITHIN.fullmatch(use[2])
    if within is None:
        raise ValueError(
            f"${{{use[2]}}} is no variable; write ${{NAME}} or ${{NAME:-default}}, and $${{ for ${{ itself"
        )
    name, default = within[1], within[2]
    value = environ.get(name, "")
    if not value and default is not None:
        return str(default)
    if name not in environ:
        raise ValueError(f"the environment has no variable {name}; set it, or write ${{{name}:-default}}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the environment variable {name} is no UTF-8") from None
    return value
