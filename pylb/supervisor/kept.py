"""What one control plane leaves to the next: values by key, which it tells the supervisor as they change.

Health's reasons and counters, when a server was ejected, the last answer of DNS: all that must survive a
restart of the control plane, and a reload. Bounded, since the supervisor must not grow by what a broken
control plane sends. It knows no process.
"""

from __future__ import annotations

import json
from typing import Any

from pylb.log import log

MOST_BYTES = 16 << 20
"""Of all keys and values as JSON."""


class Kept:
    """``values`` is given to each control plane at its fork."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._size = 0
        self._full = False

    def keep(self, key: str, value: Any) -> None:
        """Keep a value in place of an earlier one of the key; None forgets it."""
        size = 0 if value is None else len(key) + len(json.dumps(value))
        total = self._size - self._sizes.get(key, 0) + size
        if total > MOST_BYTES:
            if not self._full:
                log.error("the control plane keeps more than %d MiB: no more is kept", MOST_BYTES >> 20)
            self._full = True
            return
        self._size, self._full = total, False
        if value is None:
            self.values.pop(key, None)
            self._sizes.pop(key, None)
        else:
            self.values[key] = value
            self._sizes[key] = size
