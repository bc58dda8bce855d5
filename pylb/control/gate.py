"""Who may ask the admin address for what, decided from a request's fields. Pure.

A unix socket's mode says who may connect, and no web page can. To a TCP address on loopback any program of
this machine can connect, browsers among them: a page of another site may send requests to it, and by DNS
rebinding (a name of that site that leads to 127.0.0.1) even read the answers. So the ``Host`` that was
asked for must be a name of this machine, a page's origin must be the same, and whoever changes something
must know the token.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass

from pylb.config.address import Address

_READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Asked:
    """What the gate looks at; fields that weren't there are None."""

    method: str
    host: str | None
    origin: str | None = None
    content_type: str | None = None
    authorization: str | None = None


class Gate:
    """The rules of one admin address.

    Args:
        address: where it listens.
        token: what a client on TCP must know; without one it may only read.
        reading: with which it may read, beside that.
        machine: this machine's own name, under which it may be asked, too.
    """

    def __init__(
        self, address: Address, token: str | None, machine: str = "", reading: str | None = None
    ) -> None:
        self._open = address.is_unix
        self._token = None if token is None else token.encode()
        self._reading = None if reading is None else reading.encode()
        self._names = {address.host.lower(), "localhost", machine.lower()} - {""}

    def refusal(self, asked: Asked) -> tuple[int, str] | None:
        """Status and reason, None for a request that may go on."""
        if self._open:
            return None
        if asked.host is None or not self._knows(asked.host):
            return 403, "the Host field is neither an address nor a name of this machine"
        if asked.origin is not None and not self._same(asked.origin, asked.host):
            return 403, "a page of another origin may not ask"
        reads = asked.method in _READING
        tokens = [one for one in (self._token, self._reading if reads else None) if one is not None]
        if tokens and not any(_authorized(asked.authorization, one) for one in tokens):
            if not reads and self._reading is not None and _authorized(asked.authorization, self._reading):
                return 403, "with the token of admin_read_token_file one may only read"
            return 401, "the token of admin_token_file is needed (Authorization: Bearer, or --token-file)"
        if reads:
            return None
        if self._token is None:
            return 403, "changes need a unix socket as admin address, or admin_token_file"
        kind = (asked.content_type or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return 415, "changes need Content-Type: application/json"
        return None

    def _knows(self, field: str) -> bool:
        """Whether a Host field names this machine; an IP address always does, as rebinding needs a name."""
        host = _host(field)
        if host is None:
            return False
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host.lower().removesuffix(".") in self._names
        return True

    @staticmethod
    def _same(origin: str, host: str) -> bool:
        scheme, _, authority = origin.partition("://")
        return scheme in ("http", "https") and authority.lower() == host.lower()


def _authorized(field: str | None, token: bytes) -> bool:
    scheme, _, given = (field or "").partition(" ")
    # Compared in constant time, whatever was given.
    same = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), token)
    return same and scheme.lower() == "bearer"


def _host(field: str) -> str | None:
    """The host of a Host field without its port; None where it is none."""
    field = field.strip()
    if field.startswith("["):
        host, bracket, rest = field[1:].partition("]")
        return host if bracket and (not rest or _is_port(rest)) else None
    host, colon, port = field.partition(":")
    return host if host and (not colon or _is_port(colon + port)) else None


def _is_port(text: str) -> bool:
    return text.startswith(":") and text[1:].isascii() and text[1:].isdigit()
