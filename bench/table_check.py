"""What of a new table is slower than in an old one: pure, on what `bench.table` has written.

Only ratios of one run are compared, never microseconds of two: they hold on another day and, roughly, on
another machine. What a ratio is worth its turns say: where the middle halves of old and new turns overlap, or
the medians differ by less than `LEAST`, it is noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEAST = 0.03
"""The smallest part by which a ratio has to be larger."""
Document = Mapping[str, Any]
"""A table: ``machine`` and ``workloads``, by name."""


def ratio(workload: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Of pylb's CPU per request to that of the balancer ``over`` which its bar is; None without both."""
    found = workload["balancers"].get("pylb", {}).get("over", {}).get(workload["over"])
    return found if found and found["median"] is not None else None


def shown(found: Mapping[str, Any]) -> str:
    """The median, and between which the middle half of the turns was."""
    return f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def slower(old: Document, new: Document) -> dict[str, str]:
    """Workloads whose ratio has grown beyond the noise, or that get no answers now; with both ratios."""
    found = {}
    for name, one in new["workloads"].items():
        before = old["workloads"].get(name)
        was = ratio(before) if before is not None and before["over"] == one["over"] else None
        if was is None:
            continue
        now = ratio(one)
        if now is None:
            found[name] = f"{shown(was)} of {one['over']}'s CPU per request, now nothing was answered"
        elif now["low"] > was["high"] and now["median"] > was["median"] * (1 + LEAST):
            found[name] = f"{shown(was)} of {one['over']}'s CPU per request, now {shown(now)}"
    return found


def missed(document: Document) -> dict[str, str]:
    """Workloads whose bar is missed, with ratio and bar."""
    found = {}
    for name, one in document["workloads"].items():
        now = ratio(one)
        if one["bar"] is not None and now is not None and now["median"] > one["bar"]:
            found[name] = f"{shown(now)} of {one['over']}'s CPU per request, the bar is {one['bar']}"
    return found


def differences(old: Document, new: Document, *known: str) -> list[str]:
    """In which facts the machines of both differ, but for those that are ``known`` to."""
    names = [name for name in {**old["machine"], **new["machine"]} if name not in known]
    pairs = [(name, old["machine"].get(name), new["machine"].get(name)) for name in names]
    return [f"{name}: {was} then, {now} now" for name, was, now in pairs if was != now]
