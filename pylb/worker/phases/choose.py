"""Choose: which server a request has a say in, by what an algorithm hashes of it or by its client's cookie.

Floor: phases; `pick` calls what is compiled here, and only in backends that have it.
"""

from __future__ import annotations

from collections.abc import Callable

from pylb.worker.backend import Backend
from pylb.worker.transaction import Transaction

Choose = Callable[[Transaction], int | None]
"""Gives the position of a server that was not tried yet; None when there is none."""


def compiled(backend: Backend) -> Choose | None:
    """How a backend chooses; None where the request has no say."""
    key = backend.key

    def by_key(tx: Transaction) -> int | None:
        tried = tx.tried
        excluded = backend.positions(tried) if tried else tried
        return backend.balancer.pick(excluded, None if key is None else key(tx))

    if backend.sticky is not None:
        return _by_cookie(backend, by_key)
    return by_key if key is not None else None


def _by_cookie(backend: Backend, otherwise: Choose) -> Choose:
    sticky = backend.sticky
    assert sticky is not None

    def choose(tx: Transaction) -> int | None:
        visit = tx.visit
        if visit is None:
            return otherwise(tx)
        position = visit.position
        if position >= 0 and not tx.tried and not backend.servers[position].down:
            return position
        for position in sticky.positions(visit.token):
            server = backend.servers[position]
            if server.index not in tx.tried and (not server.down or backend.shares.is_usable(position)):
                return position
        return otherwise(tx)

    return choose
