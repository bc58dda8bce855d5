"""What keeps an unexpected exception in one part of the supervisor's loop from ending the other parts.

The supervisor is the one process that nobody starts again: with it all workers go. So each signal, each
message and each step of the tick runs under a guard of its own, which logs what was not foreseen and goes on.
"""

from __future__ import annotations

import contextlib
import time
from types import TracebackType

from pylb.log import log

_AGAIN = 60.0  # seconds after which a kind that goes on occurring is mentioned again
_KINDS = 256  # that are told apart; the place of an exception comes from our own code, so there are few


class Guard:
    """Called with the name of a part, it is a context manager that lets no `Exception` out.

    The same exception from the same place is logged once with its traceback, then counted, and the count is
    logged once a minute.
    """

    def __init__(self) -> None:
        self.caught = 0
        self._seen: dict[tuple[str, ...], tuple[int, float]] = {}  # not told yet, when last told

    def __call__(self, part: str) -> _Part:
        """The guard of one part; the name is what the log says has failed."""
        return _Part(self, part)

    def note(self, part: str, error: Exception) -> None:
        """Log an exception, or count it if its kind is known."""
        self.caught += 1
        now = time.monotonic()
        kind = (part, type(error).__name__, _place(error))
        untold, told = self._seen.get(kind, (0, 0.0))
        with contextlib.suppress(Exception):  # of the log's own
            if kind not in self._seen:
                if len(self._seen) >= _KINDS:
                    self._seen.clear()
                self._seen[kind] = 0, now
                log.error("%s failed unexpectedly; the rest goes on", part, exc_info=error)
            elif now - told >= _AGAIN:
                self._seen[kind] = 0, now
                log.error("%s failed unexpectedly, %d times more: %r", part, untold + 1, error)
            else:
                self._seen[kind] = untold + 1, told


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


def _place(error: BaseException) -> str:
    """File and line where it was raised."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
