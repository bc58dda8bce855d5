"""The tables of keys in docs/configuration.md, made from the model: ``python -m pylb.config.document FILE``.

Above `keys`, for developers only; nothing imports it. Prose and examples around the tables are written by
hand. A table stands between ``<!-- keys of frontend.tls -->`` and ``<!-- end of keys -->``; that of the keys
outside of sections begins with ``<!-- keys of the file -->``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pylb.config.keys import Key, all_keys, keys
from pylb.config.model import Config, Section

_TABLE = re.compile(r"<!-- keys of (the file|[a-z_.]+) -->\n.*?<!-- end of keys -->", re.DOTALL)


def sections() -> dict[str, type[Section]]:
    """All sections by their path in the file; the file itself as ``the file``."""
    found: dict[str, type[Section]] = {"the file": Config}
    for key in all_keys():
        if key.section is not None:
            found[".".join(key.path)] = key.section
    return found


def with_tables(text: str) -> str:
    """A document whose tables say what the model says; raises KeyError for a section that doesn't exist."""
    known = sections()
    return _TABLE.sub(lambda match: _table(match[1], known[match[1]]), text)


def _table(name: str, section: type[Section]) -> str:
    rows = [_row(key) for key in keys(section)]
    return "\n".join(
        [
            f"<!-- keys of {name} -->",
            "| key | value | default | meaning |",
            "|---|---|---|---|",
            *rows,
            "<!-- end of keys -->",
        ]
    )


def _row(key: Key) -> str:
    default = f"`{key.default}`" if key.default else key.described_default
    meaning = key.description
    if key.option is not None:
        meaning += f" Option `{key.option.flag}`."
    cells = (f"`{key.name}`", key.kind.one, "required" if key.required else default, meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        file = Path(argument)
        file.write_text(with_tables(file.read_text()))
