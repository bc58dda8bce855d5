"""Waiting for signals and children, and reading what children send.

Nothing that a child sends ends the loop: what can't be understood is passed over. What a message means, the
function knows that it is handed to.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

from pylb.log import log
from pylb.net import channel, messages
from pylb.supervisor.guard import Guard
from pylb.supervisor.processes import Child

MESSAGES_PER_TURN = 200  # of one child, so that the others, signals and the tick get their turn, too
_PAUSE = 0.1  # seconds, instead of a wait that has failed


class Channels:
    """The supervisor's ends of all channels.

    Args:
        signals: becomes readable when a signal has arrived.
        guard: of the wait, and of each message.
        heard: called with each message that is as it should be.
    """

    def __init__(
        self, signals: socket.socket, guard: Guard, heard: Callable[[Child, dict[str, Any]], None]
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ)
        self._guard = guard
        self._heard = heard

    def watch(self, child: Child) -> None:
        """Listen to a new child."""
        # Should an earlier one have been closed without being unregistered, its number may come again.
        self._leave(child)
        self._selector.register(child.channel, selectors.EVENT_READ, child)

    def forget(self, child: Child) -> None:
        """It has gone; its channel is closed."""
        self._leave(child)
        child.channel.close()

    def _leave(self, child: Child) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(child.channel)

    def wait(self, timeout: float) -> list[Child | None]:
        """Wait; gives the children that have sent something, and None where signals have come."""
        failed = self._guard.caught
        with self._guard("waiting for events"):
            return [key.data for key, _ in self._selector.select(timeout)]
        assert self._guard.caught > failed
        time.sleep(_PAUSE)
        return [None]

    def read(self, child: Child) -> None:
        """Read what it has sent."""
        for _ in range(MESSAGES_PER_TURN):
            if child.channel.fileno() < 0:  # an earlier event of this turn may have closed it
                return
            try:
                message = channel.recv(child.channel)
            except BlockingIOError:
                return
            except ValueError as error:
                self._passed_over(child, str(error))
                continue
            if message is None:  # it is gone or about to be; SIGCHLD says the rest
                self._leave(child)
                return
            wrong = messages.wrong(message, messages.TO_SUPERVISOR)
            if wrong:
                self._passed_over(child, wrong)
                continue
            with self._guard("a message of a child"):
                self._heard(child, message)

    def _passed_over(self, child: Child, why: str) -> None:
        """Log a message that can't be understood; only the first one of a child, which may send many."""
        child.nonsense += 1
        if child.nonsense == 1:
            log.error("messages of pid %d are passed over: %.200s", child.pid, why)

    def close(self) -> None:
        """Wait no more; the channels stay as they are."""
        self._selector.close()
