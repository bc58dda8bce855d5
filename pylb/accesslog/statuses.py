"""Which statuses a condition means: ``404``, ``"5xx"``, ``"400-499"`` (pure).

Floor: pure.
"""

from __future__ import annotations

import re

_STATUS = re.compile(r"([1-5])(?:xx|[0-9]{2}(?:-([1-5][0-9]{2}))?)")


def statuses(written: int | str) -> range:
    """The statuses that one entry means; raises ValueError where it is none."""
    text = str(written)
    match = _STATUS.fullmatch(text)
    if match is None:
        raise ValueError('expected a status such as 404, "5xx" or "400-499"')
    if text.endswith("xx"):
        low = int(match[1]) * 100
        return range(low, low + 100)
    low, high = int(text[:3]), int(match[2] or text)
    if high < low:
        raise ValueError(f"{text}: the first status is the lower one")
    return range(low, high + 1)
