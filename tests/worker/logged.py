"""Frontends and transactions for the tests of the access log, and a stand-in for its writer."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from pylb.config.address import parse_address
from pylb.config.model import Frontend
from pylb.http.response import ResponseHead
from pylb.worker.facts import Client
from pylb.worker.transaction import Transaction
from tests.http.wire import Transport
from tests.worker.stand_ins import request_head

MS = 1_000_000


def config_of(**more: Any) -> Frontend:
    given = {"name": "f", "bind": (parse_address("127.0.0.1:80"),), "backend": "b", **more}
    return Frontend(**given)


class Lines:
    """Stands for a writer."""

    def __init__(self) -> None:
        self.lines: list[str] = []


def transaction(**given: Any) -> Transaction:
    """A request of 2026 that a server has answered."""
    tx = Transaction()
    tx.client = Client(cast(asyncio.BaseTransport, Transport()), "127.0.0.1:80")
    tx.head = request_head(b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nCookie: a=b; c=d\r\nAuthorization: x\r\n\r\n")
    tx.response = ResponseHead(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", True, 200, True, 2, False, b"")
    tx.local = True
    tx.began_ns = 1000 * MS
    for name, value in given.items():
        setattr(tx, name, value)
    return tx
