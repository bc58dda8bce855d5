"""A request as it is written down: a URL, a method, fields, and who asks.

Floor: the bottom of `pylb.explain`. Makes the bytes of a head and the facts of a connection, as a worker's
listener would know them; chooses no frontend.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import quote, urlsplit

from pylb.worker.facts import Client, Endpoint

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PORT = 50_000
"""The client's port, which nothing depends on."""


_SCHEMES = {
    "http": (False, False, 80),
    "https": (True, False, 443),
    "tcp": (False, True, 0),
    "tls": (True, True, 443),
}
"""By scheme: whether it is TLS, whether what is in it is none of pylb's business, and the usual port."""


class BadRequest(ValueError):
    """A request that can't be asked; ``key`` is ``url``, ``method``, ``headers``, ``from`` or ``alpn``."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(why)
        self.key = key


@dataclass(frozen=True)
class Request:
    """What is asked; `head` gives the bytes. A connection in TCP mode is ``tcp://HOST:PORT``, and one of TLS
    that passes through ``tls://NAME``."""

    url: str
    method: str = "GET"
    headers: Sequence[tuple[str, str]] = ()
    source: str = "127.0.0.1"
    alpn: Sequence[str] = ()
    """The protocols that a ``tls://`` client offers."""
    raw: bool = field(init=False)
    """Whether it is a connection in TCP mode."""
    https: bool = field(init=False)
    host: str = field(init=False)
    """With the port, where the URL has one."""
    name: str = field(init=False)
    """Without the port."""
    port: int = field(init=False)
    explicit: bool = field(init=False)
    """Whether the URL names the port."""
    target: str = field(init=False)

    def __post_init__(self) -> None:
        """Raises BadRequest."""
        scheme, separator, rest = self.url.partition("://")
        if scheme.lower() not in _SCHEMES or not separator:
            raise BadRequest(
                "url", f"{self.url!r} is no URL; write https://HOST/PATH, tcp://HOST:PORT or tls://NAME"
            )
        tls, raw, usual_port = _SCHEMES[scheme.lower()]
        if not self.url.isprintable() or " " in self.url:
            raise BadRequest(
                "url", f"{self.url!r}: white space and control characters have no place in a URL"
            )
        rest = rest.partition("#")[0]
        end = min(at for at in (rest.find("/"), rest.find("?"), len(rest)) if at >= 0)
        try:
            split = urlsplit(f"//{rest[:end]}")
            port, name = split.port, split.hostname or ""
        except ValueError as error:
            raise BadRequest("url", f"{self.url!r}: {error}") from None
        if not name or "@" in rest[:end]:
            raise BadRequest("url", f"{self.url!r} names no host")
        # As it is written: what rules make of dots and percent signs is to be seen.
        target = rest[end:] if rest[end : end + 1] == "/" else "/" + rest[end:]
        ascii_name = name if name.isascii() else _idna(self.url, name)
        host = f"[{ascii_name}]" if ":" in ascii_name else ascii_name
        if raw and rest[end:] not in ("", "/"):
            raise BadRequest("url", f"{self.url!r}: a connection in TCP mode has no path")
        if self.alpn and not (raw and tls):
            raise BadRequest("alpn", "only a tls:// client's offer can be told")
        _set(self, "raw", raw)
        _set(self, "https", tls)
        _set(self, "name", ascii_name)
        _set(self, "explicit", port is not None)
        _set(self, "port", port if port is not None else usual_port)
        _set(self, "host", f"{host}:{port}" if port is not None else host)
        _set(self, "target", quote(target, safe="".join(map(chr, range(33, 127)))))
        if _TOKEN.fullmatch(self.method) is None:
            raise BadRequest("method", f"{self.method!r} is no method, such as GET")
        for key, value in self.headers:
            if _TOKEN.fullmatch(key) is None or "\r" in value or "\n" in value:
                raise BadRequest("headers", f"{key!r} is no header field; write 'Name: value'")
        try:
            ipaddress.ip_address(self.source)
        except ValueError:
            raise BadRequest("from", f"{self.source!r} is no IP address") from None

    def head(self) -> bytes:
        """The head that a client of HTTP/1.1 sends."""
        given = {key.lower() for key, _ in self.headers}
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        if "host" not in given:
            lines.append(f"Host: {self.host}")
        lines += [f"{key}: {value}" for key, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def header_of(text: str) -> tuple[str, str]:
    """``Name: value`` in two parts; raises BadRequest."""
    name, colon, value = text.partition(":")
    if not colon:
        raise BadRequest("headers", f"{text!r} is no header field; write 'Name: value'")
    return name.strip(), value.strip()


def headers_of(table: Mapping[str, str | Sequence[str]]) -> list[tuple[str, str]]:
    """A table of names and values, of which some have a list."""
    return [
        (name, value)
        for name, values in table.items()
        for value in ([values] if isinstance(values, str) else values)
    ]


def _idna(url: str, name: str) -> str:
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        raise BadRequest("url", f"{url!r}: {name!r} is no host name") from None


def _name(host: str) -> bytes:
    """The server name that TLS asks for; an address is none (RFC 6066 §3)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.encode()
    return b""


def _set(request: Request, name: str, value: object) -> None:
    object.__setattr__(request, name, value)


class Asking(Client):
    """The facts of the connection that a request would come by.

    Args:
        bind: the key of the bound address.
        tls: whether TLS ends at the frontend.
        subject: of a client certificate.
    """

    __slots__ = ("_asks", "_tls", "_subject")

    def __init__(self, request: Request, bind: str, tls: bool, subject: str = "") -> None:
        super().__init__(cast(asyncio.BaseTransport, None), bind)
        self._asks = request
        self._tls = tls
        self._subject = subject

    @property
    def source(self) -> Endpoint | None:
        return self._asks.source, _PORT

    def address(self) -> Endpoint | None:
        return self.source

    @property
    def destination(self) -> Endpoint | None:
        host, _, port = self.bind.rpartition(":")
        return (host.strip("[]"), int(port)) if port.isdigit() else None

    @property
    def tls(self) -> dict[str, bytes]:
        if self._asks.raw and self._asks.https:
            return {"authority": _name(self._asks.name)}
        if not self._tls:
            return {}
        return {"alpn": b"http/1.1", "authority": self._asks.name.encode()}

    @property
    def alpn(self) -> Sequence[bytes]:
        if self._asks.raw:
            return tuple(one.encode() for one in self._asks.alpn)
        return (b"http/1.1",) if self._tls else ()

    @property
    def tls_version(self) -> str:
        return "TLSv1.3" if self._tls else ""

    @property
    def subject(self) -> bytes:
        return self._subject.encode()
