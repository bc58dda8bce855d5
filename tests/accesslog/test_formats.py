"""Escaping, templates, dates, syslog's headers, statuses."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.accesslog import escape, template
from pylb.accesslog.dates import Dates, bsd
from pylb.accesslog.statuses import statuses
from pylb.accesslog.syslog import Header
from pylb.accesslog.template import Variable, parse

ESCAPES = {
    name: getattr(escape, name)
    for name in ("haproxy_line", "haproxy_field", "haproxy_name", "quoted_line", "quoted_field")
}
JSON = {"json_line": escape.json_line, "json_field": escape.json_field}
HOSTILE = b'a"b\\c\r\nd\x1b[31me\x7f\x9bf\xc2\x9bg\xffh\0{|}#'


@pytest.mark.parametrize("name", [*ESCAPES, *JSON])
@given(value=st.binary(max_size=300) | st.binary(min_size=2000, max_size=5000))
def test_whatever_a_client_sends_is_printable_and_bounded(name: str, value: bytes) -> None:
    written = (ESCAPES | JSON)[name](value)
    assert all(" " <= character <= "~" for character in written)
    assert len(written) <= (escape.LINE if name.endswith("line") else escape.FIELD) + 5
    if name in JSON:
        text = json.loads(written)
        assert text == value.decode("utf-8", "backslashreplace") or text.endswith("...")
    else:
        assert '"' not in written


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("haproxy_line", "a#22b\\c#0D#0Ad#1B[31me#7F#9Bf#C2#9Bg#FFh#00{|}#23"),
        ("haproxy_field", "a#22b\\c#0D#0Ad#1B[31me#7F#9Bf#C2#9Bg#FFh#00#7B#7C#7D#23"),
        ("quoted_line", "a\\x22b\\x5Cc\\x0D\\x0Ad\\x1B[31me\\x7F\\x9Bf\\xC2\\x9Bg\\xFFh\\x00{|}#"),
    ],
)
def test_hostile_bytes_are_escaped(name: str, written: str) -> None:
    assert ESCAPES[name](HOSTILE) == written


def test_json_keeps_text_and_shows_what_is_none() -> None:
    assert json.loads(escape.json_line("grüß dich".encode())) == "grüß dich"
    assert escape.json_line(b"\xff\x7f\xc2\x9b") == '"\\\\xff\\u007f\\u009b"'


def test_what_is_cut_ends_with_dots_and_in_no_escape() -> None:
    assert escape.quoted_field(b"a" * 513) == "a" * 512 + "..."
    assert escape.quoted_field(b"a" * 511 + b'"') == "a" * 511 + "..."
    assert json.loads(escape.json_field(b"\x00" * 600)) == "\x00" * 85 + "..."


def test_a_template_is_text_and_variables() -> None:
    assert parse("{{a}} {status}/{header.User-Agent}") == (
        *("{a} ", Variable("status"), "/", Variable("header.", "User-Agent")),
    )
    assert parse("{cookie.a.b}") == (Variable("cookie.", "a.b"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{stat}", "no variable 'stat'; there are client.ip, "),
        ("{header.}", "no variable 'header.'"),
        ("{header.a b}", "no variable"),
        ("{status", "'{' alone in a template; write '{{' for a brace"),
        ("status}", "'}' alone"),
        ("{status}\n", "one line"),
    ],
)
def test_a_mistake_in_a_template_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(text)
    assert said in str(error.value)


def test_no_named_format_has_what_is_secret() -> None:
    formats = [template.haproxy(), template.tcplog(), template.combined()]
    formats += [template.as_json(tcp) for tcp in (False, True)]
    named = {part.argument for one in formats for part in one.parts if isinstance(part, Variable)}
    assert named == {"", "referer", "user-agent"}


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata"])
def test_dates_are_those_of_the_standard_library(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        dates = Dates()
        for moment in (0, 1_796_066_656_123_456_789, 1_796_066_656_999_999_999, 1_780_000_000_000_000_000):
            local = datetime.fromtimestamp(moment // 1_000_000_000).astimezone()
            stamp = f"{local:%d/%b/%Y:%H:%M:%S}"
            milli = f"{moment // 1_000_000 % 1000:03d}"
            assert dates.haproxy(moment // 1_000_000) == f"{stamp}.{milli}"
            assert dates.common(moment // 1_000_000_000) == f"{stamp} {local:%z}"
            parsed = datetime.fromisoformat(dates.iso(moment // 1_000_000))
            assert parsed.timestamp() == pytest.approx(moment // 1_000_000 / 1000)
            assert bsd(moment) == f"{local:%b} {local.day:2d} {local:%H:%M:%S}"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_syslog_headers() -> None:
    moment = 1_796_066_656_123_456_789
    assert (
        Header("rfc5424", "local0", "pylb", "host", 7).at(moment)
        == b"<134>1 2026-11-30T19:24:16.123Z host pylb 7 - - "
    )
    old = Header("rfc3164", "daemon", "lb", "host", 7).at(moment)
    assert old == f"<30>{bsd(moment)} host lb[7]: ".encode()
    assert b"host" not in Header("rfc3164", "daemon", "lb", "", 7).at(moment)


@pytest.mark.parametrize(
    ("written", "first", "last"),
    [(404, 404, 404), ("5xx", 500, 599), ("400-429", 400, 429), ("200", 200, 200)],
)
def test_statuses(written: int | str, first: int, last: int) -> None:
    assert (statuses(written)[0], statuses(written)[-1]) == (first, last)


@pytest.mark.parametrize("written", ["6xx", "5x", "abc", "", 99, 1000, "500-400", "5xx-600"])
def test_what_is_no_status_is_refused(written: int | str) -> None:
    with pytest.raises(ValueError):
        statuses(written)
