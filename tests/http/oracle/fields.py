"""Field lines: whether they are well-formed, and which of them mean something here.

Most of a head's lines pass unchanged, and clients and servers send the same ones again and again (HTTP/2's
HPACK is built on that). So lines that were found good are remembered one by one: what is left to do for a
head is a look-up per line, and reading the few lines that are new. Every new line is judged twice, by the
grammar of RFC 9110 §5 here and by llhttp in `request.py` and `response.py`; it is remembered only when both
agree.
"""

from __future__ import annotations

from collections.abc import Iterable

_TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Visible characters, blank and tab, and obs-text. No CR, LF, NUL or other control byte.
_VALUE = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_LINE = 512  # bytes; longer lines are read each time
_LINES = 4096  # how many lines are remembered, which with _LINE bounds the memory

Field = tuple[bytes, bytes, bytes]
"""A line, its name in lower case, and its value without the white space around it."""


class Malformed(Exception):
    """A line is no field line."""


class FieldLines:
    """What a kind of message's lines mean; one object for all connections of a worker.

    Args:
        meaningful: names, in lower case, that the reader of the message has to know about.
    """

    def __init__(self, meaningful: Iterable[bytes]) -> None:
        self._meaningful = frozenset(meaningful)
        self._plain: set[bytes] = set()
        self._known: dict[bytes, Field] = {}

    def read(self, lines: list[bytes]) -> tuple[list[Field], list[bytes]]:
        """The meaningful fields among these lines, in order, and the lines that were never seen before.

        Raises:
            Malformed: a line has no name, or a byte where it must not be.
        """
        plain = self._plain
        known = self._known
        found: list[Field] = []
        new: list[bytes] = []
        for line in [line for line in lines if line not in plain]:
            field = known.get(line)
            if field is None:
                name, colon, value = line.partition(b":")
                if not colon or not name or name.translate(None, _TOKEN) or value.translate(None, _VALUE):
                    raise Malformed
                new.append(line)
                name = name.lower()
                # CGI and WSGI take "_" and "-" for the same, so such a line could pass for another
                # (a forged X_Forwarded_For); under its own name it means nothing to the reader, who cuts it.
                if name not in self._meaningful and (
                    b"_" not in name or name.replace(b"_", b"-") not in self._meaningful
                ):
                    continue
                field = (line, name, value.strip(b" \t"))
            found.append(field)
        return found, new

    def remember(self, new: list[bytes], found: list[Field]) -> None:
        """These new lines are good; ``found`` are the fields that were read with them."""
        if len(self._plain) + len(self._known) > _LINES:
            self._plain.clear()
            self._known.clear()
        fields = {field[0]: field for field in found}
        for line in new:
            if len(line) > _LINE:
                continue
            if line in fields:
                self._known[line] = fields[line]
            else:
                self._plain.add(line)
