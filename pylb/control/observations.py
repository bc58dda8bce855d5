"""Observations: what was seen of each server lately, and since when and why it is as it is.

Whoever judges servers in the control plane (checks, outliers, the supervisor's word of an operator's order)
notes here what it saw; ``why`` and ``status`` read it. Times are ``time.time()`` and are passed in, so that
they mean the same after a restart.

Floor: beside `snapshot`, below all that judges servers. Knows no check and no table; decides nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pylb.config.model import ServerKey

CHANGES = 8
"""Changes that are remembered of each server."""
TEXT = 300
"""Characters of a text."""


@dataclass(frozen=True, slots=True)
class Change:
    """One aspect of a server (``health``, ``outliers``, ``admin``) has become another one."""

    at: float
    aspect: str
    state: str
    why: str


@dataclass(slots=True)
class _Server:
    changes: deque[Change] = field(default_factory=lambda: deque(maxlen=CHANGES))
    now: dict[str, Change] = field(default_factory=dict)
    """The last change of each aspect, however long ago."""
    seen: dict[str, tuple[float, str]] = field(default_factory=dict)


class Observations:
    """The last few observations of each server.

    Args:
        keep: called with a key and a value of JSON to be kept for the next control plane (see `take_back`).
    """

    def __init__(self, keep: Callable[[str, Any], None] = lambda key, value: None) -> None:
        self._servers: dict[ServerKey, _Server] = {}
        self._keep = keep

    def seen(self, server: ServerKey, kind: str, text: str, at: float) -> None:
        """Something was seen that changes nothing (``check``: a result); the last of each kind is known."""
        self._of(server).seen[kind] = (at, text[:TEXT])

    def changed(self, server: ServerKey, aspect: str, state: str, why: str, at: float) -> None:
        """An aspect of the server is another one from now on; the same state again changes nothing."""
        known = self._of(server)
        last = known.now.get(aspect)
        if last is not None and last.state == state:
            return
        change = known.now[aspect] = Change(at, aspect, state, why[:TEXT])
        known.changes.append(change)
        latest = [[one.at, one.aspect, one.state, one.why] for one in known.now.values()]
        self._keep(_key(server), [list(server), latest])

    def state(self, server: ServerKey, aspect: str) -> Change | None:
        """The last change of an aspect."""
        known = self._servers.get(server)
        return None if known is None else known.now.get(aspect)

    def told(self, server: ServerKey) -> dict[str, Any]:
        """All that is known of a server, for JSON: ``now`` by aspect, ``changes`` in order, ``seen``."""
        known = self._servers.get(server, _Server())
        return {
            "now": {aspect: _told(change) for aspect, change in known.now.items()},
            "changes": [_told(change) for change in known.changes],
            "seen": {kind: {"at": at, "text": text} for kind, (at, text) in known.seen.items()},
        }

    def forget(self, server: ServerKey) -> None:
        """The server isn't there any more."""
        if self._servers.pop(server, None) is not None:
            self._keep(_key(server), None)

    def take_back(self, kept: dict[str, Any]) -> None:
        """Know again what the last control plane has kept; what isn't as it should be is passed over."""
        for key, value in kept.items():
            if not key.startswith(_PREFIX):
                continue
            try:
                server, latest = value
                backend, name, address = map(str, server)
                changes = [Change(float(at), *map(str, texts)) for at, *texts in latest]
            except (TypeError, ValueError):
                continue
            known = self._of((backend, name, address))
            for change in sorted(changes, key=lambda change: change.at):
                known.changes.append(change)
                known.now[change.aspect] = change

    def _of(self, server: ServerKey) -> _Server:
        known = self._servers.get(server)
        if known is None:
            known = self._servers[server] = _Server()
        return known


_PREFIX = "observations "


def _key(server: ServerKey) -> str:
    return _PREFIX + " ".join(server)


def _told(change: Change) -> dict[str, Any]:
    return {"at": change.at, "aspect": change.aspect, "state": change.state, "why": change.why}
