"""Text of strangers in lines of the log: it can't end a line, close a quote, or steer a terminal.

Whatever the format, a line is printable ASCII: control characters (C0, ESC, DEL, C1), bytes from 128 on and
invalid UTF-8 are written as escapes, and so are the characters that mean something in the format. A value is
bounded as it is written, and ends with three dots where it was cut.

Floor: pure; knows no format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

LINE = 2048
"""Characters of a request line, and of what else is not bounded by `FIELD`."""
FIELD = 512
"""Characters of a header field's value."""

Escape = Callable[[bytes], str]


def escaper(special: bytes, mark: str, most: int) -> Escape:
    """Makes a function that escapes bytes.

    Args:
        special: printable characters that are escaped, too.
        mark: what stands before two hexadecimal digits.
        most: characters of the result, without three dots at the end of what was cut.
    """
    plain = bytes(byte for byte in range(0x20, 0x7F) if byte not in special)
    table = [chr(byte) if byte in plain else f"{mark}{byte:02X}" for byte in range(256)]

    def escape(value: bytes) -> str:
        if len(value) <= most and not value.translate(None, plain):
            return value.decode("ascii")
        written = [table[byte] for byte in value[: most + 1]]
        room = most
        for number, piece in enumerate(written):
            room -= len(piece)
            if room < 0:
                return "".join(written[:number]) + "..."
        return "".join(written)

    return escape


def json_escaper(most: int) -> Escape:
    """Makes a function that writes bytes as a JSON string, with its quotes.

    Valid UTF-8 stays the text that it is; other bytes become ``\\xNN`` in the text.
    """
    plain = re.compile(rb"[ !#-\[\]-~]{0,%d}" % most)

    def escape(value: bytes) -> str:
        if plain.fullmatch(value) is not None:
            return f'"{value.decode("ascii")}"'
        written = _as_json(value)
        if len(written) > most + 2:
            # No byte takes more than six characters.
            written = _as_json(value[: most // 6])[:-1] + '..."'
        return written

    return escape


def _as_json(value: bytes) -> str:
    return json.dumps(value.decode("utf-8", "backslashreplace")).replace("\x7f", "\\u007f")


haproxy_line = escaper(b'"#', "#", LINE)
"""As HAProxy writes a request line (configuration manual, §8.6)."""
haproxy_field = escaper(b'"#{|}', "#", FIELD)
"""As HAProxy writes a captured field."""
haproxy_name = escaper(b'" #/', "#", FIELD)
"""A name of the configuration between HAProxy's separators."""
quoted_line = escaper(b'"\\', "\\x", LINE)
"""As nginx writes a variable."""
quoted_field = escaper(b'"\\', "\\x", FIELD)
json_line = json_escaper(LINE)
json_field = json_escaper(FIELD)
