"""A check by one request over HTTP/2: a stream on a connection of its own. Pure.

The few frames that one stream needs are made and read here (RFC 9113); header lists are `pylb.http2`'s.
Nothing is announced but that the server shall not push, so that its first 64 KiB need no window of ours.
"""

from __future__ import annotations

import struct

from pylb.health.exchange import Buffered
from pylb.health.expect import Expected, Request, judge_body, judge_status
from pylb.http2.codes import Fault
from pylb.http2.decode import Decoder
from pylb.http2.encode import field

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _CONTINUATION = 0, 1, 3, 4, 6, 7, 9
_END_STREAM = _ACK = 1
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 32
_NO_PUSH = struct.pack("!HL", 2, 0)  # SETTINGS_ENABLE_PUSH
_LONGEST_FRAME = 16384  # bytes of a payload, as long as nothing else was announced (§4.2)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame (§4.1)."""
    return struct.pack("!LBL", len(payload) << 8 | kind, flags, stream) + payload


class Http2(Buffered):
    """One request with an optional body, and its response."""

    def __init__(self, request: Request, expected: Expected, scheme: str = "http", body: bytes = b"") -> None:
        super().__init__()
        self._request = request
        self._expected = expected
        self._scheme = scheme
        self._sent = body
        self._decoder = Decoder(LARGEST_LIST)
        self._block: bytes | None = None  # a header block that goes on
        self._block_ends = False  # and ends the stream
        self.status = 0
        self.body = b""
        self.fields: dict[str, str] = {}
        """Of the response and its trailers."""

    def begin(self) -> bytes:
        request = self._request
        fields = [
            (":method", request.method), (":scheme", self._scheme), (":authority", request.host),
            (":path", request.path), ("user-agent", "pylb"),
        ]  # fmt: skip
        given = {name.lower(): value for name, value in request.headers}
        fields[2] = (":authority", given.pop("host", request.host))
        block = b"".join(field(name.encode(), value.encode()) for name, value in (*fields, *given.items()))
        flags = _END_HEADERS | (0 if self._sent else _END_STREAM)
        out = _PREFACE + frame(_SETTINGS, 0, 0, _NO_PUSH) + frame(_HEADERS, flags, 1, block)
        return out + (frame(_DATA, _END_STREAM, 1, self._sent) if self._sent else b"")

    def look(self) -> bytes:
        out = b""
        while self.verdict is None and len(self.data) >= 9:
            size, kind, flags = int.from_bytes(self.data[:3], "big"), self.data[3], self.data[4]
            stream = int.from_bytes(self.data[5:9], "big") & 0x7FFFFFFF
            if self.data.startswith(b"HTTP/1.") or size > _LONGEST_FRAME:
                self.failed("what it answers is no HTTP/2")
                break
            if len(self.data) < 9 + size:
                break
            payload, self.data = self.data[9 : 9 + size], self.data[9 + size :]
            try:
                out += self._take(kind, flags, stream, payload)
            except (Fault, ValueError, IndexError, struct.error):
                self.failed("what it answers is malformed HTTP/2")
        return out

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        """A frame has come: what is sent then."""
        if self._block is not None and (kind != _CONTINUATION or stream != 1):
            raise ValueError("a header block is interrupted")  # §6.10
        if kind == _SETTINGS and not flags & _ACK:
            return frame(_SETTINGS, _ACK, 0)
        if kind == _PING and not flags & _ACK:
            return frame(_PING, _ACK, 0, payload)
        if kind == _GOAWAY:
            last, code = struct.unpack("!LL", payload[:8])
            if not last & 0x7FFFFFFF or code:
                self.failed(f"it closes the connection with the HTTP/2 error {code}")
        elif stream == 1 and kind == _RST_STREAM:
            self.failed(f"it resets the stream with the HTTP/2 error {int.from_bytes(payload[:4], 'big')}")
        elif stream == 1 and kind == _HEADERS:
            self._block = _unpadded(flags, payload, 5 if flags & _PRIORITY else 0)
            self._block_ends = bool(flags & _END_STREAM)
            self._block_came(flags)
        elif kind == _CONTINUATION:
            if self._block is None:
                raise ValueError("no header block goes on")
            self._block += payload
            self._block_came(flags)
        elif stream == 1 and kind == _DATA:
            self.body += _unpadded(flags, payload)
            if flags & _END_STREAM:
                self.complete()
        return b""

    def _block_came(self, flags: int) -> None:
        """A part of a header block has come."""
        if not flags & _END_HEADERS:
            return
        block, self._block = self._block or b"", None
        found = self._decoder.read(block).fields
        if found is None:
            raise ValueError("a header list that is too large")
        fields = {name.decode("latin-1"): value.decode("latin-1") for _, name, value, _, _ in found}
        status = fields.get(":status", "")
        interim = status.startswith("1")
        if not interim:
            self.fields.update(fields)
            if status:
                self.status = int(status)
                self.head()
        if self._block_ends and self.verdict is None:
            self.complete()

    def head(self) -> None:
        """The response's head is there."""
        judge_status(self, self._expected, self.status)

    def complete(self) -> None:
        """The response is there as a whole."""
        if not self.status:
            raise ValueError("no status")
        judge_body(self, self._expected, self.status, self.body)

    def ended(self) -> None:
        if self.status:
            judge_body(self, self._expected, self.status, self.body)
        super().ended()


LARGEST_LIST = 65536
"""Bytes of a header list."""


def _unpadded(flags: int, payload: bytes, skipped: int = 0) -> bytes:
    """A payload without padding, and without what precedes a header block (§6.1, §6.2)."""
    if not flags & _PADDED:
        return payload[skipped:]
    if payload[0] + skipped >= len(payload):
        raise ValueError("more padding than there is payload")
    return payload[1 + skipped : len(payload) - payload[0]]
