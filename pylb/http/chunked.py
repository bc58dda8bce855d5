"""Where a chunked body ends (RFC 9112 §7.1), without copying it (pure).

The scanner is given the bytes of a body as they come and says how many of them belong to it, and where in
them the chunks' contents lie. A receiver that frames in the same way gets the data as they are. It is strict:
what two readers could take differently is an error.
"""

from __future__ import annotations

import re
from enum import IntEnum

from pylb.http.fields import CLIENT_FIELDS

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
# As some servers write it: filled up with zeros or blanks to a fixed width.
_LENIENT_LINE = re.compile(rb"0*([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_NOT_TRAILERS = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"connection", b"upgrade"}
    | CLIENT_FIELDS  # what pylb says of the client, and cuts where a client says it of itself
)
_MAX_LINE = 4096
_MAX_TRAILERS = 16384


def no_trailer(name: bytes) -> bool:
    """Whether a receiver that takes this trailer for a header field would read another message.

    See RFC 9110 §6.5.1. The name is in lower case; some receivers take ``_`` for ``-``.
    """
    return name.replace(b"_", b"-") in _NOT_TRAILERS


class ChunkError(Exception):
    """The body breaks the chunked framing."""


class _At(IntEnum):
    SIZE = 0  # in a chunk-size line
    DATA = 1  # in chunk data (and its CRLF, counted with it)
    TRAILER = 2  # in the trailer section
    DONE = 3


class ChunkScanner:
    """Follows one chunked body.

    Args:
        lenient: a chunk's size may have zeros before it and blanks behind it, and lines may end with a bare
            LF (`mended`). Only one reading is left of that; but a client that says it may want somebody to
            take it for something else.
    """

    __slots__ = ("_at", "_lenient", "_size_line", "_left", "_line", "_trailers", "trailers", "bare")

    def __init__(self, lenient: bool = False) -> None:
        self._at = _At.SIZE
        self._lenient = lenient
        self._size_line = _LENIENT_LINE if lenient else _SIZE_LINE
        self._left = 0
        self._line = b""
        self._trailers = 0
        self.trailers: list[bytes] = []
        self.bare: list[int] = []
        """Where in what was fed last line ends lack their CR."""

    @property
    def done(self) -> bool:
        """Whether the last byte of the body was seen."""
        return self._at is _At.DONE

    def feed(self, data: bytes, spans: list[tuple[int, int]] | None = None) -> int:
        """Follow the next bytes; gives how many of ``data`` belong to the body.

        That is ``len(data)`` unless the body ended. To ``spans`` is appended where in ``data`` the chunks'
        contents lie: from an offset up to another.

        Raises:
            ChunkError: the framing is broken; nothing of ``data`` may be passed on.
        """
        position = 0
        length = len(data)
        if self.bare:
            self.bare = []
        while position < length and self._at is not _At.DONE:
            if self._at is _At.DATA:
                # _left counts the CRLF after the data too.
                take = min(self._left, length - position)
                content = min(take, max(self._left - 2, 0))
                if spans is not None and content:
                    spans.append((position, position + content))
                ending = data[position + content : position + take]
                if ending[:1] == b"\n" and self._lenient and self._left - content == 2:
                    position += content
                    self.bare.append(position)
                    position += 1
                    self._left = 0
                    self._at = _At.SIZE
                    continue
                if ending and ending != b"\r\n"[2 - (self._left - content) :][: len(ending)]:
                    raise ChunkError("chunk data does not end with CRLF")
                position += take
                self._left -= take
                if not self._left:
                    self._at = _At.SIZE
                continue
            end = data.find(b"\n", position)
            if end < 0:
                self._line += data[position:]
                if len(self._line) > _MAX_LINE:
                    raise ChunkError("line too long")
                if b"\r" in self._line[:-1]:
                    raise ChunkError("bare CR")
                return length
            line = self._line + data[position : end + 1]
            self._line = b""
            position = end + 1
            if len(line) > _MAX_LINE:
                raise ChunkError("line too long")
            if line[-2:] == b"\r\n":
                self._end_of_line(line[:-2])
            elif self._lenient:
                self.bare.append(end)
                self._end_of_line(line[:-1])
            else:
                raise ChunkError("bad line ending")
        return position

    def mended(self, data: bytes, spans: list[tuple[int, int]]) -> tuple[bytes, list[tuple[int, int]]]:
        """What was fed last, and where in it the contents lie, with the CRs that were missing."""
        pieces: list[bytes] = []
        moved: list[tuple[int, int]] = []
        waiting = iter([*spans, (len(data), 0)])
        start, end = next(waiting)
        last = 0
        for added, position in enumerate(self.bare):
            while start < position:
                moved.append((start + added, end + added))
                start, end = next(waiting)
            pieces.append(data[last:position])
            last = position
        while end:
            moved.append((start + len(self.bare), end + len(self.bare)))
            start, end = next(waiting)
        return b"\r".join([*pieces, data[last:]]), moved

    def _end_of_line(self, line: bytes) -> None:
        if self._at is _At.SIZE:
            match = self._size_line.fullmatch(line)
            if match is None:
                raise ChunkError("bad chunk size")
            size = int(match[1], 16)
            if size:
                self._left = size + 2
                self._at = _At.DATA
            else:
                self._at = _At.TRAILER
        elif not line:
            self._at = _At.DONE
        else:
            self._trailers += len(line)
            name = line.partition(b":")[0].lower()
            if self._trailers > _MAX_TRAILERS or not _TRAILER.fullmatch(line) or no_trailer(name):
                raise ChunkError("bad trailer")
            self.trailers.append(line)
