"""Where a request's body ends, what is in it, and how fast it must come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.http.body import RequestBody, body_deadline
from pylb.http.errors import Refused
from pylb.worker.sides import contents


@given(st.binary(max_size=200), st.binary(max_size=50), st.booleans(), st.lists(st.integers(1, 40)))
def test_however_it_is_cut_the_body_ends_where_it_ends(
    content: bytes, behind: bytes, chunked: bool, cuts: list[int]
) -> None:
    if chunked:
        raw = (b"%x\r\n%b\r\n" % (len(content), content) if content else b"") + b"0\r\nA: b\r\n\r\n"
    else:
        raw = content
    stream = raw + behind
    body = RequestBody(chunked, len(content))
    payload = b""
    taken = position = 0
    for size in [0, *cuts, len(stream)]:
        if body.done:
            break
        piece = stream[position : position + size]
        position += len(piece)
        used, spans = body.feed(piece)
        payload += contents(piece[:used], spans)
        taken += used
    assert body.done
    assert taken == len(raw)
    assert payload == content
    assert body.trailers == ([b"A: b"] if chunked else [])


def test_broken_chunks_are_refused() -> None:
    body = RequestBody(True, 0)
    assert body.feed(b"5\r\nabc") == (6, [(3, 6)])
    with pytest.raises(Refused) as caught:
        body.feed(b"defgh")
    assert caught.value.status == 400


def test_a_body_must_come_within_the_idle_time_and_as_the_rate_demands() -> None:
    assert body_deadline(51.0, 60.0, 0, 50.0, 3) == 111.0
    assert body_deadline(51.0, 60.0, 100, 50.0, 6) == 50.0 + 5.0 + 0.06
    assert body_deadline(51.0, 1.0, 100, 50.0, 6) == 52.0
