"""Tokens: how a cookie's value names a server, with dates and a signature where these are wanted.

A token is ``ID``, ``ID|LAST`` or ``ID|LAST|FIRST``; a signed one ends with ``.SIGNATURE``. Dates are those
of HAProxy (configuration manual, ``cookie``: ``maxidle``, ``maxlife``): when the client was seen last, and
when it got its server, in units of four seconds, five characters each. So both can serve the same clients.

A client may make any token that isn't signed, and so choose among the servers that there are, and no more.

Floor: the lowest of `pylb.sticky`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "hashed", "signed"]

UNIT = 4
"""Seconds that dates are counted in."""
FUTURE = 86400
"""Seconds by which a date may be ahead of this machine's clock."""
_DATE = 5  # characters
_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_MAC = 16  # bytes of a signature
# What RFC 6265 §4.1.1 allows in a value, without our own marks.
_UNFIT = re.compile(rb"[^!#$&-+./0-9:<-@A-Z\[\]-`a-z{}-]")


@dataclass(frozen=True, slots=True)
class Token:
    """What a cookie says; dates are seconds since 1970, 0 where there is none."""

    id: bytes
    last: int = 0
    first: int = 0


class Tokens:
    """Makes tokens of a backend's servers, and reads them.

    Args:
        secret: of hashes and signatures.
        backend: in whose name they are made: another one's signature is none.
    """

    def __init__(self, kind: Kind, secret: bytes = b"", backend: str = "") -> None:
        self._hashed = kind == "hashed"
        self.signed = kind == "signed"
        self._secret = hmac.digest(secret, backend.encode(), "sha256")

    def id_of(self, name: str, address: str) -> bytes:
        """What names a server: its name in the characters of a cookie, or a hash of its address."""
        if self._hashed:
            return hashlib.blake2b(address.encode(), digest_size=8, key=self._secret).hexdigest().encode()
        return _UNFIT.sub(lambda match: b"%%%02X" % match[0][0], name.encode())

    def written(self, token: Token) -> bytes:
        """The token as a cookie's value."""
        text = token.id
        if token.last:
            text += b"|" + _date(token.last)
            if token.first:
                text += b"|" + _date(token.first)
        return text + b"." + self._signature(text) if self.signed else text

    def read(self, value: bytes) -> Token | None:
        """What a cookie's value says; None where its signature is wrong or missing."""
        text = value
        if self.signed:
            text, _, given = value.rpartition(b".")
            if not hmac.compare_digest(given, self._signature(text)):
                return None
        id_, bar, dates = text.partition(b"|")
        if not bar:
            return Token(id_)
        last, _, first = dates.partition(b"|")
        return Token(id_, _seconds(last), _seconds(first))

    def _signature(self, text: bytes) -> bytes:
        mac = hmac.digest(self._secret, text, "sha256")[:_MAC]
        return base64.urlsafe_b64encode(mac).rstrip(b"=")


def _date(seconds: int) -> bytes:
    units = (seconds + UNIT - 1) // UNIT
    return bytes(_DIGITS[units >> shift & 63] for shift in (24, 18, 12, 6, 0))


def _seconds(date: bytes) -> int:
    """0 for what is no date."""
    units = 0
    for digit in date[:_DATE]:
        value = _VALUES.get(digit)
        if value is None:
            return 0
        units = units << 6 | value
    return units * UNIT if len(date) >= _DATE else 0
