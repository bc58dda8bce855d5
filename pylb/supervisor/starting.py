"""Starting a worker's process: what it is given, and what of the supervisor's it closes first.

It knows how a worker is made, and neither which ones are to run nor when.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable

from pylb.net import channel
from pylb.scoreboard import Field, Scoreboard, State
from pylb.supervisor.generations import Generation
from pylb.supervisor.inboxes import Inboxes
from pylb.supervisor.processes import Worker, fork
from pylb.supervisor.servers import Servers
from pylb.worker.context import WorkerContext


class Starter:
    """Forks workers.

    Args:
        board: where each has its row.
        inboxes: where each has its inbox.
        servers: their lists.
        entry: what a worker's process runs.
        in_child: there first, with the worker's generation: closes what only the supervisor needs, and drops
            its rights.
    """

    def __init__(
        self,
        board: Scoreboard,
        inboxes: Inboxes,
        servers: Servers,
        entry: Callable[[WorkerContext], None],
        in_child: Callable[[Generation], None],
    ) -> None:
        self._board = board
        self._inboxes = inboxes
        self._servers = servers
        self._entry = entry
        self._in_child = in_child

    def start(self, generation: Generation, slot: int, row: int, siblings: Iterable[socket.socket]) -> Worker:
        """Fork a worker for a slot, in a row that is free.

        Args:
            siblings: the supervisor's ends of the other workers' channels. The child closes its copies:
                else a sibling would not see the end of file when the supervisor dies.

        Raises:
            OSError: there is no process or descriptor to be had; the row is free again.
        """
        ours, theirs = channel.pair()
        cells = self._board.row(row)
        cells[Field.SLOT], cells[Field.GENERATION] = slot, generation.number
        cells[Field.LISTS] = self._servers.version
        cells[Field.STATE] = State.STARTING
        context = WorkerContext(
            generation.config, row, slot, generation.number, generation.listeners.sockets, self._board,
            theirs, self._inboxes.readers[row], self._inboxes.writers,
            self._servers.lists(generation.config), self._servers.version, generation.secrets.listeners,
            generation.secrets.backends, generation.secrets.upgrades, generation.secrets.maps,
            generation.secrets.bodies, generation.access_logs, generation.secrets.sticky,
        )  # fmt: skip

        def prepare() -> None:
            self._in_child(generation)
            for sock in (ours, *siblings):
                sock.close()
            self._inboxes.close_others(row)

        started = time.monotonic()
        title = f"pylb: worker {slot} (gen {generation.number})"
        try:
            pid = fork(title, f"worker {slot}", prepare, lambda: self._entry(context))
        except BaseException:
            ours.close()
            cells[Field.STATE] = State.FREE
            raise
        finally:
            theirs.close()
        worker = Worker(
            pid, ours, started, row=row, slot=slot, generation=generation.number, config=generation.config
        )
        worker.listening = [slot]
        worker.send({"op": "listen", "slots": [slot]})
        return worker
