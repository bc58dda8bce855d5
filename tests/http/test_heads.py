from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.http.added import Sends
from pylb.http.errors import Refused
from pylb.http.request import HeadLimits, RequestHead
from pylb.http.response import BadResponse, ResponseHead, read_response

HANDLED = {
    *("connection", "keep-alive", "proxy-connection", "te", "upgrade", "expect", "host", "via"),
    *("content-length", "transfer-encoding"),
    *("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
}
names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: name.lower() not in HANDLED
)
values = st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)
fields = st.lists(st.tuples(names, values), max_size=8)


def head() -> RequestHead:
    return RequestHead(b"192.0.2.7", b"10.0.0.1:80", b"http", HeadLimits())


class Collected:
    """What a server's parser (llhttp again, with callbacks) reads."""

    def __init__(self, raw: bytes) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        httptools.HttpRequestParser(self).feed_data(raw)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


@given(fields, st.sampled_from(["keep-alive", "close", "X-Gone"]), st.data())
def test_every_end_to_end_field_arrives_once_and_in_order(
    others: list[tuple[str, str]], connection: str, data: st.DataObject
) -> None:
    lines = [f"{name}: {value}" for name, value in others if name.lower() != "x-gone"]
    place = data.draw(st.integers(0, len(lines)))
    sent = [*lines[:place], f"Connection: {connection}", "X-Gone: 1", "Host: example.org", *lines[place:]]
    out = head().parse(("GET /a?b HTTP/1.1\r\n" + "\r\n".join(sent) + "\r\n\r\n").encode())
    assert out.startswith(b"GET /a?b HTTP/1.1\r\n")
    got = Collected(out).fields
    kept = [(n.decode(), v.decode()) for n, v in got if n not in (b"Host", b"X-Gone")]
    added = [
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Forwarded-Host", "example.org"),
    ]
    assert kept == [(n, v) for n, v in others if n.lower() != "x-gone"] + added
    assert ((b"X-Gone", b"1") in got) == (connection != "X-Gone")


@given(st.binary(max_size=200))
def test_junk_is_refused_with_a_status(junk: bytes) -> None:
    try:
        out = head().parse(junk + b"\r\n\r\n")
    except Refused as refused:
        assert 400 <= refused.status < 600
    else:
        Collected(out)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\n" + 2 * b"Transfer-Encoding: chunked\r\n" + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: something\r\n\r\n", 417),
    ],
)
def test_refused(raw: bytes, status: int) -> None:
    with pytest.raises(Refused) as caught:
        head().parse(raw)
    assert caught.value.status == status


def test_absolute_form_becomes_origin_form() -> None:
    out = head().parse(b"GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert out.startswith(b"GET /?x HTTP/1.1\r\nHost: a\r\n")


def test_the_host_is_what_an_absolute_target_names_where_there_is_no_field() -> None:
    one = head()
    out = one.parse(b"GET http://a:8/x HTTP/1.0\r\n\r\n")
    assert one.host == b"a:8"
    assert out.startswith(b"GET /x HTTP/1.1\r\nHost: a:8\r\n")


def test_http_1_0_without_host_gets_one() -> None:
    one = head()
    out = one.parse(b"GET / HTTP/1.0\r\n\r\n")
    assert out.startswith(b"GET / HTTP/1.1\r\nHost: 10.0.0.1:80\r\n")
    assert not one.keep_alive


def test_naming_a_framing_field_in_connection_does_not_remove_it() -> None:
    out = head().parse(
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length, host\r\nContent-Length: 3\r\n\r\n"
    )
    assert b"Content-Length: 3\r\n" in out
    assert b"Host: a\r\n" in out


@pytest.mark.parametrize(
    "line", [b"X_Client_Cert_Subject: CN=Root", b"X_Forwarded_For: 192.0.2.1", b"x-forwarded_proto: https"]
)
def test_a_field_that_cgi_takes_for_another_does_not_pass(line: bytes) -> None:
    out = head().parse(b"GET / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\nX_Other: 1\r\n\r\n")
    assert line not in out
    assert b"X_Other: 1\r\n" in out


def test_a_request_id_named_in_connection_stays_the_only_one() -> None:
    one = RequestHead(b"192.0.2.7", b"h", b"http", HeadLimits(), Sends(request_id="add"))
    out = one.parse(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-request-id\r\nX-Request-ID: 7\r\n\r\n")
    assert out.lower().count(b"x-request-id:") == 1


def test_two_upgrade_fields_do_not_become_one_protocol() -> None:
    two = b"Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"
    one = head()
    out = one.parse(b"GET / HTTP/1.1\r\nHost: a\r\n" + two + b"\r\n")
    assert b"pgrade" not in out
    assert not one.upgrade


def test_a_client_without_an_address_is_unknown() -> None:
    one = RequestHead(b"unix", b"h", b"http", HeadLimits(), Sends(frozenset({b"forwarded"})))
    assert b"Forwarded: for=unknown;proto=http" in one.parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


def respond(raw: bytes, head_request: bool = False) -> tuple[ResponseHead, bytes]:
    one = read_response(raw, head_request)
    return one, one.out


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"junk\r\n\r\n",
    ],
)
def test_ambiguous_responses_are_refused(raw: bytes) -> None:
    with pytest.raises(BadResponse):
        read_response(raw, False)


@given(st.booleans(), st.booleans(), fields)
def test_response_fields_pass_but_for_hop_by_hop_ones(
    first: bool, keep: bool, others: list[tuple[str, str]]
) -> None:
    lines = [f"{name}: {value}" for name, value in others]
    lines.insert(0 if first else len(lines), "Connection: " + ("keep-alive" if keep else "close"))
    sent = "\r\n".join(["HTTP/1.1 200 OK", *lines, "Content-Length: 2"]) + "\r\n\r\n"
    one, out = respond(sent.encode())
    expected = "".join(f"{name}: {value}\r\n" for name, value in others)
    assert out == f"HTTP/1.1 200 OK\r\n{expected}Content-Length: 2\r\n\r\n".encode()
    assert one.keep_alive == keep
    assert one.content_length == 2


def test_an_http_1_0_response_is_sent_on_as_1_1() -> None:
    one, out = respond(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n")
    assert out == b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n"
    assert not one.keep_alive
    assert one.content_length == -1
