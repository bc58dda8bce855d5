"""Who may ask the admin address for what."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from pylb.config.address import Address, parse_address
from pylb.control.admin import LARGEST_BODY, application
from pylb.control.gate import Asked, Gate

HERE = Address("127.0.0.1", 9000)
JSON = "application/json"


def refusal(gate: Gate, method: str = "GET", host: str | None = "127.0.0.1:9000", **more: str) -> int | None:
    found = gate.refusal(Asked(method, host, **more))
    return None if found is None else found[0]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:9000", "127.0.0.1", "localhost:9000", "LocalHost", "[::1]:9000", "10.0.0.1:80", "lb1:9000"],
)
def test_our_own_names(host: str) -> None:
    assert refusal(Gate(HERE, None, "lb1"), host=host) is None


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "evil.example:9000", "127.0.0.1.evil.example", "localhost.evil.example", "lb2"]
    + ["127.0.0.1:x", "[::1", "a@127.0.0.1", "127.0.0.1:9000, evil.example", "２.0.0.1"],
)
def test_names_that_lead_here_by_rebinding(host: str | None) -> None:
    assert refusal(Gate(HERE, None, "lb1"), host=host) == 403
    assert refusal(Gate(HERE, "secret", "lb1"), host=host, authorization="Bearer secret") == 403


def test_a_configured_name() -> None:
    gate = Gate(Address("lb.internal", 9000), "secret")
    assert refusal(gate, host="lb.internal:9000", authorization="Bearer secret") is None


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://127.0.0.1:9000", None),
        ("https://127.0.0.1:9000", None),
        ("http://evil.example", 403),
        ("http://127.0.0.1:8000", 403),
        ("null", 403),
        ("", 403),
        ("file://127.0.0.1:9000", 403),
    ],
)
def test_a_page_of_another_origin(origin: str, expected: int | None) -> None:
    assert refusal(Gate(HERE, None), origin=origin) == expected


def test_without_a_token_one_may_only_read() -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert refusal(Gate(HERE, None), method, content_type=JSON) == 403
    for method in ("GET", "HEAD"):
        assert refusal(Gate(HERE, None), method) is None


@pytest.mark.parametrize(
    ("authorization", "expected"),
    [("Bearer secret", None), ("bearer secret", None), ("Bearer secrets", 401), ("Bearer", 401), ("", 401)]
    + [("Basic secret", 401), ("Bearer s\u00e9cret", 401), ("Bearer \udcff", 401), ("secret", 401)],
)
def test_with_a_token_everybody_needs_it(authorization: str, expected: int | None) -> None:
    gate = Gate(HERE, "secret")
    assert refusal(gate) == 401
    assert refusal(gate, authorization=authorization) == expected
    assert refusal(gate, "POST", authorization=authorization, content_type=JSON) == expected


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_what_a_form_can_send_changes_nothing(kind: str) -> None:
    gate = Gate(HERE, "secret")
    assert refusal(gate, "POST", authorization="Bearer secret", content_type=kind) == 415
    assert refusal(gate, "POST", authorization="Bearer secret", content_type=f"{JSON}; charset=utf-8") is None


@given(st.text(), st.none() | st.text(), st.none() | st.text(), st.none() | st.text(), st.none() | st.text())
def test_any_fields_are_judged(
    method: str, host: str | None, origin: str | None, kind: str | None, token: str | None
) -> None:
    asked = Asked(method, host, origin, kind, token)
    for secret in (None, "secret"):
        found = Gate(HERE, secret).refusal(asked)
        assert found is None or found[0] in (401, 403, 415)
    assert Gate(parse_address("unix:/x"), None).refusal(asked) is None


# Broken requests, over a unix socket: there everybody may try.


@pytest.fixture
async def admin(tmp_path: object) -> AsyncIterator[str]:
    path = f"{tmp_path}/admin.sock"

    async def pin(count: int | None) -> tuple[int, str]:
        return 200, f"pinned to {count}"

    app = application(lambda: {}, pin, lambda: b"", (1, 4), Gate(parse_address(f"unix:{path}"), None))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    yield path
    await runner.cleanup()


async def status_of(path: str, request: bytes) -> int:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    async with asyncio.timeout(20):
        line = await reader.readline()
        writer.close()
    return int(line.split()[1])


def post(body: bytes, *fields: bytes) -> bytes:
    lines = [b"POST /scale HTTP/1.1", b"Host: a", b"Connection: close", *fields]
    if not any(field.lower().startswith((b"content-length", b"transfer-encoding")) for field in fields):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


BROKEN = {
    "nothing": post(b""),
    "no JSON": post(b"n=3"),
    "a list": post(b"[3]"),
    "deep": post(b"[" * 60_000),
    "deep objects": post(b'{"n":' * 10_000),
    "text for a number": post(b'{"n": "3"}'),
    "true": post(b'{"n": true}'),
    "a float": post(b'{"n": 3.0}'),
    "not a number": post(b'{"n": NaN}'),
    "huge": post(b'{"n": ' + b"9" * 50_000 + b"}"),
    "out of bounds": post(b'{"n": 5}'),
    "no UTF-8": post(b'{"n": "\xff"}'),
    "UTF-16": post('{"n": "x"}'.encode("utf-16")),
    "an unknown charset": post(b'{"n": 0}', b"Content-Type: application/json; charset=nonsense"),
    "no gzip": post(b"nonsense", b"Content-Encoding: gzip"),
    "no deflate": post(b"nonsense", b"Content-Encoding: deflate"),
    "no br": post(b"nonsense", b"Content-Encoding: br"),
    "too large": post(b" " * (LARGEST_BODY + 1)),
    "a bad length": post(b"{}", b"Content-Length: x"),
    "a negative length": post(b"{}", b"Content-Length: -1"),
    "two lengths": post(b"{}", b"Content-Length: 2", b"Content-Length: 3"),
    "a bad chunk": post(b"zz\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
    "a bad line": b"\x00\xff\r\n\r\n",
    "a long line": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "another path": b"GET /else HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "another method": b"DELETE /scale HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_request_is_the_clients_mistake(admin: str, name: str) -> None:
    assert 400 <= await status_of(admin, BROKEN[name]) < 500
    assert await status_of(admin, post(b'{"n": 3}')) == 200


@given(body=st.binary(max_size=100) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["n", "m"]), inner),
).map(lambda one: json.dumps(one).encode()))  # fmt: skip
def test_any_body_is_answered(body: bytes) -> None:
    asked: list[int | None] = []

    async def pin(count: int | None) -> tuple[int, str]:
        asked.append(count)
        return 200, ""

    async def run() -> int:
        app = application(lambda: {}, pin, lambda: b"", (1, 4), Gate(parse_address("unix:/x"), None))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        one, other = socket.socketpair()
        loop = asyncio.get_running_loop()
        assert runner.server is not None
        await loop.connect_accepted_socket(runner.server, one)
        reader, writer = await asyncio.open_unix_connection(sock=other)
        writer.write(post(body))
        async with asyncio.timeout(20):
            line = await reader.readline()
        writer.close()
        await runner.cleanup()
        return int(line.split()[1])

    status = asyncio.run(run())
    assert status == (200 if asked else 400)
    assert all(count is None or count in range(1, 5) for count in asked)


def test_with_the_reading_token_one_may_only_read() -> None:
    gate = Gate(parse_address("127.0.0.1:9"), "change", reading="read")

    def refusal(method: str, token: str | None) -> int | None:
        authorization = None if token is None else f"Bearer {token}"
        found = gate.refusal(Asked(method, "127.0.0.1", None, "application/json", authorization))
        return None if found is None else found[0]

    assert [refusal("GET", token) for token in ("read", "change", "other", None)] == [None, None, 401, 401]
    assert [refusal("POST", token) for token in ("read", "change", "other", None)] == [403, None, 401, 401]
    assert [refusal("DELETE", token) for token in ("read", "change")] == [403, None]
    alone = Gate(parse_address("127.0.0.1:9"), None, reading="read")
    asked = Asked("POST", "127.0.0.1", None, "application/json", "Bearer read")
    assert alone.refusal(asked) == (403, "changes need a unix socket as admin address, or admin_token_file")
    assert alone.refusal(Asked("GET", "127.0.0.1", None, None, "Bearer read")) is None
