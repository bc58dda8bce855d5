"""The plan: what the rules that a request has matched do to it and to its response.

A rule's edits are compiled to a `Changes`; a request that has matched some has a `Plan`, with a view that no
other request uses, since the response is edited by what the request was.

Floor: above edits, rewriting, cookies and answers; knows nothing of how a rule is matched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True, slots=True)
class Changes:
    """What one rule changes."""

    rewrite: tuple[rewrite.Step, ...] = ()
    request: Edits | None = None
    responses: tuple[OnResponse, ...] = ()
    pages: Pages | None = None
    timeouts: Mapping[str, float] = field(default_factory=dict)
    """Seconds, by the key of the configuration."""
    body_bytes: int | None = None


class Plan:
    """What is done to one request.

    Args:
        changes: of the rules that have matched, in their order.
        view: the request; from now on this plan's alone.
        tell_prefix: whether the server is told in ``X-Forwarded-Prefix`` what was taken off the path.

    Raises:
        Refused: 400, it can't be rewritten.
    """

    __slots__ = ("changes", "view", "target", "edits_request", "_prefix")

    def __init__(self, changes: Sequence[Changes], view: View, tell_prefix: bool = False) -> None:
        self.changes = changes
        self.view = view
        self.target: rewrite.Target | None = None
        """What the server is asked for, where that was rewritten."""
        self._prefix = b""
        self.edits_request = False
        """Whether the request's head is changed."""
        for one in changes:
            if one.rewrite and view.target != b"*":
                if self.target is None:
                    self.target = rewrite.target(view)
                for step in one.rewrite:
                    step(self.target, view)
            if one.rewrite or one.request is not None:
                self.edits_request = True
        if tell_prefix and self.target is not None and self.target.stripped:
            before = view.field(b"x-forwarded-prefix") or b""
            self._prefix = before.rstrip(b"/") + self.target.stripped

    def request(self, head: bytes) -> bytes:
        """A printed head as it goes to the server."""
        if self.target is not None:
            head = rewrite.rewritten(head, self.target)
            if self._prefix:
                head = _PREFIX.apply(head, self.view)[:-2]
                head += b"X-Forwarded-Prefix: %b\r\n\r\n" % self._prefix
        for one in self.changes:
            if one.request is not None:
                head = one.request.apply(head, self.view)
        return head

    def response(self, head: ResponseHead, own: bool) -> ResponseHead:
        """A response's head as it goes to the client; ``own``: it is pylb's own."""
        out = head.out
        for one in self.changes:
            for edit in one.responses:
                if (edit.when is None or edit.when(head, self.view)) and not (own and edit.servers):
                    out = edit.edits.apply(out, self.view)
        if out is head.out:
            return head
        return ResponseHead(
            *(out, True, head.status, head.keep_alive, head.content_length, head.chunked, head.upgrade)
        )

    def page(self, status: int, own: bool) -> Answer | None:
        """The page of the last rule that has one, for an error of pylb's ``own`` or a server's answer."""
        for one in reversed(self.changes):
            if one.pages is not None:
                page = one.pages.own(status) if own else one.pages.servers(status)
                if page is not None:
                    return page
        return None

    @property
    def body_bytes(self) -> int | None:
        """The most bytes of the request's body, where a rule says so."""
        return next((one.body_bytes for one in reversed(self.changes) if one.body_bytes is not None), None)

    @property
    def timeouts(self) -> Mapping[str, float]:
        """Those that rules set."""
        merged: dict[str, float] = {}
        for one in self.changes:
            merged.update(one.timeouts)
        return merged


_PREFIX = Edits({}, [], [b"x-forwarded-prefix"])
