"""Splits: shares of the requests for several backends, by chance or by something that stays the same.

Floor: beside `match`.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Mapping
from hashlib import blake2b
from itertools import accumulate

from pylb.rules.view import View, field_name

_ONE = 1 << 64


def splitter(weights: Mapping[str, int], by: str | None) -> Callable[[View], str]:
    """Chooses a backend by weights.

    Each takes a stretch of the line from 0 to 1, in the order given, and a hash says where on it a request
    lies: so with two backends a change of the weights moves only those that have to move. The names of the
    backends are part of the hash, as two splits must not part the same clients from each other.

    Args:
        by: ``source``, ``header:NAME`` or ``cookie:NAME``: what is hashed. By chance without it, and for
            requests that have no such field or cookie.
    """
    names = [name for name, weight in weights.items() if weight]
    ends = list(accumulate(weight for weight in weights.values() if weight))
    total = ends[-1]
    if by is None:
        return lambda view: names[bisect_right(ends, random.randrange(total))]
    get = key_of(by)
    salt = blake2b("\0".join(weights).encode(), digest_size=16).digest()

    def choose(view: View) -> str:
        key = get(view)
        if key is None:
            return names[bisect_right(ends, random.randrange(total))]
        number = int.from_bytes(blake2b(key, digest_size=8, salt=salt).digest(), "big")
        return names[bisect_right(ends, number * total // _ONE)]

    return choose


def key_of(by: str) -> Callable[[View], bytes | None]:
    """What gives of a request that which is hashed; None where it isn't there."""
    kind, _, name = by.partition(":")
    if kind == "header":
        field = field_name(name)
        return lambda view: view.field(field)
    if kind == "cookie":
        cookie = name.encode()
        return lambda view: view.cookie(cookie)
    return lambda view: view.client
