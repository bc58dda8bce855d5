"""What field lines mean, whatever they stand between and whatever was read before."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pylb.http import request as request_module
from pylb.http.added import USUAL_NAMES, Sends
from pylb.http.errors import Refused
from pylb.http.fields import finder
from pylb.http.request import HeadLimits, RequestHead
from pylb.http.response import BadResponse, read_response
from tests.http.test_refusals import BAD_FIELDS

WRITTEN_ANEW = {b" A: b"} | {
    field
    for field in BAD_FIELDS
    if field.startswith(b"A: b") and b"\r" not in field.replace(b"\r\n", b"") and field[-1:] != b"\n"
}
"""Those that are read in a response (`test_responses_as_spoken`)."""
LINES = [
    *(b"Host: a", b"host: b", b"Connection: close", b"Connection: keep-alive, x-gone", b"X-Gone: 1", b"A: b"),
    *(b"Content-Length: 2", b"content-length:3", b"Transfer-Encoding: chunked", b"A: c", b"A : c", b" d: e"),
    *(b"Expect: 100-continue", b"Upgrade: websocket", b"connection: upgrade", b"TE: trailers", b"a\rb: c"),
    *(b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-Host: c", b"X-Request-ID: 7", b"Forwarded: for=x"),
    b"A: \x00",
]
GOOD = [
    *(
        b"A: b",
        b"Cookie: c=d; e=f",
        b"A:",
        b"a: \t\xe9 ",
        b"TE: trailers",
        b"Connection: x-gone",
        b"X-Gone: 1",
    ),
    *(b"X-Forwarded-For: 192.0.2.1", b"Keep-Alive: timeout=5", b"x_forwarded_for: 1", b"Upgrade: websocket"),
]
heads = st.lists(st.sampled_from(LINES), max_size=6)
good = st.lists(st.sampled_from(GOOD), max_size=6)
MEANINGFUL = [
    *(b"connection", b"content-length", b"expect", b"forwarded", b"host", b"http2-settings", b"keep-alive"),
    *(b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"x-client-cert-subject"),
    *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-request-id"),
    *(b"x-forwarded-port", b"x-forwarded-prefix", b"x-forwarded-server", b"x-forwarded-ssl"),
    *(b"x-forwarded-user", b"x-real-ip"),
]


def head(trusted: bool = False, request_id: bool = False) -> RequestHead:
    sends = Sends(
        USUAL_NAMES | ({b"forwarded"} if trusted else set()), request_id="add" if request_id else "pass"
    )
    trusts = (lambda address: False) if trusted else None
    return RequestHead(b"192.0.2.7", b"h", b"http", HeadLimits(), sends, trusts=trusts)


def request(lines: list[bytes], line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join((line, *lines, b"", b""))


def response(lines: list[bytes], line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return request(lines, line)


def ask(one: RequestHead, raw: bytes) -> object:
    try:
        out = one.parse(raw)
    except Refused as refused:
        return refused.status, refused.reason
    what = (one.method, one.http11, one.keep_alive, one.content_length, one.chunked)
    return out, *what, one.host, one.upgrade


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"GET / HTTP/1.1", b"POST /a HTTP/1.1", b"GET / HTTP/1.0", b"GET http://a/ HTTP/1.1"]
            ),
            heads,
        ),
        max_size=6,
    ),
    st.booleans(),
)
@example([(b"GET / HTTP/1.1", [b"Host: a"]), (b"GET / HTTP/1.0", [b"Host: a"])], False)
@example([(b"GET / HTTP/1.0", [b"Host: a"]), (b"GET / HTTP/1.1", [b"Host: a"])], False)
@example([(b"GET http://a/ HTTP/1.1", [b"Host: a"]), (b"GET / HTTP/1.1", [b"Host: a"])], False)
@example([(b"GET / HTTP/1.1", [b"Host: b"]), (b"GET http://a/ HTTP/1.1", [b"Host: b"])], False)
@example([(b"GET / HTTP/1.1", [b"Host: a", b"A : c"]), (b"GET / HTTP/1.1", [b"Host: a", b"A : c"])], False)
@example([(b"GET / HTTP/1.1", [b"Host: a", b"TE: x"]), (b"POST /a HTTP/1.1", [b"Host: a", b"TE: x"])], True)
def test_a_head_means_the_same_whatever_was_read_before(
    sequence: list[tuple[bytes, list[bytes]]], trusted: bool
) -> None:
    used = head(trusted)
    for line, lines in sequence:
        raw = request(lines, line)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(request_module, "_last", None)
            expected = ask(head(trusted), raw)
        assert expected == ask(head(trusted), raw)  # a new connection, after others
        assert expected == ask(used, raw)
        assert expected == ask(used, raw)  # and when all of it was seen just before
        assert expected == ask(head(trusted), raw)


def test_each_request_gets_an_identity_of_its_own() -> None:
    one = head(request_id=True)
    first, second = (one.parse(request([b"Host: a"])) for _ in range(2))
    assert first != second
    assert first.partition(b"X-Request-ID")[0] == second.partition(b"X-Request-ID")[0]
    given_one = request([b"Host: a", b"X-Request-ID: 7"])
    assert one.parse(given_one) == one.parse(given_one)
    assert one.parse(given_one).lower().count(b"x-request-id") == 1


@given(good, st.sampled_from(BAD_FIELDS), good, st.booleans())
def test_one_bad_line_anywhere_spoils_a_head(
    before: list[bytes], bad: bytes, behind: list[bytes], trusted: bool
) -> None:
    # A bad host comes too late to be the reason, wherever it stands: what a head says means nothing then.
    lines = [*before, bad, b"Host: a b", *behind]
    assert ask(head(trusted), request(lines)) == (400, "syntax")
    if bad not in WRITTEN_ANEW:
        with pytest.raises(BadResponse):
            read_response(response([*before, bad, *behind]), False)


@pytest.mark.parametrize("byte", range(256))
def test_which_bytes_a_line_may_have(byte: int) -> None:
    """RFC 9110 §5.5, §5.6.2, told otherwise than the expression is."""
    one = bytes([byte])
    token = one.isalnum() or one in b"!#$%&'*+-.^_`|~"
    text = byte == 9 or 32 <= byte != 127
    for line, fine in ((b"a" + one + b"b: c", token or one == b":"), (b"a: b" + one + b"c", text)):
        said = ask(head(), request([b"Host: a", line]))
        assert said == (400, "syntax") if not fine else line in said[0]  # type: ignore[index]
        try:
            out = read_response(response([line]), False).out
            # What a value may not have is a blank, or with an LF two lines, of which this second is none.
            assert line in out if fine else line.replace(one, b" ") in out and one not in b"\r\n"
        except BadResponse:
            assert not fine and (one in b"\r\n" or not line.startswith(b"a: "))


@pytest.mark.parametrize("name", [name for name in MEANINGFUL if b"-" in name])
@pytest.mark.parametrize("trusted", [False, True])
def test_no_way_to_write_a_name_with_underscores_passes(name: bytes, trusted: bool) -> None:
    parts = name.split(b"-")
    for seams in itertools.product(b"-_", repeat=len(parts) - 1):
        written = b"".join(
            part + bytes([seam]) for part, seam in zip(parts, (*seams, 32), strict=True)
        ).strip()
        if written == name:
            continue
        for case in (written, written.title(), written.upper()):
            one = head(trusted)
            out = one.parse(request([b"Host: a", case + b": 7", b"B: c"]))
            assert case not in out
            assert b"\r\nHost: a\r\nB: c\r\n" in out
            assert (one.content_length, one.chunked, one.upgrade) == (0, False, b"")
    if name in (b"content-length", b"transfer-encoding", b"keep-alive", b"proxy-connection"):
        line = name.replace(b"-", b"_") + b": 7"
        seen = read_response(response([b"A: b", line, b"B: c"]), False)
        assert seen.out == response([b"A: b", b"B: c"])
        assert (seen.content_length, seen.chunked) == (-1, False)


@given(good)
@example([b"TE: a", b"TE: a", b"TE: b"])
@example([b"TE: a"])
def test_what_is_cut_leaves_whole_lines(lines: list[bytes]) -> None:
    out = head().parse(request([b"Host: a", *lines]))
    named = b"Connection: x-gone" in lines
    gone = [b"te", b"connection", b"x-forwarded-for", b"keep-alive", b"x_forwarded_for", b"upgrade"]
    gone += [b"x-gone"] if named else []
    kept = [line for line in lines if line.partition(b":")[0].lower() not in gone]
    assert out.startswith(request([b"Host: a", *kept])[:-2])
    seen = read_response(response(lines), False).out
    gone = [b"te", b"connection", b"keep-alive", b"upgrade"] + ([b"x-gone"] if named else [])
    assert seen == response([line for line in lines if line.partition(b":")[0].lower() not in gone])


pieces = st.one_of(st.sampled_from([*LINES, *GOOD, *BAD_FIELDS]), st.binary(max_size=12))


@given(st.lists(pieces, max_size=6), st.booleans())
def test_h11_reads_what_passes_as_one_message(lines: list[bytes], trusted: bool) -> None:
    raw = request([b"Host: a", *lines], b"POST / HTTP/1.1")
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    one = head(trusted)
    said = ask(one, raw)
    if isinstance(said, tuple) and len(said) > 2:
        reader = h11.Connection(h11.SERVER)
        reader.receive_data(one.parse(raw))
        event = reader.next_event()
        assert isinstance(event, h11.Request)
        names = [name for name, _ in event.headers]
        assert names.count(b"host") == 1
        assert trusted or names.count(b"x-forwarded-host") == 1  # whom we trust may say it more than once
        assert (b"content-length" in names) + one.chunked <= 1
        lengths = [int(value) for name, value in event.headers if name == b"content-length"]
        assert lengths == [one.content_length] or (not lengths and not one.content_length)
        assert one.chunked == (b"transfer-encoding" in names)
    raw = response(lines)
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    try:
        seen = read_response(raw, False)
    except BadResponse:
        return
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.receive_data(seen.out)
    event = client.next_event()
    assert isinstance(event, h11.Response)
    lengths = [int(value) for name, value in event.headers if name == b"content-length"]
    assert lengths == ([seen.content_length] if seen.content_length >= 0 else [])


@pytest.mark.parametrize("value", [b"chunked\t", b"chunked \t ", b"\tchunked\t"])
@pytest.mark.parametrize("others", [[], [b"Connection: upgrade", b"Upgrade: x"]])
def test_a_transfer_coding_is_judged_with_an_upgrade_too(value: bytes, others: list[bytes]) -> None:
    # llhttp takes it for another coding, so it must not pass; but with an upgrade llhttp does not look at it.
    one = head()
    with pytest.raises(Refused):
        one.parse(request([b"Host: a", *others, b"Transfer-Encoding: " + value], b"POST / HTTP/1.1"))


def test_too_many_fields_are_refused_before_any_is_looked_at() -> None:
    for line in (b"Host: a b", b"te: %d", b"A : b"):
        raw = request([line.replace(b"%d", b"%d" % number) for number in range(150)])
        assert ask(head(), raw) == (431, "header_count")


def test_where_field_lines_end() -> None:
    find = finder([b"te", b"x-y"])
    for raw, names, end in (
        (b"\r\n\r\n", [], 1),
        (b"\r\nte: 1\r\n\r\n", [b"te"], 8),
        (b"\r\nx_y:\r\ntea: 1\r\nx-y: \t2 \r\n\r\n", [b"x_y", b"x-y"], 25),
        (b"\r\na: b\r\nte: 1\rx\r\nte: 2\r\n\r\n", [], 7),
        (b"\r\nte: 1\r\nb\nte: 2\r\n\r\n", [b"te"], 8),
    ):
        *found, rest = find.finditer(raw)
        assert [match[1] for match in found] == names
        assert rest[1] is None
        assert rest.start() == end
