"""What pylb answers by itself: its health path, and the redirect to https."""

from __future__ import annotations

from collections.abc import Callable

from pylb.config.model import Frontend as FrontendConfig
from pylb.http.errors import health, https_location, redirect
from pylb.worker.core import Core
from pylb.worker.frontend import Result
from pylb.worker.transaction import Transaction


def health_path(config: FrontendConfig, core: Core) -> Callable[[Transaction], Result] | None:
    """Tell load balancers before this one how it is, whatever the method and query (as ``monitor-uri``)."""
    if config.health is None:
        return None
    path = config.health.path.partition("?")[0].encode()

    def answer(tx: Transaction) -> Result:
        if tx.head is None or tx.head.target.partition(b"?")[0] != path:
            return None
        return health(503 if core.announcing() else 200)

    return answer


def redirect_to_https(config: FrontendConfig) -> Callable[[Transaction], Result] | None:
    """Send every request to the same place, by https."""
    if not config.redirect_to_https:
        return None

    def answer(tx: Transaction) -> Result:
        assert tx.head is not None  # it is HTTP's
        return redirect(https_location(tx.head.host, tx.head.target))

    return answer
