"""The workers' inboxes: one per row of the scoreboard, through which connections are handed over.

The supervisor keeps both ends of each open, so that a connection in one outlives both workers. It knows rows
and sockets; which worker has which row, and who serves, it is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from pylb.log import log
from pylb.net import channel

_PER_TURN = 1024  # packets of one inbox: a worker that fills it meanwhile must not keep the supervisor


class Inboxes:
    """``readers`` and ``writers`` are the two ends, by row."""

    def __init__(self, rows: int) -> None:
        pairs = [channel.pair() for _ in range(rows)]
        self.readers = [reader for reader, _ in pairs]
        self.writers = [writer for _, writer in pairs]

    def drain(self, rows: Iterable[int], targets: Sequence[int]) -> None:
        """Move what lies in the inboxes of ``rows`` to those of ``targets`` (not empty), by turns."""
        for row in rows:
            for turn in range(_PER_TURN):
                target = self.writers[targets[turn % len(targets)]]
                packet = channel.recv_connections(self.readers[row])
                if packet is None:
                    break
                header, fds = packet
                if not channel.send_connections(target, header, fds):
                    # No room there now: back to where it was, for the next tick.
                    if not channel.send_connections(self.writers[row], header, fds):
                        log.error("%d connections lost with a worker: no inbox has room", len(fds))
                    channel.close_all(fds)
                    break
                channel.close_all(fds)

    def close_others(self, row: int) -> None:
        """In a worker: close the reading ends that aren't its own."""
        for index, reader in enumerate(self.readers):
            if index != row:
                reader.close()

    def close(self) -> None:
        """Close both ends of all."""
        for sock in (*self.readers, *self.writers):
            with contextlib.suppress(OSError):
                sock.close()
