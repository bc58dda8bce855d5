"""The tables of keys and options in the documentation: ``python -m pylb.config.document FILE…`` makes them.

Above `options`, for developers only; nothing imports it. Prose and examples around the tables are written by
hand. A table stands between ``<!-- keys of frontend.tls -->`` and ``<!-- end of keys -->``, that of the keys
outside of sections after ``<!-- keys of the file -->``, that of the command line's options between
``<!-- options -->`` and ``<!-- end of options -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pylb.config.keys import all_keys, keys
from pylb.config.model import Config, Section
from pylb.config.options import OPTIONS

_KEYS = re.compile(r"<!-- keys of (the file|[a-z_.]+) -->\n.*?<!-- end of keys -->", re.DOTALL)
_OPTIONS = re.compile(r"<!-- options -->\n.*?<!-- end of options -->", re.DOTALL)


def sections() -> dict[str, type[Section]]:
    """All sections by their path in the file, the first where it has several; the file as ``the file``."""
    found: dict[str, type[Section]] = {"the file": Config}
    for key in all_keys():
        if key.section is not None and key.section not in found.values():
            found[".".join(key.path)] = key.section
    return found


def with_tables(text: str) -> str:
    """The document with its tables made anew; raises KeyError for a section that doesn't exist."""
    known = sections()
    text = _KEYS.sub(lambda match: _keys(match[1], known[match[1]]), text)
    return _OPTIONS.sub(lambda match: _options(), text)


def _keys(name: str, section: type[Section]) -> str:
    rows = [("key", "value", "default", "meaning")]
    for key in keys(section):
        option = f" Option `{key.option.flag}`." if key.option is not None else ""
        default = f"`{key.default}`" if key.default else key.described_default
        rows.append(
            (f"`{key.name}`", key.kind.one, "required" if key.required else default, key.description + option)
        )
    return f"<!-- keys of {name} -->\n{_table(rows)}<!-- end of keys -->"


def _options() -> str:
    rows = [("option", "meaning", "default")]
    for option in OPTIONS.values():
        default = f"`{option.default}`" if option.key.default else option.default
        rows.append((f"`{option.option.flag} {option.metavar}`", option.help, default))
    return f"<!-- options -->\n{_table(rows)}<!-- end of options -->"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """The first row is the head."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]) + "\n")
    return "".join(lines)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        file = Path(argument)
        file.write_text(with_tables(file.read_text()))
