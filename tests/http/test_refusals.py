"""The refusal table: what a client sends, and how it is answered; nothing of it may be passed on.

Each case is bytes as they come from the socket, given to a real `ClientConnection` (RFC 9112, RFC 9110).
"""

from __future__ import annotations

import pytest

from tests.http.wire import Wire

HOST = b"Host: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def get(fields: bytes = b"") -> bytes:
    return b"GET / HTTP/1.1\r\n" + HOST + fields + b"\r\n"


def line(text: bytes) -> bytes:
    return text + b"\r\n" + HOST + b"\r\n"


CASES: dict[str, tuple[bytes, int, str]] = {}


def add(reason: str, status: int, **cases: bytes) -> None:
    for name, raw in cases.items():
        CASES[f"{reason}: {name}"] = (raw, status, reason)


# Framing (RFC 9112 §6)

add(
    "content_length_and_transfer_encoding",
    400,
    both=POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    both_other_order=POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    both_zero=POST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    both_case=POST + b"content-length: 5\r\ntRANSFER-eNCODING: chunked\r\n\r\n0\r\n\r\n",
)
BAD_LENGTHS = [
    *(b"+1", b"-1", b"-0", b"0x1", b"1e1", b"1.0", b"1, 1", b"1,1", b"1 1", b"", b" ", b"one", b"1;", b"1_0"),
    *(b"\xb2", b"9" * 19, b"9" * 30, b"0" * 19 + b"1", b'"1"', b"1\t1", b","),
    *(b"1,", b"\xd9\xa1", b"0b1", b"1L", b"inf", b"00x"),
]
for number, value in enumerate(BAD_LENGTHS):
    raw = POST + b"Content-Length: " + value + b"\r\n\r\nx"
    add("content_length", 400, **{f"value {number} {value[:9]!r}": raw})
add(
    "content_length",
    400,
    two=POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    two_equal=POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    two_case=POST + b"Content-Length: 1\r\ncontent-length: 1\r\n\r\nx",
    two_apart=POST + b"Content-Length: 1\r\nX: y\r\nContent-Length: 1\r\n\r\nx",
)
BAD_ENCODINGS = [
    *(b"gzip", b"identity", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"chunked,"),
    b",chunked",
    *(b"", b"xchunked", b"chunkedx", b"chunked;q=1", b"chunked; a=b", b"'chunked'", b'"chunked"', b"chunk"),
    *(b"ch unked", b"chunked chunked", b"x, chunked", b"cow"),
    b"\xe3hunked",
]
for number, value in enumerate(BAD_ENCODINGS):
    raw = POST + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n"
    add("transfer_encoding", 400, **{f"value {number} {value!r}": raw})
add(
    "transfer_encoding",
    400,
    two=POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    two_different=POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    in_1_0=b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    in_1_0_with_host=b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)
END = b"\r\nx\r\n0\r\n\r\n"
LONG = b"A: " + b"b" * 4000 + b"\r\n"
BAD_CHUNKS = [
    *(size + END for size in (b"0x1", b"+1", b"-1", b"1 ", b" 1", b"", b"g", b"1g", b"1_0", b"1,", b"1\t")),
    *(
        size + END
        for size in (b"f" * 16, b"1" * 17, b"1;\x00", b"1;\x01a", b"1\x0b", b"\xb1", b"1;" + b"e" * 5000)
    ),
    *(size + b"\nx\r\n0\r\n\r\n" for size in (b"1", b"1\r\r", b"1;a")),
    *(b"1\r\nx" + rest + b"\r\n\r\n" for rest in (b"x\r\n0", b"\n0", b"0", b"\r0", b"\r\r\n0", b" \r\n0")),
    b"1\r\nx\r\n\r\n0\r\n\r\n",
    # Found by bench/fuzz.py: h11 refuses these, and a server that takes trailers for fields is misled.
    *(b"5 ;a=b\r\nhello\r\n0\r\n\r\n", b"5\t;a=b\r\nhello\r\n0\r\n\r\n"),
    *(b"0\r\n" + name + b": 1\r\n\r\n" for name in (b"Content-Length", b"transfer-encoding", b"Host")),
    # A server that takes trailers for fields would believe a client what only pylb may say.
    *(b"0\r\n" + name + b": 1\r\n\r\n" for name in (b"X-Forwarded-For", b"x_forwarded_proto", b"Forwarded")),
    *(
        b"0\r\n" + rest + b"\r\n\r\n"
        for rest in (b"no colon", b"A : b", b": b", b" a: b", b"A: \x00", b"A: b\rC: d")
    ),
    *(b"0\r\nA: b\n\r\n", b"0\nA: b\r\n\r\n", b"0\r\n" + LONG * 6 + b"\r\n"),
]
for number, chunks in enumerate(BAD_CHUNKS):
    add("chunk", 400, **{f"{number} {chunks[:12]!r}": CHUNKED + chunks})

# Fields (RFC 9112 §5)

BAD_FIELDS = [
    *(b"A : b", b"A\t: b", b" A: b", b": b", b"A", b"A b: c", b"A\x00: b", b"A\x7f: b", b"A(: b"),
    b"A\xe9: b",
    *(b"A,: b", b"A: b\x00c", b"A: b\x01c", b"A: b\x08c", b"A: b\x0bc", b"A: b\x0cc", b"A: b\x1fc"),
    b"A: b\x7fc",
    *(b"A: b\rc", b"A: b\nC: d", b"A: b\r\n folded", b"A: b\r\n\tfolded", b"A: b\r\r\nC: d", b"A: b\n"),
    b"A: b\r",
    # Some readers take these bytes for white space.
    *(b"Content-Length: " + value for value in (b"1\x0b", b"\x0b1", b"1\x00")),
    *(b"Transfer-Encoding: " + value for value in (b"chunked\x0b", b"\x0bchunked", b"chunked\x00")),
    *(b'"A": b', b"A/b: c", b"A;b: c", b"[A]: b", b"{A}: b", b"A@: b", b"A\\: b", b"A=: b", b"A?: b"),
]
for number, field in enumerate(BAD_FIELDS):
    add("syntax", 400, **{f"{number} {field!r}": get(field + b"\r\n")})
add(
    "syntax",
    400,
    space_before_content_length_colon=POST + b"Content-Length : 1\r\n\r\nx",
    space_before_transfer_encoding_colon=POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    folded_transfer_encoding=POST + b"X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    bare_lf_hides_length=POST + b"X: y\nContent-Length: 1\r\n\r\nx",
    bare_cr_hides_encoding=POST + b"X: y\rTransfer-Encoding: chunked\r\n\r\n",
)
add(
    "host",
    400,
    missing=b"GET / HTTP/1.1\r\n\r\n",
    missing_with_others=b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
    two=get(HOST),
    two_different=get(b"Host: b\r\n"),
    two_case=get(b"hOST: a\r\n"),
    space=b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    port_too_large=b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
    port_only=b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
    path=b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    user=b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    scheme=b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n",
    query=b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n",
    fragment=b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
    quote=b'GET / HTTP/1.1\r\nHost: "a"\r\n\r\n',
    port_letters=b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
    port_long=b"GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n",
    two_ports=b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n",
    open_bracket=b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    letters_in_brackets=b"GET / HTTP/1.1\r\nHost: [xyz]\r\n\r\n",
    non_ascii=b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n",
    backslash=b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
    list_with_space=b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    tab=b"GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n",
)

# Request lines (RFC 9112 §3)

add(
    "request_line",
    400,
    no_target=line(b"GET HTTP/1.1"),
    two_spaces=line(b"GET  / HTTP/1.1"),
    two_spaces_behind=line(b"GET /  HTTP/1.1"),
    leading_space=line(b" GET / HTTP/1.1"),
    trailing_space=line(b"GET / HTTP/1.1 "),
    tab=line(b"GET\t/ HTTP/1.1"),
    tab_behind=line(b"GET /\tHTTP/1.1"),
    three_words_in_target=line(b"GET /a b HTTP/1.1"),
    bare_cr=line(b"GET /\r HTTP/1.1"),
    vertical_tab=line(b"GET /\x0b HTTP/1.1"),
    nul=line(b"GET /\x00 HTTP/1.1"),
    delete=line(b"GET /\x7f HTTP/1.1"),
    non_ascii=line(b"GET /\xe9 HTTP/1.1"),
    fragment=line(b"GET /#a HTTP/1.1"),
    http_0_9=line(b"GET /"),
    lower_case_version=line(b"GET / http/1.1"),
    no_slash=line(b"GET / HTTP1.1"),
    version_word=line(b"GET / HTTP/one"),
    version_two_digits=line(b"GET / HTTP/1.10"),
    version_no_minor=line(b"GET / HTTP/1"),
    version_plus=line(b"GET / HTTP/+1.1"),
    version_junk=line(b"GET / HTTP/1.1x"),
    other_protocol=line(b"GET / RTSP/1.1"),
    method_with_bracket=line(b"G(T / HTTP/1.1"),
    method_with_colon=line(b"GET: / HTTP/1.1"),
    method_with_slash=line(b"G/T / HTTP/1.1"),
    method_non_ascii=line(b"G\xc9T / HTTP/1.1"),
    method_too_long=line(b"G" * 33 + b" / HTTP/1.1"),
    method_empty=line(b" / HTTP/1.1"),
    only_method=line(b"GET"),
    many_empty_lines=b"\r\n" * 9 + get(),
    lf_before=b"\n" + get(),
    bare_lf_line=b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    tls=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
)
add(
    "version",
    505,
    http_2=line(b"GET / HTTP/2.0"),
    http_1_2=line(b"GET / HTTP/1.2"),
    http_0_9=line(b"GET / HTTP/0.9"),
    http_3=line(b"GET / HTTP/3.0"),
    http_9_9=line(b"GET / HTTP/9.9"),
)
add(
    "method",
    405,
    connect=line(b"CONNECT a:443 HTTP/1.1"),
    connect_slash=line(b"CONNECT / HTTP/1.1"),
    trace=line(b"TRACE / HTTP/1.1"),
    trace_absolute=line(b"TRACE http://a/ HTTP/1.1"),
)
add(
    "target",
    400,
    no_leading_slash=line(b"GET a HTTP/1.1"),
    star_for_get=line(b"GET * HTTP/1.1"),
    other_scheme=line(b"GET ftp://a/ HTTP/1.1"),
    no_authority=line(b"GET http:///a HTTP/1.1"),
    user=line(b"GET http://u@a/ HTTP/1.1"),
    other_host=line(b"GET http://b/ HTTP/1.1"),
    other_port=line(b"GET http://a:81/ HTTP/1.1"),
    bad_port=line(b"GET http://a:x/ HTTP/1.1"),
    backslash=line(b"GET http://a\\b/ HTTP/1.1"),
    query_only=line(b"GET ?a HTTP/1.1"),
    authority_form=line(b"GET a:80 HTTP/1.1"),
)
add("line_bytes", 414, long=line(b"GET /" + b"a" * 8200 + b" HTTP/1.1"), endless=b"GET /" + b"a" * 9000)
add(
    "header_bytes",
    431,
    long=get(b"A: " + b"b" * 17_000 + b"\r\n"),
    many_long=get((b"A: " + b"b" * 4000 + b"\r\n") * 5),
    endless=b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 4000,
)
add("header_count", 431, many=get(b"A: b\r\n" * 100))
add(
    "expect",
    417,
    other=POST + b"Expect: the-unexpected\r\nContent-Length: 1\r\n\r\nx",
    more=POST + b"Expect: 100-continue, x\r\nContent-Length: 1\r\n\r\nx",
    empty=POST + b"Expect:\r\nContent-Length: 1\r\n\r\nx",
)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str) -> None:
    raw, status, reason = CASES[name]
    wire = Wire()
    wire.client_sends(raw)
    assert wire.statuses() == [status]
    assert wire.refused() == {reason: 1}
    assert wire.client_closed
    # The head of a request with a broken body may have left; a complete request may not.
    assert wire.complete_requests() == []


@pytest.mark.parametrize("name", CASES)
def test_refused_byte_by_byte(name: str) -> None:
    raw, status, _ = CASES[name]
    wire = Wire()
    for position in range(len(raw)):
        wire.client_sends(raw[position : position + 1])
        if wire.client_closed:
            break
    assert wire.statuses() == [status]
    assert wire.complete_requests() == []


ACCEPTED: dict[str, tuple[bytes, bytes]] = {
    "absolute form": (line(b"GET http://a/b?c HTTP/1.1"), b"GET /b?c HTTP/1.1"),
    "absolute form, no path": (line(b"GET http://a HTTP/1.1"), b"GET / HTTP/1.1"),
    "absolute form, query": (line(b"GET http://a?b HTTP/1.1"), b"GET /?b HTTP/1.1"),
    "absolute form, case": (line(b"GET HTTP://A/ HTTP/1.1"), b"GET / HTTP/1.1"),
    "options star": (line(b"OPTIONS * HTTP/1.1"), b"OPTIONS * HTTP/1.1"),
    "options absolute": (line(b"OPTIONS http://a HTTP/1.1"), b"OPTIONS * HTTP/1.1"),
    "one empty line before": (b"\r\n" + get(), b"GET / HTTP/1.1"),
    "host with port": (b"GET / HTTP/1.1\r\nHost: a:80\r\n\r\n", b"GET / HTTP/1.1"),
    "host v6": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", b"GET / HTTP/1.1"),
    "host empty": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", b"GET / HTTP/1.1"),
    "1.0 without host": (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1"),
    "empty value": (get(b"A:\r\n"), b"GET / HTTP/1.1"),
    "white space around values": (get(b"A: \t b \t \r\n"), b"GET / HTTP/1.1"),
    "text beyond ascii in a value": (get(b"A: \xc3\xa9\r\n"), b"GET / HTTP/1.1"),
    "every token character": (get(b"!#$%&'*+-.^_`|~09azAZ: b\r\n"), b"GET / HTTP/1.1"),
    "99 fields": (get(b"A: b\r\n" * 99), b"GET / HTTP/1.1"),
    "unknown method": (line(b"PROPFIND / HTTP/1.1"), b"PROPFIND / HTTP/1.1"),
    "length with leading zero": (POST + b"Content-Length: 01\r\n\r\nx", b"POST / HTTP/1.1"),
    "chunked, any case": (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", b"POST / HTTP/1.1"),
    "chunk extension": (CHUNKED + b'1;a="b c";d\r\nx\r\n0\r\n\r\n', b"POST / HTTP/1.1"),
    "trailers": (CHUNKED + b"0\r\nA: b\r\n\r\n", b"POST / HTTP/1.1"),
    "get with a body": (get(b"Content-Length: 1\r\n") + b"x", b"GET / HTTP/1.1"),
}


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("single", [False, True])
def test_accepted(name: str, single: bool) -> None:
    raw, first = ACCEPTED[name]
    wire = Wire()
    for piece in [raw[i : i + 1] for i in range(len(raw))] if single else [raw]:
        wire.client_sends(piece)
    assert wire.statuses() == []
    assert wire.refused() == {}
    assert [request.split(b"\r\n")[0] for request in wire.complete_requests()] == [first]
