"""Phases that answer: the health path, and the redirect to https. Floor: phases."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pylb.config.model import Frontend as FrontendConfig
from pylb.http.errors import health, https_location, redirect, short
from pylb.worker.backend import Backend
from pylb.worker.core import Core
from pylb.worker.frontend import Result
from pylb.worker.transaction import Transaction


def health_path(
    config: FrontendConfig, core: Core, backends: Sequence[Backend] = ()
) -> Callable[[Transaction], Result] | None:
    """Tell load balancers before this one whether it serves, whatever the method and the query.

    As HAProxy's ``monitor-uri`` and ``monitor fail if { nbsrv(b) lt 2 }``: 200, or 503 when a stop is
    announced, or one of these backends has fewer usable servers than it should have.
    """
    if config.health is None:
        return None
    path = config.health.path.partition("?")[0].encode()

    def answer(tx: Transaction) -> Result:
        if tx.head is None or tx.head.target.partition(b"?")[0] != path:
            return None
        if core.announcing():
            return health(503)
        for backend in backends:
            if backend.versions[0] != backend.seen:
                backend.look()
            if backend.short:
                return short()
        return health(200)

    return answer


def redirect_to_https(config: FrontendConfig) -> Callable[[Transaction], Result] | None:
    """Redirect every request to the same host and target by https."""
    if not config.redirect_to_https:
        return None

    def answer(tx: Transaction) -> Result:
        assert tx.head is not None  # it is HTTP's
        return redirect(https_location(tx.head.host, tx.head.target))

    return answer
