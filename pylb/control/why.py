"""Why a server is up, down, ejected, draining or in maintenance, since when, and by which observation.

Pure: it makes text of what `observations` has noted and what the table of servers says; below `main`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

ASPECTS = {
    "maintenance": ("admin",),
    "draining": ("admin",),
    "ejected": ("outliers",),
    "down": ("operator's health", "health"),
    "up": ("operator's health", "outliers", "health"),
    "unchecked": ("outliers", "health"),
}
"""By the state of a server, which of its aspects say why; the first that differs from the usual does."""

_USUAL = {"admin": "ready", "operator's health": "none", "outliers": "in"}


def cause(state: str, told: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The change that has made a server what it is; None where nothing has ever changed.

    A server that is as it usually is became so with the last of all changes.
    """
    now = told["now"]
    for aspect in ASPECTS.get(state, ()):
        change = now.get(aspect)
        if change is not None and change["state"] != _USUAL.get(aspect):
            return change  # type: ignore[no-any-return]
    return max(now.values(), key=lambda change: change["at"], default=None)


def described(server: Mapping[str, Any], told: Mapping[str, Any], now: float) -> dict[str, Any]:
    """What is known of a server, for JSON.

    Args:
        server: its entry of status.
        told: as `Observations.told` gives it.
        now: ``time.time()``.
    """
    change = cause(server["state"], told)
    keys = ("backend", "name", "address", "state", "active", "requests", "errors")
    found = {key: server[key] for key in keys}
    if change is not None:
        found |= {"since": change["at"], "seconds": round(max(0.0, now - change["at"]), 1)}
        found |= {"why": change["why"], "aspect": change["aspect"]}
    seen = dict(told["seen"])
    last = (server.get("check") or {}).get("last")
    if last is not None:
        passed = "passed" if last["passed"] else "failed"
        seen["check"] = {"at": last["at"], "text": f"{passed} in {last['took_ms']:g} ms: {last['reason']}"}
    return {**found, "changes": told["changes"], "seen": seen}


def text(found: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = [f"{found['backend']}/{found['name']} at {found['address']} is {found['state']}"]
    if "since" in found:
        lines[0] += f" since {_moment(found['since'])} ({_span(found['seconds'])} ago): {found['why']}"
    else:
        lines[0] += ": nothing has changed since pylb knows it"
    if source := found.get("found_by"):
        answered = "not yet" if source["answered"] is None else f"{_span(source['answered'])} ago"
        error = f"; {source['error']}" if source["error"] else ""
        lines.append(f"  found by {source['asks']}, which answered {answered}{error}")
    for change in reversed(found["changes"]):
        lines.append(f"  {_moment(change['at'])}  {change['aspect']}: {change['state']}, {change['why']}")
    for kind, seen in found["seen"].items():
        lines.append(f"  {_moment(seen['at'])}  last {kind}: {seen['text']}")
    lines.append(f"  {found['active']} requests now, {found['requests']} in all, {found['errors']} errors")
    return "\n".join(lines)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
