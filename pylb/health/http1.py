"""A check by an HTTP/1.1 request. Pure; llhttp (httptools) reads the response."""

from __future__ import annotations

from functools import lru_cache

import httptools

from pylb.health.exchange import Exchange, quoted
from pylb.health.expect import Expected, Request, judge_body, judge_status


class Http1(Exchange):
    """One request, and as much of its response as the verdict needs."""

    def __init__(self, request: Request, expected: Expected) -> None:
        super().__init__()
        self._request = request
        self._expected = expected
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._body: list[bytes] = []

    def begin(self) -> bytes:
        return written(self._request)

    def came(self, data: bytes) -> bytes:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # an error of pylb's own
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.failed(
                "its answer has a malformed body"
                if self._status
                else f"what it answers is no HTTP: {quoted(data)}"
            )
        return b""

    def ended(self) -> None:
        if self._status:  # a body that goes on up to the end, or longer than is read
            judge_body(self, self._expected, self._status, b"".join(self._body))
        super().ended()

    # What the parser tells.

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            return  # an interim response (RFC 9110 §15.2)
        if not self._status:
            self._status = status
            judge_status(self, self._expected, status)

    def on_body(self, body: bytes) -> None:
        if self._status:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._status:
            judge_body(self, self._expected, self._status, b"".join(self._body))


@lru_cache(4096)
def written(request: Request) -> bytes:
    """The request; its connection is closed after the response."""
    names = {name.lower() for name, _ in request.headers}
    fields = [] if "host" in names else [("Host", request.host)]
    if "user-agent" not in names:
        fields.append(("User-Agent", "pylb"))
    fields += [("Connection", "close"), *request.headers]
    lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
