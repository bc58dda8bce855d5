"""A usual head is read by one expression, and by a parser that is kept; it means what any head means."""

from __future__ import annotations

import re

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pylb.http import request as request_module
from pylb.http import response as response_module
from pylb.http.errors import Refused
from pylb.http.request import HeadLimits, RequestHead
from pylb.http.requestfields import usual
from pylb.http.response import BadResponse, read_response
from tests.http.test_fields import GOOD, LINES, MEANINGFUL, ask, request, response
from tests.http.test_refusals import BAD_FIELDS

_LINES = [b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"GET / HTTP/1.0", b"get / HTTP/1.1", b"GET /# HTTP/1.1"]
_FIELDS = [
    *(
        *LINES,
        *GOOD,
        *BAD_FIELDS,
        b"Connection: Keep-Alive",
        b"connection:\tkeep-alive ",
        b"Content-Length: 0",
    ),
    *(
        b"Content-Length:\t12 ",
        b"Content-Length: 9999999999999999999",
        b"Content-Length: 1 2",
        b"Host:a:65535 ",
    ),
    *(
        b"Host: a:65536",
        b"HOST: [::1]:8",
        b"X-Request-ID: 1",
        b"X_Request-ID: 1",
        b"x-request_id: 1",
        b"HOST: ",
    ),
]
_STATUS_LINES = [
    *(
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 404",
        b"HTTP/1.1 599 \xe9",
        b"HTTP/1.0 200 OK",
        b"HTTP/1.1 204 No Content",
    ),
    *(
        b"HTTP/1.1 304 Not Modified",
        b"HTTP/1.1 101 S",
        b"HTTP/1.1 100 C",
        b"HTTP/1.1 600 x",
        b"HTTP/1.1 200 \x00",
    ),
]
_ANSWERS = [
    *(*_FIELDS, b"Content-Length: 5", b"Transfer-Encoding:\tCHUNKED ", b"Transfer-Encoding: chunked\t"),
    *(b"Connection: keep-alive\r\nKeep-Alive: timeout=5", b"keep-alive: max=9", b"Transfer-Encoding: gzip"),
]
_NOTHING_IS_USUAL = re.compile(rb"(?!)")


def head(limits: HeadLimits | None = None, long_way: bool = False) -> RequestHead:
    one = RequestHead(b"192.0.2.7", b"h", b"http", limits or HeadLimits())
    if long_way:
        one._usual_bytes = 0
    return one


class Judge:
    """llhttp, which must find exactly one message in all that it is fed."""

    def __init__(self) -> None:
        self.messages = 0
        self.heads = 0
        self._parser = httptools.HttpRequestParser(self)

    def on_message_complete(self) -> None:
        self.messages += 1

    def feed(self, raw: bytes) -> None:
        self._parser.feed_data(raw)
        self.heads += 1
        assert self.messages == self.heads


@given(
    st.lists(st.tuples(st.sampled_from(_LINES), st.lists(st.sampled_from(_FIELDS), max_size=5)), max_size=4)
)
@example([(_LINES[0], [b"Host: a", b"Connection: keep-alive"]), (_LINES[1], [b"A: b", b"Host: a"])])
@example([(_LINES[1], [b"Host: a", b"Content-Length: 3"]), (_LINES[0], [b"Host: a", b"Content-Length: 3"])])
@example([(_LINES[0], [b"Host: a", b"Connection: keep-alive", b"Connection: keep-alive"])])
@example([(_LINES[0], [b"Host: a", b"Host: a"])])
def test_a_usual_head_means_the_same_as_if_it_were_not(heads: list[tuple[bytes, list[bytes]]]) -> None:
    judge = Judge()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_module, "_feed", judge.feed)
        one = head()
        for line, fields in heads:
            raw = request([b"Host: x", *fields] if b"Host: a" not in fields else fields, line)
            raw = raw[: raw.index(b"\r\n\r\n") + 4]
            patch.setattr(request_module, "_last", None)
            expected = ask(head(long_way=True), raw)
            patch.setattr(request_module, "_last", None)
            assert ask(head(), raw) == expected
            assert ask(one, raw) == expected


def hear(raw: bytes, head_request: bool) -> object:
    try:
        return read_response(raw, head_request)
    except BadResponse:
        return None


@given(st.sampled_from(_STATUS_LINES), st.lists(st.sampled_from(_ANSWERS), max_size=5), st.booleans())
@example(
    _STATUS_LINES[0],
    [b"A: b", b"Content-Length: 5", b"Connection: keep-alive\r\nKeep-Alive: timeout=5"],
    False,
)
@example(_STATUS_LINES[0], [b"Connection: keep-alive", b"Transfer-Encoding: chunked", b"A: b"], False)
@example(_STATUS_LINES[0], [b"Content-Length: 5", b"A: b", b"Transfer-Encoding: chunked"], False)
@example(_STATUS_LINES[0], [b"Content-Length: 5", b"Content-Length: 5"], False)
@example(_STATUS_LINES[0], [b"Connection: keep-alive", b"A: b", b"Keep-Alive: timeout=5"], False)
@example(_STATUS_LINES[0], [b"Content-Length: 5"], True)
def test_so_does_a_usual_response(line: bytes, fields: list[bytes], head_request: bool) -> None:
    raw = response(fields, line)
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(response_module, "_USUAL", _NOTHING_IS_USUAL)
        expected = hear(raw, head_request)
    assert hear(raw, head_request) == expected


@pytest.mark.parametrize("name", MEANINGFUL)
def test_which_names_a_usual_head_may_have(name: bytes) -> None:
    judge = usual(100)
    passes = name == b"x-request-id"
    for written in (name, name.upper(), name.title()):
        assert bool(judge(request([b"Host: a", written + b": a b"]))) is passes
        assert judge(request([b"Host: a", written + b"x: a b"]))
        assert judge(request([b"Host: a", b"x" + written + b": a b"]))
        if b"-" in written:
            assert not judge(request([b"Host: a", written.replace(b"-", b"_") + b": a b"]))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 100])
def test_as_many_fields_as_the_limit_says(count: int) -> None:
    large = HeadLimits(1 << 20, 1 << 20, count)
    for host_at in (0, count // 2, count - 1):
        lines = [b"a: %50d" % number for number in range(count - 1)]
        lines.insert(host_at, b"Host: a")
        assert ask(head(large), request(lines)) == ask(head(long_way=True), request(lines))
        assert ask(head(large), request([*lines, b"b: %50d" % 1])) == (431, "header_count")
    one = head(HeadLimits(header_count=count))
    one.read(request([b"Host: a"]))
    assert one.host == b"a"


def test_the_sizes_of_a_usual_head_are_limited() -> None:
    raw = request([b"Host: a", b"A: b"])
    size = len(raw)
    assert len(ask(head(HeadLimits(14, size, 9)), raw)) > 2  # type: ignore[arg-type]
    assert ask(head(HeadLimits(13, size, 9)), raw) == (414, "line_bytes")
    assert ask(head(HeadLimits(14, size - 1, 9)), raw) == (431, "header_bytes")
    one = head(HeadLimits(14, size + 9, 9))
    one.parse(raw)
    assert ask(one, raw.replace(b"GET /", b"GET /a")) == (414, "line_bytes")


def test_what_llhttp_says_no_to_is_refused_and_the_next_head_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # It has nothing against any head that the expression takes, so here it meets another one.
    kept = httptools.HttpRequestParser(None)
    monkeypatch.setattr(request_module, "_feed", lambda raw: kept.feed_data(raw.replace(b"A:", b"A :")))
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            head().read(request([b"Host: a", b"A: b"]))
        assert (caught.value.status, caught.value.reason) == (400, "syntax")
        head().read(request([b"Host: a", b"A: c"]))
        monkeypatch.setattr(request_module, "_feed", lambda raw: kept.feed_data(raw))  # it stays in its error


def test_the_target_is_in_origin_form() -> None:
    one = head()
    for line, target in (
        (b"GET /a?b=/c HTTP/1.1", b"/a?b=/c"),
        (b"GET /d HTTP/1.1", b"/d"),  # the same fields
        (b"GET /e HTTP/1.0", b"/e"),
        (b"GET http://a/f?g HTTP/1.1", b"/f?g"),
        (b"GET http://a?g HTTP/1.1", b"/?g"),
        (b"GET HTTP://a HTTP/1.1", b"/"),
        (b"OPTIONS * HTTP/1.1", b"*"),
        (b"OPTIONS http://a HTTP/1.1", b"*"),
    ):
        for fields in (
            [b"Host: a"],
            [b"Host: a", b"Connection: keep-alive"],
            [b"TE: x", b"Host: a", b"b: /x y"],
        ):
            one.read(request(fields, line))
            assert one.target == target
            assert one.printed().startswith(b"%s %s HTTP/1.1\r\n" % (one.method, target))
            another = head()
            another.read(request(fields, line))
            assert another.target == target


def test_a_field_is_the_first_of_its_name_as_it_came() -> None:
    one = head()
    one.read(
        request(
            [
                *(b"Host: A.example ", b"X-Long: 1", b"x-LONG: 2", b"Empty:", b"Connection: close, x-gone"),
                *(b"X-Gone: \t a:b, C \t", b"Cookie: x-long: 3", b"TE: trailers", b"Long: 4"),
            ],
            b"GET /?host:%20b HTTP/1.1",
        )
    )
    found = {name: one.field(name) for name in (b"host", b"x-long", b"empty", b"x-gone", b"te", b"long")}
    assert found == {
        **{b"host": b"A.example", b"x-long": b"1", b"empty": b"", b"x-gone": b"a:b, C", b"te": b"trailers"},
        b"long": b"4",
    }
    assert one.field(b"ost") is None
    assert one.field(b"x_long") is None
    one.read(request([b"Host: b", b"Long: 5"]))
    assert (one.field(b"host"), one.field(b"long"), one.field(b"x-long")) == (b"b", b"5", None)
    one.read(request([b"Host: b", b"Long: 5"], b"GET /other HTTP/1.1"))
    assert one.field(b"long") == b"5"
