"""Where a request's body ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.http.body import RequestBody
from pylb.http.errors import Refused


@given(st.binary(max_size=200), st.binary(max_size=50), st.booleans(), st.lists(st.integers(1, 40)))
def test_however_it_is_cut_the_body_ends_where_it_ends(
    content: bytes, behind: bytes, chunked: bool, cuts: list[int]
) -> None:
    if chunked:
        raw = (b"%x\r\n%b\r\n" % (len(content), content) if content else b"") + b"0\r\n\r\n"
    else:
        raw = content
    stream = raw + behind
    body = RequestBody(chunked, len(content), 0, 0, 0.0)
    taken = body.feed(b"")
    position = 0
    for size in [*cuts, len(stream)]:
        if body.done:
            break
        piece = stream[position : position + size]
        position += len(piece)
        taken += body.feed(piece)
    assert body.done
    assert taken == len(raw)
    assert body.deadline(5.0, 60.0) == math.inf


def test_limits_and_rate() -> None:
    with pytest.raises(Refused) as caught:
        RequestBody(False, 11, 10, 0, 0.0)
    assert caught.value.status == 413
    body = RequestBody(True, 0, 10, 100, 50.0)
    body.feed(b"5\r\nabc")
    assert body.deadline(51.0, 60.0) == 50.0 + 5.0 + 0.06
    assert RequestBody(False, 10, 0, 0, 50.0).deadline(51.0, 60.0) == 111.0
    with pytest.raises(Refused) as caught:
        body.feed(b"de\r\n5\r\n")
    assert caught.value.status == 413
