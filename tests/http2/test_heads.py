"""Heads between HTTP/2 and HTTP/1.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.http.errors import Refused
from pylb.http.request import HeadLimits, RequestHead
from pylb.http2 import encode
from pylb.http2.decode import Decoder
from pylb.http2.fields import Field, field
from pylb.http2.flood import Budget
from pylb.http2.heads import Malformed, request_head, response_head, trailer_lines

Header = tuple[bytes, bytes]

START: list[Header] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"example.org"),
    (b":path", b"/a?b"),
]


def judged(fields: list[Header]) -> list[Field]:
    """Fields as they come out of a block."""
    return [field(name, value) for name, value in fields]


def request_to_http1(fields: list[Header], ended: bool, key: bytes = b"") -> bytes:
    """The head of a request."""
    return request_head(judged(fields), ended, key)


def read(block: bytes) -> list[Header]:
    """The fields of a block."""
    fields = Decoder(1 << 20).read(block).fields
    assert fields is not None
    return [(name, value) for _, name, value, _, _ in fields]


names = st.from_regex(rb"x-[a-z0-9]{1,8}", fullmatch=True)
values = st.from_regex(rb"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)


@given(st.lists(st.tuples(names, values), max_size=8))
def test_there_and_back(fields: list[Header]) -> None:
    raw = request_to_http1([*START, *fields], True)
    assert read(encode.request_blocks[b"https"](raw)) == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/a?b"),
        (b":authority", b"example.org"),
        *fields,
    ]
    raw = response_head(judged([(b":status", b"200"), *fields]), True)
    assert read(encode.response_block(raw)) == [(b":status", b"200"), *fields, (b"content-length", b"0")]
    assert read(encode.trailers_block(trailer_lines(judged(fields)))) == fields


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=12)), max_size=6), st.booleans())
def test_whatever_a_client_sends_is_one_request_or_refused(fields: list[Header], ended: bool) -> None:
    try:
        raw = request_to_http1([*START, *fields], ended)
        head = RequestHead(b"192.0.2.1", b"h", b"https", HeadLimits())
        out = head.parse(raw)
    except Refused:
        return
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1
    assert out.startswith(b"GET /a?b HTTP/1.1\r\n")
    assert out.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize(
    "fields",
    [
        [*START[:3], (b":path", b"/a b")],
        [*START[:3], (b":path", b"a")],
        [*START[:3], (b":path", b"/\r\nX: y")],
        [(b":method", b"GET /x"), *START[1:]],
        [(b":method", b"CONNECT"), *START[1:]],
        [*START, (b"host", b"other.example")],
        [*START, (b":path", b"/twice")],
        [*START, (b"X-Upper", b"1")],
        [*START, (b"x", b"a\nb")],
        [*START, (b"x:y", b"a")],
        [*START, (b"te", b"gzip")],
        [*START, (b"x", b" a")],
        [*START, (b"host", b"example.org"), (b"host", b"example.org")],
        *(
            [*START, (name, b"x")]
            for name in (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade")
        ),
    ],
)
def test_refused(fields: list[Header]) -> None:
    with pytest.raises(Refused):
        request_to_http1(fields, True)


def test_a_body_of_unknown_length_is_chunked() -> None:
    raw = request_to_http1(START, False)
    assert raw.endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b"chunked" not in request_to_http1([*START, (b"content-length", b"3")], False)


@pytest.mark.parametrize(
    "fields",
    [
        START[1:],
        [START[0], *START[2:]],
        START[:3],
        [*START[:3], (b":path", b"")],
        [*START, (b":path", b"/twice")],
        [*START, (b"x", b"y"), (b":extra", b"z")],
        [*START, (b":status", b"200")],
        [*START, (b":protocol", b"websocket")],
        [*START, (b"Upper", b"1")],
    ],
)
def test_malformed(fields: list[Header]) -> None:
    """RFC 9113 §8.1.1: an error of the stream."""
    with pytest.raises(Malformed):
        request_to_http1(fields, True)


def test_a_plain_connect_is_not_allowed() -> None:
    with pytest.raises(Refused) as caught:
        request_to_http1([(b":method", b"CONNECT"), (b":authority", b"a:1")], False)
    assert caught.value.status == 405


def test_priority_passes_on() -> None:
    """RFC 9218; in HTTP/2 there are no priorities but in this field."""
    raw = request_to_http1([*START, (b"priority", b"u=1, i")], True)
    assert b"\r\npriority: u=1, i\r\n" in raw
    assert (b"priority", b"u=1, i") in read(encode.request_blocks[b"http"](raw))


@pytest.mark.parametrize("name", [b":status", b":path", b"connection", b"Upper"])
def test_trailers_with_pseudo_fields_are_malformed(name: bytes) -> None:
    with pytest.raises(ValueError, match="trailer"):
        trailer_lines(judged([(b"x-sum", b"1"), (name, b"1")]))


@pytest.mark.parametrize("fields", [[(b"te", b"trailers")], []])
def test_trailers_are_asked_for_as_the_client_does(fields: list[Header]) -> None:
    head = RequestHead(b"192.0.2.1", b"h", b"https", HeadLimits())
    out = head.parse(request_to_http1([*START, *fields], True))
    sent = read(encode.request_blocks[b"https"](out))
    assert (b"\r\nConnection: TE\r\nTE: trailers\r\n" in out) is bool(fields)
    assert ((b"te", b"trailers") in sent) is bool(fields)
    assert b"connection" not in dict(sent)


@pytest.mark.parametrize(
    ("scheme", "authority", "host", "same"),
    [
        (b"https", b"a:443", b"A", True),
        (b"https", b"a", b"a:443", True),
        (b"http", b"a:80", b"a", True),
        (b"https", b"a:80", b"a", False),
        (b"http", b"a:443", b"a", False),
        (b"https", b"a", b"b", False),
    ],
)
def test_host_beside_authority(scheme: bytes, authority: bytes, host: bytes, same: bool) -> None:
    fields = [START[0], (b":scheme", scheme), (b":authority", authority), START[3], (b"host", host)]
    if same:
        assert b"\r\nHost: " + authority + b"\r\n" in request_to_http1(fields, True)
    else:
        with pytest.raises(Refused):
            request_to_http1(fields, True)


def test_an_extended_connect_is_an_upgrade() -> None:
    connect = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *START[1:]]
    raw = request_to_http1(connect, False, b"a2V5")
    assert raw.startswith(b"GET /a?b HTTP/1.1\r\n")
    assert b"\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a2V5\r\n" in raw


def test_a_response_that_ends_later() -> None:
    fields = [(b":status", b"200")]
    assert b"transfer-encoding: chunked" in response_head(judged(fields), False)
    assert response_head(judged(fields), True) == b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"x", b"y")],
        [(b":status", b"200"), (b":status", b"200")],
        *(
            [(b":status", b"200"), bad]
            for bad in ((b"x", b"a\r\nb: c"), (b"connection", b"close"), (b"X", b"y"))
        ),
        *([(b":status", b"200"), bad] for bad in ((b"x", b" y"), (b"te", b"trailers"), (b":path", b"/"))),
    ],
)
def test_malformed_responses(fields: list[Header]) -> None:
    with pytest.raises(ValueError, match="field|status"):
        response_head(judged(fields), True)


@given(st.lists(st.floats(0, 5), max_size=60))
def test_a_budget_is_never_overspent(waits: list[float]) -> None:
    budget = Budget(burst=10, rate=2)
    now = 100.0
    spent = 0
    for wait in waits:
        now += wait
        spent += budget.spend(now)
    assert spent <= 10 + 2 * (now - 100.0) + 1e-6
    assert spent >= min(len(waits), 10)
