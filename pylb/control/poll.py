"""Readiness of many sockets that live for a moment each: an epoll instance that the loop watches.

Below `probe`. The loop's own ``add_reader`` and ``add_writer`` cost a check more than all the rest of it. A
socket that is closed is watched no more (man 7 epoll), so that its end needs no system call.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
ENDED = select.EPOLLHUP | select.EPOLLERR
"""Always told, whatever is waited for."""
_AT_ONCE = 256  # sockets that have their turn before the loop has others'


class Poll:
    """Calls back with what a descriptor is ready for, as long as it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[int], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, events: int, call: Callable[[int], None]) -> None:
        """Wait for these events in place of those before."""
        if fd in self._calls:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._calls[fd] = call

    def forget(self, fd: int) -> None:
        """The descriptor will be closed now."""
        self._calls.pop(fd, None)

    def _ready(self) -> None:
        for fd, event in self._epoll.poll(0, _AT_ONCE):
            call = self._calls.get(fd)
            if call is not None:
                call(event)
