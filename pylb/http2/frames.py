"""Frames as bytes (RFC 9113 §4, §6): those that are sent.

Floor: near the bottom of `pylb.http2`.
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 0x1, 0x1, 0x4, 0x8, 0x20
FRAME_BYTES = 16384
"""The most bytes that a frame carries, either way: every peer takes so many (§4.2)."""
MOST = (1 << 31) - 1
"""Of a window, and of a stream's number."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER = Struct(">BHBBI")
"""Length (in two parts), type, flags, stream."""
_WORD = Struct(">BHBBII")
_GOAWAY = Struct(">BHBBIII")
_SETTING = Struct(">HI")
SETTINGS_ACK = HEADER.pack(0, 0, SETTINGS, ACK, 0)


def data_header(size: int, number: int, end: bool) -> bytes:
    """What stands before so many bytes of DATA."""
    return HEADER.pack(0, size, DATA, end, number)


def head(block: bytes, number: int, end: bool) -> bytes:
    """A header block as HEADERS, and CONTINUATION where it is long."""
    size = len(block)
    if size <= FRAME_BYTES:
        return HEADER.pack(0, size, HEADERS, 5 if end else 4, number) + block
    out = [HEADER.pack(0, FRAME_BYTES, HEADERS, END_STREAM if end else 0, number), block[:FRAME_BYTES]]
    for at in range(FRAME_BYTES, size, FRAME_BYTES):
        piece = block[at : at + FRAME_BYTES]
        last = at + FRAME_BYTES >= size
        out += (HEADER.pack(0, len(piece), CONTINUATION, END_HEADERS if last else 0, number), piece)
    return b"".join(out)


def window_update(number: int, size: int) -> bytes:
    """More that the peer may send, on a stream or (0) on the connection."""
    return _WORD.pack(0, 4, WINDOW_UPDATE, 0, number, size)


def reset(number: int, code: int) -> bytes:
    """RST_STREAM."""
    return _WORD.pack(0, 4, RST_STREAM, 0, number, code)


def goaway(last: int, code: int) -> bytes:
    """GOAWAY: no stream above ``last`` was or will be looked at."""
    return _GOAWAY.pack(0, 8, GOAWAY, 0, 0, last, code)


def ping(payload: bytes, ack: bool) -> bytes:
    """PING with eight bytes."""
    return HEADER.pack(0, 8, PING, ack, 0) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """SETTINGS."""
    payload = b"".join([_SETTING.pack(name, value) for name, value in values])
    return HEADER.pack(0, len(payload), SETTINGS, 0, 0) + payload


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The settings of a frame whose length is a multiple of 6."""
    return list(_SETTING.iter_unpack(payload))
