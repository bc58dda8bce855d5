"""Header blocks: HPACK as it is written (RFC 7541), from heads of HTTP/1.1.

There is no dynamic table: a block depends on nothing but its head, so one that was made once serves for every
connection, is sent or dropped at will, and is kept for heads that repeat. Of a head that differs in a line or
two (a date, an entity tag) the other lines are kept, too. Names are Huffman-coded, since there are few of
them; values aren't, as that would cost more time than the bytes are worth.

Credentials and short cookies are marked as never to be indexed (§7.1.3).

Floor: within `pylb.http2` above the Huffman code. Knows nothing of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pylb.http.chunked import no_trailer
from pylb.http2 import huffman
from pylb.http2.fields import PAIRS

_INDEX: dict[bytes, int] = {}
_WHOLE: dict[tuple[bytes, bytes], bytes] = {}
for _at, (_name, _value) in enumerate(PAIRS):
    if _at:
        _INDEX.setdefault(_name, _at)
        if _value:
            _WHOLE[_name, _value] = bytes([0x80 | _at])

_CONNECTION_FIELDS = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te"}
)
_SECRETS = frozenset({b"authorization", b"proxy-authorization"})
_SHORT_COOKIE = 20  # below it could be guessed byte by byte

EMPTY_TABLE = b"\x20"
"""Says that the table has no bytes (§6.3): due where a peer wants a smaller one than it has at first."""


def _integer(value: int, prefix: int, first: int) -> bytes:
    """§5.1."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([first | value])
    out = bytearray([first | most])
    value -= most
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(text: bytes) -> bytes:
    """A string literal, Huffman-coded where that is shorter (§5.2)."""
    coded = huffman.encode(text)
    if len(coded) < len(text):
        return _integer(len(coded), 7, 0x80) + coded
    return _integer(len(text), 7, 0) + text


def field(name: bytes, value: bytes) -> bytes:
    """One field; the name in lower case."""
    whole = _WHOLE.get((name, value))
    if whole is not None:
        return whole
    first = 0x10 if name in _SECRETS or (name == b"cookie" and len(value) < _SHORT_COOKIE) else 0
    index = _INDEX.get(name, 0)
    start = _integer(index, 4, first)
    if not index:
        start += string(name)
    return b"%b%b%b" % (start, _integer(len(value), 7, 0), value)


class _Kept:
    """What was made of bytes, kept for when they come again."""

    __slots__ = ("known", "_make", "_bytes", "_most")

    def __init__(self, make: Callable[[bytes], bytes], most: int) -> None:
        self.known: dict[bytes, bytes] = {}
        """Whoever is in a hurry looks here first."""
        self._make = make
        self._bytes = 0
        self._most = most

    def __call__(self, key: bytes) -> bytes:
        made = self.known.get(key)
        if made is None:
            made = self._make(key)
            self._bytes += len(key) + len(made) + 150
            if self._bytes > self._most:
                self.known.clear()
                self._bytes = len(key) + len(made) + 150
            self.known[key] = made
        return made


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" \t")


def _make_line(line: bytes) -> bytes:
    name, value = _split(line)
    return b"" if name in _CONNECTION_FIELDS else field(name, value)


def _make_request_line(line: bytes) -> bytes:
    name, value = _split(line)
    if name == b"host":
        return b":" + field(
            b":authority", value
        )  # the colon stands before no field: whoever reads it, moves it
    if (name, value) == (b"te", b"trailers"):
        return field(name, value)
    return b"" if name in _CONNECTION_FIELDS or name == b"expect" else field(name, value)


_line = _Kept(_make_line, 1 << 20)
_request_line = _Kept(_make_request_line, 1 << 20)
_SCHEMES = {b"http": field(b":scheme", b"http"), b"https": field(b":scheme", b"https")}


def _response(head: bytes) -> bytes:
    first, *lines = head[:-4].split(b"\r\n")
    return b"".join([field(b":status", first[9:12]), *map(_line, lines)])


response_block = _Kept(_response, 1 << 20)
"""The block of a response, from an HTTP/1.1 head that was found good."""


def _request(scheme: bytes) -> Callable[[bytes], bytes]:
    def make(head: bytes) -> bytes:
        first, *lines = head[:-4].split(b"\r\n")
        method, path, _ = first.split(b" ")
        authority = b""
        rest = []
        for made in map(_request_line, lines):
            if made[:1] == b":":
                authority = made[1:]
            else:
                rest.append(made)
        start = (field(b":method", method), _SCHEMES[scheme], field(b":path", path), authority)
        return b"".join((*start, *rest))

    return make


request_blocks = {scheme: _Kept(_request(scheme), 1 << 20) for scheme in _SCHEMES}
"""By scheme: gives the block of a request, from the head that an HTTP/1.1 server would get."""


def connect_block(head: bytes, scheme: bytes, protocol: bytes) -> bytes:
    """The block of an extended CONNECT (RFC 8441), from the head of an Upgrade."""
    first, *lines = head[:-4].split(b"\r\n")
    _, path, _ = first.split(b" ")
    authority = b""
    rest = []
    for line in lines:
        made = _request_line(line)
        if made[:1] == b":":
            authority = made[1:]
        elif not line.lower().startswith(b"sec-websocket-key:"):
            rest.append(made)
    start = (
        field(b":method", b"CONNECT"),
        field(b":protocol", protocol),
        _SCHEMES[scheme],
        field(b":path", path),
    )
    return b"".join((*start, authority, *rest))


def tunnel_block(head: bytes) -> bytes:
    """The block that says to an extended CONNECT that there is a tunnel, from the head of a 101."""
    lines = head[:-4].split(b"\r\n")[1:]
    kept = [line for line in lines if not line.lower().startswith(b"sec-websocket-accept:")]
    return b"".join([field(b":status", b"200"), *map(_line, kept)])


def _trailers(text: bytes) -> bytes:
    return b"".join([_line(line) for line in text.split(b"\r\n") if not no_trailer(_split(line)[0])])


_trailers_block = _Kept(_trailers, 1 << 18)


def trailers_block(lines: Iterable[bytes]) -> bytes:
    """The block of trailer fields, without those that only a header section may have; empty without any."""
    text = b"\r\n".join(lines)
    return _trailers_block(text) if text else b""
