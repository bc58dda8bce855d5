"""The plan: what the rules that a request has matched do to it and to its response.

A rule's edits are compiled to a `Changes`; a request that has matched some has a `Plan`, with a view that no
other request uses, since the response is edited by what the request was.

Floor: above edits, rewriting, cookies and answers; knows nothing of how a rule is matched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from pylb.http.errors import Answer
from pylb.http.response import ResponseHead
from pylb.rules import rewrite
from pylb.rules.answers import Pages
from pylb.rules.edits import Edits
from pylb.rules.view import View

When = Callable[[ResponseHead, View], bool]


@dataclass(frozen=True, slots=True)
class OnResponse:
    """Edits of responses."""

    edits: Edits
    when: When | None = None
    """Which responses; None: all."""
    servers: bool = False
    """Whether those of pylb's own stay as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What one rule changes."""

    rewrite: tuple[rewrite.Step, ...] = ()
    request: Edits | None = None
    responses: tuple[OnResponse, ...] = ()
    pages: Pages | None = None
    timeouts: Mapping[str, float] = field(default_factory=dict)
    """Seconds, by the key of the configuration."""
    body_bytes: int | None = None

    def __bool__(self) -> bool:
        """Whether it is anything at all."""
        some = self.rewrite or self.request or self.responses or self.pages or self.timeouts
        return bool(some) or self.body_bytes is not None


class Together:
    """What some rules change together, in their order; made once for the requests that match these."""

    __slots__ = ("steps", "requests", "responses", "pages", "timeouts", "body_bytes", "edits_request")

    def __init__(self, changes: Sequence[Changes]) -> None:
        self.steps = [step for one in changes for step in one.rewrite]
        self.requests = [one.request for one in changes if one.request is not None]
        self.responses = [edit for one in changes for edit in one.responses]
        self.pages = [one.pages for one in reversed(changes) if one.pages is not None]
        self.timeouts: dict[str, float] = {}
        """Seconds, by the key of the configuration."""
        self.body_bytes: int | None = None
        """The most bytes of the request's body, where a rule says so."""
        for one in changes:
            self.timeouts.update(one.timeouts)
            if one.body_bytes is not None:
                self.body_bytes = one.body_bytes
        self.edits_request = bool(self.steps or self.requests)
        """Whether the request's head is changed."""


@lru_cache(4096)  # which rules a request matches, its client says
def _together(changes: tuple[Changes, ...]) -> Together:
    return Together(changes)


class Plan:
    """What is done to one request.

    Args:
        changes: of the rules that have matched, in their order.
        view: the request; from now on this plan's alone.
        tell_prefix: whether the server is told in ``X-Forwarded-Prefix`` what was taken off the path.

    Raises:
        Refused: 400, it can't be rewritten.
    """

    __slots__ = ("changes", "view", "target", "_prefix")

    def __init__(self, changes: tuple[Changes, ...], view: View, tell_prefix: bool = False) -> None:
        together = self.changes = _together(changes)
        self.view = view
        self.target: rewrite.Target | None = None
        """What the server is asked for, where that was rewritten."""
        self._prefix = b""
        if together.steps and view.target != b"*":
            target = self.target = rewrite.target(view)
            for step in together.steps:
                step(target, view)
            if tell_prefix and target.stripped:
                before = view.field(b"x-forwarded-prefix") or b""
                self._prefix = before.rstrip(b"/") + target.stripped

    def request(self, head: bytes) -> bytes:
        """A printed head as it goes to the server."""
        if self.target is not None:
            head = rewrite.rewritten(head, self.target)
            if self._prefix:
                head = _PREFIX.apply(head, self.view)[:-2]
                head += b"X-Forwarded-Prefix: %b\r\n\r\n" % self._prefix
        for edits in self.changes.requests:
            head = edits.apply(head, self.view)
        return head

    def response(self, head: ResponseHead, own: bool) -> ResponseHead:
        """A response's head as it goes to the client; ``own``: it is pylb's own."""
        out = head.out
        for edit in self.changes.responses:
            if (edit.when is None or edit.when(head, self.view)) and not (own and edit.servers):
                out = edit.edits.apply(out, self.view)
        if out is head.out:
            return head
        return head.with_out(out)

    def page(self, status: int, own: bool) -> Answer | None:
        """The page of the last rule that has one, for an error of pylb's ``own`` or a server's answer."""
        for pages in self.changes.pages:
            page = pages.own(status) if own else pages.servers(status)
            if page is not None:
                return page
        return None


_PREFIX = Edits({}, [], [b"x-forwarded-prefix"])
