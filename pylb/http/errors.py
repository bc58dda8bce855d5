"""The responses that pylb itself gives, and the refusals that lead to them (pure).

This is the one place where such a response is made: errors, refusals, redirects, health paths, overflow.
Whatever the client speaks, it is a head and a body of the same kind as a server's.
"""

from __future__ import annotations

from http import HTTPStatus

from pylb.http.response import ResponseHead


class Refused(Exception):
    """A message that is not passed on.

    ``status`` is what the client is answered, ``reason`` a word for the counters and logs.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.to_head = False
        """Whether it is the answer to a HEAD request whose head isn't known, and so has no body."""


class Answer:
    """A whole response: its head, as if it had come from a server, and its body."""

    __slots__ = ("head", "body", "error")

    def __init__(self, head: ResponseHead, body: bytes = b"", error: bool = False) -> None:
        self.head = head
        self.body = body
        self.error = error
        """Whether it is an error, in whose place there may be a page of the user's."""


_TEXT = {
    400: "The request could not be understood.",
    403: "This is not allowed.",
    404: "Nothing is here.",
    405: "This method is not allowed here.",
    408: "The request took too long to arrive.",
    413: "The request's body is too large.",
    414: "The request line is too long.",
    417: "Only 'Expect: 100-continue' is supported.",
    431: "The request's header fields are too large.",
    500: "An error of the load balancer's own; its log says more.",
    502: "The server gave no valid answer.",
    503: "No server is available to answer.",
    504: "The server took too long to answer.",
    505: "Only HTTP/1.0 and HTTP/1.1 are supported.",
}


def answer(status: int, fields: bytes, body: bytes) -> Answer:
    """A response of any final status; ``fields`` are whole lines, ``Content-Length`` is added to them."""
    out = f"HTTP/1.1 {status} {_phrase(status)}\r\n".encode() + fields
    if status in (204, 304):  # RFC 9110 §8.6: there is no body, so it has no length
        body = b""
        out += b"\r\n"
    else:
        out += b"Content-Length: %d\r\n\r\n" % len(body)
    return Answer(ResponseHead(out, True, status, True, len(body), False, b""), body)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _render(status: int, text: str) -> Answer:
    body = f"{status} {_phrase(status)}\n{text}".encode().strip() + b"\n"
    fields = b"Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
    if status == 405:
        fields += b"Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n"
    return answer(status, fields, body)


def _render_error(status: int, text: str) -> Answer:
    made = _render(status, text)
    made.error = True
    return made


_ERRORS = {status: _render_error(status, text) for status, text in _TEXT.items()}
_HEALTH = {
    status: _render(status, text)
    for status, text in ((200, "This load balancer serves."), (503, "This load balancer is about to stop."))
}
_SHORT = _render(503, "Too few servers are usable.")


def error(status: int) -> Answer:
    """The response to a request that can't be passed on, is denied, or that no server has answered."""
    made = _ERRORS.get(status)
    if made is None:
        made = _ERRORS[status] = _render_error(status, "")
    return made


def health(status: int) -> Answer:
    """The response of the health path: 200, or 503 before a stop."""
    return _HEALTH[status]


def short() -> Answer:
    """The response of the health path where fewer servers are usable than there should be."""
    return _SHORT


def redirect(location: bytes) -> Answer:
    """A permanent redirect that keeps the method."""
    return answer(308, b"Location: " + location + b"\r\n", b"")


def overflow() -> bytes:
    """The bytes for a connection above ``limits.connections``: a complete 503 that closes it."""
    whole = _ERRORS[503]
    return whole.head.out[:-2] + b"Connection: close\r\n\r\n" + whole.body


def https_location(host: bytes | None, target: bytes) -> bytes:
    """Where a request's host and target are by https; without the port, which is that of http.

    Raises:
        Refused: the request names no host.
    """
    host = host or b""
    if host.rpartition(b":")[2].isdigit() and not host.endswith(b"]"):
        host = host.rpartition(b":")[0]
    if not host:
        raise Refused(400, "host")
    return b"https://" + host + (b"" if target == b"*" else target)
