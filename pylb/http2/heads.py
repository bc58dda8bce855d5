"""Sections of fields as HTTP/1.1 has them (RFC 9113 §8.2, §8.3).

Inside pylb a head is HTTP/1.1: whatever a peer says in HTTP/2 is first written as HTTP/1.1 and then goes
through the same strict readers as everything else, so that there is one set of rules. Only what those readers
couldn't see is judged here: pseudo fields, fields of a connection, names and values that don't fit in a line.

Floor: within `pylb.http2` above the sections that are read; knows nothing of frames and connections.
"""

from __future__ import annotations

from collections.abc import Sequence

from pylb.http.chunked import no_trailer
from pylb.http.errors import Refused
from pylb.http.requestline import same_host
from pylb.http2.decode import Section
from pylb.http2.fields import Field, Kind

_MEANING, _PSEUDO, _BAD = int(Kind.MEANING), int(Kind.PSEUDO), int(Kind.BAD)


class Malformed(Refused):
    """A request that breaks the rules of HTTP/2 (RFC 9113 §8.1.1); its stream ends with an error."""

    def __init__(self, reason: str = "syntax") -> None:
        super().__init__(400, reason)


_OF_A_REQUEST = {b":method", b":scheme", b":path", b":authority"}


def _pseudo(fields: Sequence[Field]) -> tuple[dict[bytes, bytes], int]:
    """The pseudo fields that a section begins with, and how many they are."""
    found: dict[bytes, bytes] = {}
    count = 0
    for kind, name, value, _, _ in fields:
        if kind != _PSEUDO:
            break
        found[name] = value
        count += 1
    if len(found) != count:
        raise Malformed
    return found, count


def is_connect(fields: Sequence[Field]) -> bool:
    """Whether a request is a CONNECT."""
    for _, name, value, _, _ in fields:
        if name == b":method":
            return value == b"CONNECT"
    return False


def request_head(fields: Sequence[Field], ended: bool, websocket_key: bytes = b"") -> bytes:
    """The HTTP/1.1 head of a request; chunked if it has a body of unknown length (``ended`` is False).

    An extended CONNECT (RFC 8441) becomes an Upgrade with the given ``Sec-WebSocket-Key``.

    Raises:
        Malformed: it isn't a request of HTTP/2.
        Refused: two readers could take its HTTP/1.1 head differently, or it is a CONNECT.
    """
    pseudo, count = _pseudo(fields)
    lines: list[bytes] = []
    cookies: list[bytes] = []
    host: bytes | None = None
    length = False
    for kind, name, value, line, _ in fields[count:]:
        if not kind:
            lines.append(line)
        elif kind > _MEANING:
            raise Malformed  # a pseudo field behind others is one, too
        elif name == b"cookie":
            cookies.append(value)  # §8.2.3: may be split, is one field in HTTP/1
        elif name == b"content-length":
            length = True
            lines.append(line)
        elif name == b"te":
            if value != b"trailers":
                raise Malformed
            lines.append(b"TE: trailers\r\n")
        elif host is None:
            host = value
        else:
            raise Refused(400, "host")
    method = pseudo.get(b":method")
    path = pseudo.get(b":path")
    protocol = pseudo.get(b":protocol")
    if method == b"CONNECT" and protocol is None:
        raise Refused(405, "method")
    if not method or not path or b":scheme" not in pseudo or b":status" in pseudo:
        raise Malformed
    authority = pseudo.get(b":authority")
    if authority is None:
        authority = host or b""
    elif host is not None and not same_host(host, authority, pseudo[b":scheme"]):
        raise Refused(400, "host")
    if protocol is not None:
        if method != b"CONNECT":
            raise Malformed
        method = b"GET"
        lines.append(b"Connection: upgrade\r\nUpgrade: %b\r\n" % protocol)
        if protocol == b"websocket":
            lines.append(b"Sec-WebSocket-Key: %b\r\n" % websocket_key)
    elif not ended and not length:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if b" " in path or b" " in method or (path[:1] != b"/" and path != b"*"):
        raise Refused(400, "target")
    if cookies:
        lines.append(b"Cookie: %b\r\n" % b"; ".join(cookies))
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, path, authority, b"".join(lines))


_REST = "rest of a usual request"


def usual_head(section: Section) -> bytes | None:
    """`request_head` of a request without a body, from a section with a tail; None where it isn't usual."""
    fields, tail = section.fields, section.tail
    if fields is None or tail is None or not tail.fields:
        return None
    rest = tail.made.get(_REST)
    if rest is None:
        rest = tail.made[_REST] = _rest(tail.fields)
    named, lines = rest
    pseudo = dict(named)
    begin = len(fields) - len(tail.fields)
    for kind, name, value, _, _ in fields[:begin]:
        if kind != _PSEUDO:
            return None
        pseudo[name] = value
    if lines is None or len(pseudo) != len(named) + begin or pseudo.keys() != _OF_A_REQUEST:
        return None
    method, path, authority = pseudo[b":method"], pseudo[b":path"], pseudo[b":authority"]
    if path[:1] != b"/" or b" " in path or b" " in method or not method or method == b"CONNECT":
        return None
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, path, authority, lines)


def _rest(fields: Sequence[Field]) -> tuple[dict[bytes, bytes], bytes | None]:
    """The pseudo fields and the lines of the fields of a tail; no lines where it isn't a usual one."""
    named: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    cookies: list[bytes] = []
    for kind, name, value, line, _ in fields:
        if kind == _PSEUDO and not (lines or cookies or name in named):
            named[name] = value
        elif not kind:
            lines.append(line)
        elif name == b"cookie" and kind == _MEANING:
            cookies.append(value)
        else:
            return {}, None
    if cookies:
        lines.append(b"Cookie: %b\r\n" % b"; ".join(cookies))
    return named, b"".join(lines)


def response_head(fields: Sequence[Field], ended: bool) -> bytes:
    """The HTTP/1.1 head of an HTTP/2 server's response; chunked if it has a body of unknown length.

    Raises:
        ValueError: it is malformed.
    """
    if not fields or fields[0][1] != b":status":
        raise ValueError("no :status")
    status = fields[0][2]
    lines: list[bytes] = []
    length = False
    for kind, name, _, line, _ in fields[1:]:
        if kind:
            if kind > _MEANING or name == b"te":
                raise ValueError(f"the field {name[:50].decode('latin-1')!r}")
            length = length or name == b"content-length"
        lines.append(line)
    if not length and status[:1] != b"1" and status not in (b"204", b"304"):
        lines.append(b"content-length: 0\r\n" if ended else b"transfer-encoding: chunked\r\n")
    return b"HTTP/1.1 %b \r\n%b\r\n" % (status, b"".join(lines))


def tunnel_head(fields: Sequence[Field], protocol: bytes) -> bytes:
    """The HTTP/1.1 head, a 101, of the response that makes a tunnel of an extended CONNECT (RFC 8441 §5).

    Raises:
        ValueError: it is malformed.
    """
    lines = []
    for kind, name, _, line, _ in fields[1:]:
        if kind and (kind > _MEANING or name == b"te"):
            raise ValueError(f"the field {name[:50].decode('latin-1')!r}")
        if name != b"content-length":
            lines.append(line)
    start = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %b\r\n" % protocol
    return b"%b%b\r\n" % (start, b"".join(lines))


def trailer_lines(fields: Sequence[Field]) -> list[bytes]:
    """Trailer fields as lines without CRLF, without those that only a header section may have.

    Raises:
        ValueError: a field that no trailer section may have (§8.1).
    """
    lines = []
    for kind, name, _, line, _ in fields:
        if kind >= _PSEUDO:
            raise ValueError(f"the trailer {name[:50].decode('latin-1')!r}")
        if not no_trailer(name) and name != b"te":
            lines.append(line[:-2])
    return lines
