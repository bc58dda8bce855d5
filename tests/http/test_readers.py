"""A reader of request heads that serves a second connection knows nothing of the first one."""

from __future__ import annotations

import itertools

import pytest

from pylb.config.address import parse_address
from pylb.config.model import Frontend as FrontendConfig
from pylb.http.errors import Refused
from pylb.http.request import HeadLimits, RequestHead
from pylb.worker.client.http1 import Http1Connection
from pylb.worker.frontend import Bind
from tests.http.wire import Wire

HEADS = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET http://b/ HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: NTLM x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: \x01\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\n",
)


def new() -> RequestHead:
    return RequestHead(b"192.0.2.1", b"h:80", b"http", HeadLimits())


def understood(head: RequestHead, raw: bytes) -> tuple[object, ...]:
    """Everything that is known of a request."""
    try:
        sent: object = head.parse(raw)
    except Refused as refused:
        return refused.status, refused.reason, head.method == b""
    kept = (head.method, head.http11, head.keep_alive, head.content_length, head.chunked, head.host)
    return (sent, *kept, head.upgrade, head.personal, head.target, head.raw)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(HEADS, HEADS)))
def test_one_that_has_forgotten_is_as_a_new_one(first: bytes, second: bytes) -> None:
    head = new()
    understood(head, first)
    head.forget()
    assert understood(head, second) == understood(new(), second)


def test_connections_of_one_client_use_it_one_after_the_other() -> None:
    wire = Wire()
    config = FrontendConfig(name="f", bind=(parse_address("127.0.0.1:80"),), backend="b")
    bind = Bind("127.0.0.1:80", config, wire.frontend, {}, wire.worker.head_limits)

    def connected() -> Http1Connection:
        client = Http1Connection(wire.worker, bind)
        client.connection_made(wire.client.transport)
        return client

    first, beside = connected(), connected()
    reader = first.head
    assert beside.head is not reader and beside.head.added is reader.added
    first.connection_lost(None)
    assert connected().head is reader
    assert connected().head is not reader
