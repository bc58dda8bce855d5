"""Phases that add fields to responses. Floor: phases."""

from __future__ import annotations

from collections.abc import Callable

from pylb.config.model import Frontend as FrontendConfig
from pylb.http.response import ResponseHead
from pylb.worker.transaction import Transaction


def strict_transport_security(
    config: FrontendConfig,
) -> Callable[[Transaction, ResponseHead], ResponseHead] | None:
    """Say that this host is to be spoken with by TLS only (RFC 6797)."""
    if config.tls is None or not config.tls.hsts:
        return None
    line = b"Strict-Transport-Security: max-age=%d\r\n" % int(config.tls.hsts)

    def add(tx: Transaction, head: ResponseHead) -> ResponseHead:
        return head.adding(line)

    return add
