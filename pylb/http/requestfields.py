"""Which fields mean something in a request, and the expressions that find them.

Pure, and below `request.py`, which says what they mean. A *usual* head has a common request line, one
``Host``, at most a ``Content-Length`` and ``Connection: keep-alive``, and else only fields that mean nothing:
one expression understands all of it. Whatever it doesn't match is for the line by line expression, `FIND`, to
tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import httptools

from pylb.http.errors import Refused
from pylb.http.fields import any_case, finder, unlike, without
from pylb.http.requestline import COMMON_HOST, COMMON_LINE

_NAMES = [
    *(b"connection", b"content-length", b"expect", b"forwarded", b"host", b"http2-settings"),
    *(b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"),
    *(b"x-client-cert-subject", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
]
FIND = finder([*_NAMES, b"x-request-id"])
"""Fields that mean something; those that `RequestHead` says nothing about are cut."""
KEPT = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"via", b"close", b"keep-alive"}
    | {b"authorization", b"cookie", b"content-type"}
    | {b"x-request-id", b"x-forwarded-proto", b"x-forwarded-host"}
)
"""Fields that a client may not have removed by naming them in Connection (RFC 9110 §7.6.1 speaks only of
hop-by-hop fields; taking these away would change the message or its framing)."""


@cache
def usual(count: int) -> Callable[[bytes], re.Match[bytes] | None]:
    """What understands a usual head with up to so many fields; it may take one with fewer for unusual.

    Groups: the method, the end of the request line, the value of ``Host``, the line ``Connection: keep-alive``
    with its CRLF, the value of ``Content-Length``; the last three are None where there is none. Of each there
    is at most one.

    To be used for heads to which nothing is done because of an ``X-Request-ID``. Its time is linear: a line
    can match one of the alternatives only, and no line can end but at its CRLF.
    """
    space = rb"[\t ]*+"
    lines = rb"(?:" + unlike(_NAMES, [b"x-request-id"]) + rb"){0,%d}" % max(0, (count - 3) // 4)
    once = [  # (?(3)(?!)) fails where group 3 has matched before
        any_case(b"host") + rb":(?(3)(?!))" + space + rb"(" + COMMON_HOST + rb")" + space + rb"\r\n",
        rb"(?(4)(?!))(" + any_case(b"connection:") + space + any_case(b"keep-alive") + space + rb"\r\n)",
        any_case(b"content-length:") + rb"(?(5)(?!))" + space + rb"([0-9]{1,18})" + space + rb"\r\n",
    ]
    expression = COMMON_LINE + lines + rb"(?:(?:" + rb"|".join(once) + rb")" + lines + rb"){1,3}\r\n"
    return re.compile(expression).fullmatch


def judge(block: bytes) -> None:
    """What llhttp says of a block of fields.

    Raises:
        Refused: it can't be read.
    """
    try:
        httptools.HttpRequestParser(None).feed_data(b"POST / HTTP/1.1" + block)
    except httptools.HttpParserUpgrade:
        # It doesn't look at the transfer coding then.
        judge(without(block[:-4], {b"upgrade"}) + b"\r\n\r\n")
    except httptools.HttpParserError:
        raise Refused(400, "syntax") from None
