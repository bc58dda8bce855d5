"""Phases that answer: the health path, and the redirect to https. Floor: phases."""

from __future__ import annotations

from collections.abc import Callable

from pylb.config.model import Frontend as FrontendConfig
from pylb.http.errors import health, https_location, redirect
from pylb.worker.core import Core
from pylb.worker.frontend import Result
from pylb.worker.transaction import Transaction


def health_path(config: FrontendConfig, core: Core) -> Callable[[Transaction], Result] | None:
    """Tell load balancers before this one whether it serves, whatever the method and the query.

    As HAProxy's ``monitor-uri``: 200, or 503 when a stop is announced.
    """
    if config.health is None:
        return None
    path = config.health.path.partition("?")[0].encode()

    def answer(tx: Transaction) -> Result:
        if tx.head is None or tx.head.target.partition(b"?")[0] != path:
            return None
        return health(503 if core.announcing() else 200)

    return answer


def redirect_to_https(config: FrontendConfig) -> Callable[[Transaction], Result] | None:
    """Redirect every request to the same host and target by https."""
    if not config.redirect_to_https:
        return None

    def answer(tx: Transaction) -> Result:
        assert tx.head is not None  # it is HTTP's
        return redirect(https_location(tx.head.host, tx.head.target))

    return answer
