"""The responses that pylb itself gives."""

from __future__ import annotations

from http import HTTPStatus


class Refused(Exception):
    """A message that is not passed on.

    ``status`` is what the client is answered, ``reason`` a word for the counters and logs.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


_TEXT = {
    400: "The request could not be understood.",
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


def _render(status: int, close: bool, text: str) -> bytes:
    phrase = HTTPStatus(status).phrase
    body = f"{status} {phrase}\n{text}\n".encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\n"
    )
    if status == 405:
        head += "Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n"
    if close:
        head += "Connection: close\r\n"
    return head.encode() + b"\r\n" + body


_RESPONSES = {
    (status, close): _render(status, close, text) for status, text in _TEXT.items() for close in (False, True)
}
_HEALTH = {
    (status, close): _render(status, close, text)
    for status, text in ((200, "This load balancer serves."), (503, "This load balancer is about to stop."))
    for close in (False, True)
}


def error_response(status: int, close: bool, head_only: bool = False) -> bytes:
    """A complete response; with ``head_only`` without its body, as HEAD requires."""
    return _shown(_RESPONSES[status, close], head_only)


def health_response(status: int, close: bool, head_only: bool = False) -> bytes:
    """What a path of pylb's own is answered: 200, or 503 before a stop."""
    return _shown(_HEALTH[status, close], head_only)


def _shown(response: bytes, head_only: bool) -> bytes:
    return response[: response.index(b"\r\n\r\n") + 4] if head_only else response


def https_location(host: bytes | None, outgoing: bytes) -> bytes:
    """The place that a request is for, by https; without the port, which is that of http.

    Raises:
        Refused: nobody knows which host that would be.
    """
    host = host or b""
    if host.rpartition(b":")[2].isdigit() and not host.endswith(b"]"):
        host = host.rpartition(b":")[0]
    if not host:
        raise Refused(400, "host")
    target = outgoing.split(b" ", 2)[1]
    return b"https://" + host + (b"" if target == b"*" else target)


def redirect_response(location: bytes, close: bool) -> bytes:
    """A permanent redirect that keeps the method."""
    closing = b"Connection: close\r\n" if close else b""
    head = b"HTTP/1.1 308 Permanent Redirect\r\nContent-Length: 0\r\nLocation: "
    return head + location + b"\r\n" + closing + b"\r\n"
