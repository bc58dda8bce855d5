"""The fields of a request: which mean something, the expressions that find them, and what is done to them.

Pure, and below `request.py`, which reads heads with it. Two expressions know the names. `FIND` goes from line
to line through the fields of any head. `usual` judges a *usual* head as a whole, which has a common request
line, one ``Host``, at most a ``Content-Length`` and a ``Connection: keep-alive``, and else only fields that
mean nothing: it takes half the time, and whatever it doesn't match is for `FIND` to tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import httptools

from pylb.http.errors import Refused
from pylb.http.fields import CLIENT_FIELDS, TOKEN, any_case, finder, unlike, without
from pylb.http.requestline import COMMON_HOST, COMMON_LINE, IS_HOST

CONTINUED = frozenset({b"x-forwarded-for", b"forwarded"})
"""Fields in which each proxy adds what it knows to what the one before it has said."""
OF_THE_CLIENT = CLIENT_FIELDS - CONTINUED - {b"x-client-cert-subject"}
"""Those of `CLIENT_FIELDS` that a trusted proxy's request keeps as they came."""
TRACED = (b"x-request-id", b"traceparent", b"tracestate")
"""Fields that any client may send: they say which request it is, and not who asks."""
_NAMES = [
    *(b"connection", b"content-length", b"expect", b"host", b"http2-settings"),
    *(b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"),
    *sorted(CLIENT_FIELDS),
]
CREDENTIALS = (b"authorization", b"proxy-authorization")
_OF_CONNECTIONS = (b"negotiate", b"ntlm")
"""Schemes whose credentials authenticate not the request but its connection (RFC 4559)."""
FIND = finder([*_NAMES, *TRACED, *CREDENTIALS])
"""Fields that mean something; those that `RequestHead` says nothing about are cut."""
_KEPT = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"via", b"close", b"keep-alive"}
    | {b"authorization", b"cookie", b"content-type", *TRACED, *OF_THE_CLIENT}
)
"""Fields that a client may not have removed by naming them in Connection (RFC 9110 §7.6.1 speaks only of
hop-by-hop fields; taking these away would change the message or its framing)."""
_NAMED = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_TRAILERS = re.compile(rb"(?:^|,)[\t ]*trailers[\t ]*(?:,|$)")
_UPGRADE = re.compile(TOKEN + rb"+(?:/" + TOKEN + rb"+)?")


@cache
def usual(count: int) -> Callable[[bytes], re.Match[bytes] | None]:
    """What understands a usual head with up to so many fields; it may take one with fewer for unusual.

    Groups: the method, the end of the request line, the value of ``Host``, a line ``Connection: keep-alive``
    with its CRLF, the value of ``Content-Length``; the last three are None where there is none. Of each there
    is at most one. ``count`` is at least 3.

    To be used for heads to which nothing is done because of one of `TRACED`. Its time is linear: a line
    can match one of the alternatives only, and no line can end but at its CRLF.
    """
    space = rb"[\t ]*+"
    meaning = unlike(_NAMES, TRACED, dict.fromkeys(CREDENTIALS, _OF_CONNECTIONS))
    lines = rb"(?:" + meaning + rb"){0,%d}" % ((count - 3) // 4)
    once = [  # (?(3)(?!)) fails where group 3 has matched before
        any_case(b"host") + rb":(?(3)(?!))" + space + rb"(" + COMMON_HOST + rb")" + space + rb"\r\n",
        rb"(?(4)(?!))(" + any_case(b"connection:") + space + any_case(b"keep-alive") + space + rb"\r\n)",
        any_case(b"content-length:") + rb"(?(5)(?!))" + space + rb"([0-9]{1,18})" + space + rb"\r\n",
    ]
    expression = COMMON_LINE + lines + rb"(?:(?:" + rb"|".join(once) + rb")" + lines + rb"){1,3}\r\n"
    return re.compile(expression).fullmatch


def value_of(block: bytes, match: re.Match[bytes]) -> bytes:
    """The value of a field that was found, as it came, without the white space around it."""
    start, end = match.span(2)
    return block[start:end].strip(b"\t ")


def understand(
    block: bytes, http11: bool, kept: frozenset[bytes], good_host: bytes | None
) -> tuple[bytes | None, int, bool, list[bytes], list[re.Match[bytes]], bool]:
    """Judge a block of fields, from the CRLF before the first to the empty line at the end.

    Gives the value of ``Host``; the bytes of a body, and whether it is chunked; the names of fields that mean
    something and stay as they came; the lines to be cut; and whether it has credentials that authenticate the
    connection. ``kept`` are those of client fields and `TRACED` that stay, ``good_host`` is a host that was
    judged before.

    Raises:
        Refused: 400, 417.
    """
    *found, rest = FIND.finditer(block.lower())
    if rest.start() != len(block) - 3:
        raise Refused(400, "syntax")
    host: bytes | None = None
    content_length = -1
    chunked = False
    given: list[bytes] = []
    cut: list[re.Match[bytes]] = []
    personal = False
    for match in found:
        name = match[1]
        if name == b"host":
            value = value_of(block, match)
            if host is not None or (value != good_host and not IS_HOST.fullmatch(value)):
                raise Refused(400, "host")
            host = value
        elif name == b"content-length":
            value = value_of(block, match)
            if content_length >= 0 or not value.isdigit() or len(value) > 18:
                raise Refused(400, "content_length")
            content_length = int(value)
        elif name == b"transfer-encoding":
            if chunked or match[2].strip(b"\t ") != b"chunked" or not http11:
                raise Refused(400, "transfer_encoding")
            chunked = True
        elif name == b"expect" and match[2].strip(b"\t ") != b"100-continue":
            raise Refused(417, "expect")
        elif name.replace(b"_", b"-") in CREDENTIALS:
            personal = personal or match[2].strip(b"\t ").startswith(_OF_CONNECTIONS)
        elif name in kept or (name == b"expect" and http11):
            given.append(name)
        else:
            cut.append(match)
    if content_length >= 0 and chunked:
        raise Refused(400, "content_length_and_transfer_encoding")
    judge(block)
    return host, max(content_length, 0), chunked, given, cut, personal


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


def edit(block: bytes, cut: list[re.Match[bytes]], http11: bool, body: bool) -> tuple[bytes, bool, bytes]:
    """The fields for the server, each with a CRLF before it, without those that are cut.

    With it what these say: whether the connection stays, and the protocol that the client wants (or nothing).
    """
    pieces: list[bytes] = []
    end = 0
    tokens: set[bytes] = set()
    upgrades: list[bytes] = []
    trailers = False
    for match in cut:
        pieces.append(block[end : match.start() - 1])
        end = match.end() - 1
        if match[1] == b"connection":
            tokens.update(_NAMED.findall(match[2]))
        elif match[1] == b"upgrade":
            value = value_of(block, match)
            if value or upgrades:
                upgrades.append(value)
        elif match[1] == b"te":
            trailers = trailers or _TRAILERS.search(match[2].strip(b"\t ")) is not None
    pieces.append(block[end:-4])
    out = b"".join(pieces)
    named = tokens - _KEPT
    if named:
        out = without(out, named)
    # An upgrade to HTTP/2 in clear text would carry requests past every check (so HTTP2-Settings goes
    # too), and with a body it would be unclear where the other protocol begins. Of several none is taken.
    upgrade = b", ".join(upgrades)
    if (
        upgrade
        and (b"upgrade" in tokens and http11 and _UPGRADE.fullmatch(upgrade))
        and upgrade[:2].lower() != b"h2"
        and not body
    ):
        out += b"\r\nConnection: upgrade\r\nUpgrade: " + upgrade
    else:
        upgrade = b""
        if trailers and http11:  # they are passed on, so the server may send some (RFC 9110 §10.1.4)
            out += b"\r\nConnection: TE\r\nTE: trailers"
    return out, b"close" not in tokens and (http11 or b"keep-alive" in tokens), upgrade
