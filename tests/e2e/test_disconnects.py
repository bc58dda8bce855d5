"""Whoever leaves, whenever: nothing stays (100,000 of these in ``bench/disconnects.py``)."""

from __future__ import annotations

from bench.disconnects import AT_A_TIME, run


def test_nothing_leaks() -> None:
    result = run(20_000)
    assert result["active"] == 0
    assert result["totals"]["aborted"] > 100
    assert result["totals"]["status_2xx"] > 100
    assert result["totals"]["status_5xx"] > 100
    assert result["descriptors_after"] <= result["descriptors_before"] + AT_A_TIME
    # A connection object that stayed behind for one in ten requests was 2.5 MiB here.
    assert result["memory_growth"] < 3 << 19
