"""Response times as histograms: four buckets per doubling, so that a quantile is known within a quarter.

Pure. Workers count in these buckets, in the scoreboard, and the control plane reads them. A bucket's index
is made with integers alone: the position of the highest bit and the two bits behind it (as HdrHistogram
does, with two bits of precision).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BUCKETS = 86
"""Bucket 0 is below 64 µs, the last one from 134 s on; between them each doubling has four."""
LAST = BUCKETS - 1
SUM = BUCKETS
"""Behind the buckets comes the sum of all times, in microseconds."""
WIDTH = BUCKETS + 1


def bucket(microseconds: int) -> int:
    """The bucket of a time (`pylb.worker.phases.account` has these lines inlined)."""
    bits = microseconds.bit_length()
    if bits < 7:
        return 0
    index = 4 * bits + (microseconds >> bits - 3) - 31
    return index if index < LAST else LAST


def bound(index: int) -> int:
    """The upper bound of a bucket in microseconds; the last one has none."""
    doubling, part = divmod(index, 4)
    return (4 + part) << 4 + doubling


def quantile(counts: Sequence[int], share: float) -> float:
    """Milliseconds below which this share of the times lies (a bucket's bound); 0 when there are none."""
    wanted = math.ceil(sum(counts) * share)
    seen = 0
    for index, count in enumerate(counts):
        seen += count
        if wanted and seen >= wanted:
            return bound(min(index, LAST - 1)) / 1000
    return 0.0
