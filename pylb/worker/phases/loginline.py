"""Values of the access log as parts of one expression, and what is kept of those of which there are few.

Floor: phases; below `logtimes` and `logfields`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

from pylb.worker.transaction import Transaction

Get = Callable[[Transaction], Any]
"""Gives bytes, text or a number, by its variable's kind; None where there is none."""

USUAL = (
    "tx.reason is None and tx.response is not None and tx.server is not None "
    "and not (tx.asked_ns or tx.first_byte_ns or tx.retries or tx.own)"
)
"""An expression: a server that was connected to already had the request at once, and has answered it."""
LOWERED = "lowered"
"""In an `Inline` of a head's field: the head in small letters."""
LOWERED_FIRST = f"({LOWERED} := tx.head.raw.lower())"
"""The same in the first one of a function."""


class Inline:
    """A variable as an expression of ``tx``, where calling a function would take longer than what it does.

    Args:
        source: the expression.
        usual: the same where `USUAL` holds, if that is less.
        names: what else they name.
    """

    _made = itertools.count()

    def __init__(self, source: str, usual: str = "", **names: object) -> None:
        # Names of their own, so that several can be joined.
        mark = f"_{next(self._made)}"
        owned = re.compile(rf"(?<!\.)\b({'|'.join(names)})\b") if names else None
        self.source, self.usual = (
            owned.sub(rf"\1{mark}", text) if owned is not None else text for text in (source, usual or source)
        )
        self.names = {name + mark: value for name, value in names.items()}
        self._get: Get = eval(f"lambda tx: {self.source}", dict(self.names))

    def __call__(self, tx: Transaction) -> Any:
        return self._get(tx)


class Memo(dict[bytes | None, str]):
    """Values as they are written, of something of which there are few."""

    def __init__(self, write: Callable[[bytes], str], nothing: str) -> None:
        self._write = write
        self._nothing = nothing

    def __missing__(self, value: bytes | None) -> str:
        if value is None:
            return self._nothing
        text = self._write(value)
        if len(value) <= _MOST_BYTES:
            if len(self) >= _MOST:
                self.clear()
            self[value] = text
        return text


_MOST = 256
_MOST_BYTES = 128  # of a value, so that clients can't fill the memory
