"""What keeps an unexpected exception in one part of the supervisor's loop from ending the other parts.

The supervisor is the one process that nobody starts again: with it all workers go. So each signal, each
message and each step of the tick runs under a guard of its own, which logs what was not foreseen and goes on.
Every part of the supervisor may use it; it knows none of them.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from types import TracebackType

from pylb.log import log
from pylb.repeats import Repeats, raised_at

_EVERY = 60.0  # seconds between two lines that say how often a kind has occurred again
_KINDS = 256  # that are told apart; the place of an exception is in pylb's own code, so there are few


class Guard:
    """Called with the name of a part, it is a context manager that lets no `Exception` out.

    The same exception from the same place is logged once with its traceback, then counted, and the count is
    logged once a minute.
    """

    def __init__(self) -> None:
        self.caught = 0
        self._repeats = Repeats(_EVERY, math.inf, _KINDS)

    def __call__(self, part: str) -> _Part:
        """The guard of one part; the name is what the log says has failed."""
        return _Part(self, part)

    def note(self, part: str, error: Exception) -> None:
        """Log an exception, or count it if its kind is known."""
        self.caught += 1
        with contextlib.suppress(Exception):  # of the log's own, and of the exception's text
            kind = (part, type(error), raised_at(error))
            text = f"{part} failed unexpectedly: {error!r}"
            if self._repeats.happened(kind, time.monotonic(), logging.ERROR, text):
                log.error("%s failed unexpectedly; the rest goes on", part, exc_info=error)

    def tick(self, now: float) -> None:
        """Log how often what is known has occurred again; ``now`` is in monotonic seconds."""
        for level, text in self._repeats.due(now):
            log.log(level, "%s", text)


class _Part:
    def __init__(self, guard: Guard, part: str) -> None:
        self._guard = guard
        self._part = part

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._guard.note(self._part, error)
        return True
