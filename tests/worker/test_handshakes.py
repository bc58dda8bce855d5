"""Connections that end in their TLS handshake: the access log's phase is told where it wants that."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
import trustme

from pylb.config.address import parse_address
from pylb.config.model import Frontend as FrontendConfig
from pylb.worker.frontend import Bind
from pylb.worker.listeners import Listener
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction
from tests.http.wire import TestCore, Wire


@pytest.mark.parametrize(
    ("sent", "reason"), [(b"GET / HTTP/1.1\r\n\r\n", Reason.REFUSED), (b"", Reason.CLIENT_GONE)]
)
@pytest.mark.parametrize("wanted", [True, False])
async def test_a_handshake_that_fails(sent: bytes, reason: Reason, wanted: bool) -> None:
    core = TestCore()
    core.loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    frontend = Wire().frontend
    frontend.tells_all = wanted
    seen: list[tuple[object, ...]] = []

    def account(tx: Transaction) -> None:
        assert tx.client is not None
        seen.append((tx.reason, tx.state, tx.client.source))

    frontend.on_account = (account,)
    config = FrontendConfig(name="f", bind=(parse_address("127.0.0.1:80"),), backend="b")
    listener = Listener(core, Bind("127.0.0.1:80", config, frontend, {}, core.head_limits), config, context)
    assert listener.by_hand is not None
    over = asyncio.Event()
    core.emptier = over.set
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        listener.by_hand.begin(ours, ("192.0.2.7", 5))
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(over.wait(), 50)
    assert seen == [(reason, "R", ("192.0.2.7", 5))] * wanted
    assert len(core.said) == 1
