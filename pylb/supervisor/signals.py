"""Signals as events of the supervisor's loop: handlers do nothing, the wake-up descriptor says which."""

from __future__ import annotations

import signal
import socket
from types import FrameType

HANDLED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Python must have a handler for the wake-up descriptor to be written."""


class Signals:
    """Installed once by the supervisor; ``reader`` becomes readable when a signal arrives."""

    def __init__(self) -> None:
        self.reader, self._writer = socket.socketpair()
        self.reader.setblocking(False)
        self._writer.setblocking(False)
        self._before = {number: signal.signal(number, _ignore) for number in HANDLED}
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def pending(self) -> list[int]:
        """The signals that arrived since the last call, in order."""
        numbers: list[int] = []
        while True:
            try:
                data = self.reader.recv(4096)
            except BlockingIOError:
                return numbers
            if not data:
                return numbers
            numbers.extend(data)

    def close(self) -> None:
        """Put back what was there before."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self.reader.close()
        self._writer.close()

    def reset_in_child(self) -> None:
        """Default handlers in a forked child, except that Ctrl-C is the supervisor's to decide."""
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # As a terminal sends these to the whole group, they would end a child by default.
        for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)
        self.reader.close()
        self._writer.close()
