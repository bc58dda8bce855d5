"""A check by an agent: a line in which the server says itself how it is. Pure.

Source: HAProxy's configuration.txt, ``agent-check``. Words, in any order and separated by spaces or commas:
``up``, ``down``, ``failed``, ``stopped`` say whether it works; ``ready``, ``drain``, ``maint`` what the
operator wants of it; ``75%`` which share of its weight it asks for. What follows ``#`` is a description. Of
HAProxy's words ``maxconn:N`` isn't obeyed.
"""

from __future__ import annotations

from pylb.health.exchange import Buffered, Verdict, quoted

_DOWN = ("down", "failed", "stopped", "fail")
_LONGEST = 1024  # bytes of the line


class Agent(Buffered):
    """Reads the line, after having sent what the configuration says."""

    ended_early = "the agent closed the connection before it had said anything"

    def __init__(self, send: bytes = b"") -> None:
        super().__init__()
        self._send = send

    def begin(self) -> bytes:
        return self._send

    def look(self) -> bytes:
        line = self.line()
        if line is not None and self.verdict is None:
            self.verdict = said(line)
        elif len(self.data) > _LONGEST:
            self.failed(f"the agent's line has no end: {quoted(self.data)}")
        return b""

    def ended(self) -> None:
        if self.data.strip() and self.verdict is None:
            self.verdict = said(self.data)
        super().ended()


def said(line: bytes) -> Verdict:
    """What a line means."""
    words, _, description = line.decode("ascii", "backslashreplace").partition("#")
    given = words.replace(",", " ").lower().split()
    says = quoted(line)
    share: int | None = None
    up: bool | None = None
    for word in given:
        number = word.removesuffix("%")
        if word != number and number.isascii() and number.isdigit() and len(number) <= 4:
            share = int(number)
        elif word == "drain":
            share = 0
        elif word == "ready":
            share = 100 if share is None else share
            up = True if up is None else up
        elif word == "up":
            up = True if up is None else up
        elif word in ("maint", *_DOWN):
            up = False
        elif not word.startswith("maxconn:"):
            return Verdict(False, f"the agent says what nobody understands: {says}")
    if not given:
        return Verdict(False, "the agent says nothing")
    reason = f"the agent says {says}"
    if up is None:
        return Verdict(True, reason, weight=share)
    return Verdict(up, reason, at_once=True, weight=share)
