from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.http.chunked import ChunkError, ChunkScanner

bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


def encode(chunks: list[bytes], trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailers + b"\r\n"


@given(bodies, st.sampled_from([b"", b"X-Sum: 1\r\n"]), st.binary(max_size=10), st.data())
def test_any_split_finds_the_same_end_and_payload(
    chunks: list[bytes], trailers: bytes, behind: bytes, data: st.DataObject
) -> None:
    stream = encode(chunks, trailers) + behind
    scanner = ChunkScanner()
    payload = b""
    used = 0
    while not scanner.done:
        piece = stream[used : used + data.draw(st.integers(1, len(stream) - used))]
        spans: list[tuple[int, int]] = []
        used += scanner.feed(piece, spans)
        payload += b"".join(piece[start:end] for start, end in spans)
    assert used == len(stream) - len(behind)
    assert payload == b"".join(chunks)


@pytest.mark.parametrize(
    "stream",
    [
        b"\r\n",
        b"g\r\n",
        b"-1\r\n",
        b"0x5\r\n",
        b"5\n",
        b" 5\r\n",
        b"5 \r\n",
        b"fffffffffffffffff\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n\n",
        b"1\r\na\rb",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\n folded: x\r\n\r\n",
        b"1;a\rb\r\n",
        b"1" * 5000,
    ],
)
def test_what_two_readers_could_take_differently_is_refused(stream: bytes) -> None:
    with pytest.raises(ChunkError):
        ChunkScanner().feed(stream)
    scanner = ChunkScanner()
    with pytest.raises(ChunkError):
        for byte in stream:
            scanner.feed(bytes([byte]))


@given(st.binary(max_size=60))
def test_junk_is_an_error_or_a_body_but_nothing_else(stream: bytes) -> None:
    scanner = ChunkScanner()
    try:
        used = scanner.feed(stream)
    except ChunkError:
        return
    assert scanner.done or used == len(stream)
