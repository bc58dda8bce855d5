"""What is answered in a server's place: redirects, fixed answers, error pages.

Each function gives one that makes the `Answer` of a request. What doesn't depend on the request is made once.

Floor: above `edits`, which judges names and values of fields; below plans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pylb.http.errors import Answer, answer, error, https_location
from pylb.rules.edits import OF_RESPONSES, Compile, check_name, value_of
from pylb.rules.template import Template
from pylb.rules.view import View

Maker = Callable[[View], Answer]

_BAD_IN_URL = re.compile(rb"[^!-~]")
_ELSEWHERE = re.compile(rb"[/\\]{2,}")


def redirect(
    to: Template, elsewhere: bool, status: int, keep_path: bool = False, keep_query: bool = False
) -> Maker:
    """Sends the client to another place.

    Args:
        to: where; a client's bytes that have no place in a URL are percent-encoded.
        elsewhere: whether it may begin with ``//``, that is, name a host. Otherwise a client's path that
            begins so would send others to any host.
        keep_path: whether the request's path follows.
        keep_query: whether its query does.
    """

    def make(view: View) -> Answer:
        place = to(view)
        if keep_path:
            place = place.rstrip(b"/") + view.raw_path
        if keep_query and view.query:
            place += (b"&" if b"?" in place else b"?") + view.query
        place = _BAD_IN_URL.sub(lambda match: b"%%%02X" % match[0][0], place)
        if not elsewhere:
            place = _ELSEWHERE.sub(b"/", place, count=1) if _ELSEWHERE.match(place) else place
        return answer(status, b"Location: " + place + b"\r\n", b"")

    return make


def https(status: int) -> Maker:
    """Sends the client to the same host, path and query by https."""

    def make(view: View) -> Answer:
        place = https_location(view.head.host, view.target)
        return answer(status, b"Location: " + place + b"\r\n", b"")

    return make


def fixed(status: int, headers: Mapping[str, str], template: Compile, body: bytes, kind: str) -> Maker:
    """Answers with this body and ``kind``, its Content-Type; raises ValueError for a bad field."""
    lines: list[tuple[bytes, bytes | Template]] = []
    for name, text in headers.items():
        check_name(name, OF_RESPONSES)
        lines.append((name.encode(), value_of(text, template)))
    if body and not any(name.lower() == b"content-type" for name, _ in lines):
        lines.insert(0, (b"Content-Type", kind.encode()))

    def make(view: View) -> Answer:
        values = [(name, value if isinstance(value, bytes) else value(view)) for name, value in lines]
        return answer(status, b"".join(b"%b: %b\r\n" % pair for pair in values if pair[1]), body)

    if any(not isinstance(value, bytes) for _, value in lines):
        return make
    always = make(None)  # type: ignore[arg-type]  # it is not looked at
    return lambda view: always


def deny(status: int) -> Maker:
    """Answers with an error, for which there may be a page."""
    return lambda view: error(status)


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered with some statuses."""

    statuses: tuple[int, ...]
    body: bytes
    kind: str
    """The Content-Type."""
    servers: bool
    """Whether servers' answers are replaced by it, too, and not pylb's own alone."""


class Pages:
    """The pages of a frontend or a rule, by status; the first one that names a status is its page."""

    __slots__ = ("_own", "_servers")

    def __init__(self, pages: Sequence[Page]) -> None:
        self._own: dict[int, Answer] = {}
        self._servers: dict[int, Answer] = {}
        for page in reversed(pages):
            fields = f"Content-Type: {page.kind}\r\nCache-Control: no-store\r\n".encode()
            for status in page.statuses:
                self._own[status] = answer(status, fields, page.body)
                self._servers.pop(status, None)
                if page.servers:
                    self._servers[status] = self._own[status]

    def own(self, status: int) -> Answer | None:
        """The page for an error of pylb's own."""
        return self._own.get(status)

    def servers(self, status: int) -> Answer | None:
        """The page in place of a server's answer."""
        return self._servers.get(status)
