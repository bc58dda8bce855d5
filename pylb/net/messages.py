"""What the messages between supervisor and children must look like. Pure.

Both ends are pylb, and yet neither trusts the other: a child may be broken, and a missing field must not
end the process that reads it. A message whose ``op`` isn't listed here counts as right, and its reader
ignores it.

A message fits into a packet by construction: there are at most 1,024 binds, and reasons and a reload's
mistakes are shortened. One that doesn't fit all the same is an error in the log, and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pylb.excerpt import shown

LARGEST = 1_000_000
"""No count, row or slot is as large."""

REASON_LENGTH = 500
"""Characters of a reason that are kept."""

_Test = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST  # isinstance would take True for a number


def _number_or_none(value: Any) -> bool:
    return value is None or _number(value)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(_number(one) for one in value)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _servers(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("name"), str)
        and isinstance(one.get("address"), str)
        and _number(one.get("weight"))
        for one in value
    )


def _indexed(value: Any) -> bool:
    return _servers(value) and all(_number(one.get("index")) for one in value)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _anything(value: Any) -> bool:
    return True


_LIST: Mapping[str, _Test] = {
    **{"backend": _text, "version": _count, "part": _number, "parts": _number, "servers": _indexed}
}

TO_SUPERVISOR: Mapping[str, Mapping[str, _Test]] = {
    "ready": {},
    "scale": {"n": _number, "reason": _text},
    "pin": {"n": _number_or_none, "id": _number},
    "changed": {},
    "discovered": {"backend": _text, "source": _text, "servers": _servers},
    "change": {"id": _number, "backend": _text, "server": _text, "what": _object},
    "keep": {"key": _text, "value": _anything},
}
"""``ready``: it serves. ``scale``: the policy's decision, passed over while pinned. ``pin``: the operator's
count, where None releases it; the state's ``pin`` answers with the same ``id``.

``changed``: the control plane has changed the table of servers.

``discovered``: all servers of a backend that a source knows, each with name, address, weight, and perhaps
further keys of a server.

``change``: the operator changes a server; ``done`` answers with the same ``id``.

``keep``: the next control plane is to be given this value by this key; None forgets it."""
TO_CONTROL: Mapping[str, Mapping[str, _Test]] = {
    "state": {"target": _number, "pinned": _number_or_none, "generation": _number},
    "servers": _LIST,
    "done": {"id": _number, "status": _number, "said": _text},
}
"""``state``: target, pin, workers, last reload, last pin, whether it stops; on change and every second.

``servers``: as to a worker.

``done``: what a ``change`` did, as an HTTP status and a sentence."""
TO_WORKER: Mapping[str, Mapping[str, _Test]] = {
    "listen": {"slots": _numbers},
    "move": {"to": _number, "count": _number, "excess": _number, "lively": _number},
    "retire": {"to": _numbers, "binds": _texts},  # and perhaps linger, renamed, gone
    "cut": {"reason": _text},
    "reopen": {"path": _text},
    "servers": _LIST,
    "look": {},
}
"""``listen``: read exactly these slots' sockets.

``move``: give ``count`` connections to the worker of a row; over all rows ``excess`` are too many, and of
those that can't move at most ``lively`` clients are asked to come back.

``retire``: give all connections that came by ``binds`` to these rows, serve the others to their end, and
leave. It comes again when the rows change; without rows: finish, close, leave. Tunnels stay, too, which came
by a bind that is ``renamed`` (its frontend's name is another one there), or go to a backend that is ``gone``.

``cut``: close what is left, and leave.

``reopen``: write the access log of this path to the descriptor that comes with the message.

``servers``: all servers of a backend, in so many parts (`pylb.net.serverlists`). When it goes by them the
worker writes the version to its row. An empty backend's list changes nothing, but its version is written.

``look``: the table of servers has changed."""


def wrong(message: Mapping[str, Any], known: Mapping[str, Mapping[str, _Test]]) -> str:
    """What is wrong with a message, empty if nothing is."""
    op = message.get("op")
    if not isinstance(op, str):
        return f"op is {shown(op)}"
    for name, good in known.get(op, {}).items():
        if name not in message:
            return f"{shown(op)} without {name}"
        if not good(message[name]):
            return f"{name} of {shown(op)} is {shown(message[name])}"
    return ""


def shortened(lines: list[str], most: int = 20, width: int = 300) -> list[str]:
    """At most ``most`` lines of ``width`` characters; the last one says how many were left out."""
    kept = lines if len(lines) <= most else lines[: most - 1]
    result = [line if len(line) <= width else line[: width - 1] + "…" for line in kept]
    if len(kept) < len(lines):
        result.append(f"… and {len(lines) - len(kept)} more, see the log")
    return result
