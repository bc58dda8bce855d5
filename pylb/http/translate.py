"""Heads between HTTP/2 and HTTP/1.1 (RFC 9113 §8.2, §8.3; pure).

Inside pylb a head is HTTP/1.1: whatever a client or server says in HTTP/2 is first written as HTTP/1.1
and then goes through the same strict readers as everything else, so that there is one set of rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pylb.http.chunked import no_trailer
from pylb.http.errors import Refused
from pylb.http.requestline import same_host

Header = tuple[bytes, bytes]

_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # what could end a line or split a field
_TRAILERS = (b"te", b"trailers")
"""That the sender takes trailers; the only value of the field in HTTP/2 (§8.2.2)."""
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_CONNECTION_FIELDS = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te"}
)


def request_to_http1(headers: Iterable[Header], ended: bool, websocket_key: bytes = b"") -> bytes:
    """The HTTP/1.1 head of a request; chunked if it has a body of unknown length (``ended`` is False).

    An extended CONNECT (RFC 8441) becomes an Upgrade with the given ``Sec-WebSocket-Key``.

    Raises:
        Refused: two readers could take its HTTP/1.1 head differently.
    """
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    host: bytes | None = None
    cookies: list[bytes] = []
    length = False
    for name, value in headers:
        if _FORBIDDEN.search(value):
            raise Refused(400, "syntax")
        if name.startswith(b":"):
            if name in pseudo:
                raise Refused(400, "syntax")
            pseudo[name] = value
        elif not _NAME.fullmatch(name):
            raise Refused(400, "syntax")
        elif name == b"host":
            host = value
        elif name == b"cookie":
            cookies.append(value)  # RFC 9113 §8.2.3: may be split, is one field in HTTP/1
        elif name not in _CONNECTION_FIELDS:
            length = length or name == b"content-length"
            lines.append(name + b": " + value)
        elif (name, value) == _TRAILERS:
            lines.append(b"TE: trailers")
    method = pseudo.get(b":method", b"")
    path = pseudo.get(b":path", b"")
    protocol = pseudo.get(b":protocol")
    authority = pseudo.get(b":authority", host if host is not None else b"")
    if host is not None and not same_host(host, authority, pseudo.get(b":scheme", b"")):
        raise Refused(400, "host")
    if method == b"CONNECT" and protocol is not None:
        method = b"GET"
        lines += (b"Connection: upgrade", b"Upgrade: " + protocol)
        if protocol == b"websocket":
            lines.append(b"Sec-WebSocket-Key: " + websocket_key)
    elif method == b"CONNECT":
        raise Refused(405, "method")
    elif not ended and not length:
        lines.append(b"Transfer-Encoding: chunked")
    if b" " in path or b" " in method or path[:1] != b"/" and path != b"*":
        raise Refused(400, "target")
    if cookies:
        lines.append(b"Cookie: " + b"; ".join(cookies))
    return b"\r\n".join((method + b" " + path + b" HTTP/1.1", b"Host: " + authority, *lines, b"", b""))


def request_to_http2(head: bytes, scheme: bytes) -> list[Header]:
    """The fields of a request that goes to an HTTP/2 server, from the head that an HTTP/1.1 one would get."""
    line, *fields = head[:-4].split(b"\r\n")
    method, path, _ = line.split(b" ")
    headers: list[Header] = [(b":method", method), (b":scheme", scheme), (b":path", path)]
    rest: list[Header] = []
    for name, value in _fields(fields):
        if name == b"host":
            headers.append((b":authority", value))
        elif name not in _CONNECTION_FIELDS and name != b"expect" or (name, value) == _TRAILERS:
            rest.append((name, value))
    return [*headers, *rest]


def response_to_http1(headers: Iterable[Header], ended: bool) -> bytes:
    """The HTTP/1.1 head of an HTTP/2 server's response; chunked if it has a body of unknown length.

    Raises:
        ValueError: it can't be written as HTTP/1.1.
    """
    status = b""
    lines: list[bytes] = []
    length = False
    for name, value in headers:
        if _FORBIDDEN.search(value):
            raise ValueError("control byte in a field")
        if name == b":status":
            status = value
        elif not _NAME.fullmatch(name):
            raise ValueError("bad field name")
        elif name not in _CONNECTION_FIELDS:
            length = length or name == b"content-length"
            lines.append(name + b": " + value)
    if not length and status[:1] != b"1" and status not in (b"204", b"304"):
        lines.append(b"content-length: 0" if ended else b"transfer-encoding: chunked")
    return b"\r\n".join((b"HTTP/1.1 " + status + b" ", *lines, b"", b""))


def response_to_http2(head: bytes) -> list[Header]:
    """The fields of a response for an HTTP/2 client, from a head that was found good."""
    line, *fields = head[:-4].split(b"\r\n")
    headers: list[Header] = [(b":status", line[9:12])]
    headers += [(name, value) for name, value in _fields(fields) if name not in _CONNECTION_FIELDS]
    return headers


def trailers_to_http2(lines: Iterable[bytes]) -> list[Header]:
    """Trailer fields, without those that only a header section may have."""
    return [(name, value) for name, value in _fields(lines) if not _dropped(name)]


def trailers_to_http1(headers: Iterable[Header]) -> list[bytes]:
    """Trailer fields as lines, without those that only a header section may have."""
    return [
        name + b": " + value
        for name, value in headers
        if _NAME.fullmatch(name) and not _FORBIDDEN.search(value) and not _dropped(name)
    ]


def _dropped(trailer: bytes) -> bool:
    return trailer in _CONNECTION_FIELDS or no_trailer(trailer)


def _fields(lines: Iterable[bytes]) -> Iterable[Header]:
    for line in lines:
        name, _, value = line.partition(b":")
        yield name.lower(), value.strip(b" \t")
