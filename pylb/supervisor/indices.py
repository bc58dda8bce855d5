"""Which server has which column of the scoreboard, over all configurations that a process still has.

Algorithms read the active requests of a block of neighbouring servers at once (`pylb.balance.loads`). So
those of a backend get columns in as few blocks as there is room for.

It knows the scoreboard and configurations, and no process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pylb.balance.loads import LANES
from pylb.config.model import Config, ServerKey, server_keys
from pylb.net.listeners import BindError
from pylb.scoreboard import Scoreboard

MAX_SERVERS = 512
"""That there is room for at least; a start with more than half as many makes more room."""


def room_for(config: Config) -> int:
    """How many servers the scoreboard is to tell apart."""
    return max(MAX_SERVERS, 2 * len(server_keys(config)))


class Indices:
    """Servers' indices, given at the start and at a reload."""

    def __init__(self, board: Scoreboard) -> None:
        self.known: dict[ServerKey, int] = {}
        """(backend, server, address) to the index; changed in place, and a child has it from its fork."""
        self._board = board

    def give(self, config: Config, in_use: Sequence[Config] = ()) -> None:
        """Give new servers an index, and new backends a place for their response times.

        Args:
            config: whose servers they are.
            in_use: the configurations of all processes that there are.

        Raises:
            BindError: the scoreboard has no room for them.
        """
        wanted = server_keys(config)
        fresh = [key for key in dict.fromkeys(wanted) if key not in self.known]
        if len(self.known) + len(fresh) > self._board.servers:
            self._forget({*wanted, *(key for other in in_use for key in server_keys(other))})
        found = self._places(fresh)
        if len(found) < len(fresh):
            raise BindError(
                f"more than {self._board.servers} servers, with those of workers that still drain; "
                "try later or restart"
            )
        self.known.update(found)
        self._board.add_backends(
            [backend.name for backend in config.backends],
            [backend.name for other in in_use for backend in other.backends],
        )

    def _places(self, fresh: Sequence[ServerKey]) -> dict[ServerKey, int]:
        """An index for each, as far as there are free ones."""
        free: dict[int, list[int]] = {}  # by block, those that come first at the end
        for index in sorted(set(range(self._board.servers)) - set(self.known.values()), reverse=True):
            free.setdefault(index // LANES, []).append(index)
        own: dict[str, set[int]] = {}  # by backend, the blocks in which it has servers already
        for (backend, *_), index in self.known.items():
            own.setdefault(backend, set()).add(index // LANES)
        left = Counter(backend for backend, *_ in fresh)
        found = {}
        for key in fresh:
            backend = key[0]
            mine = own.setdefault(backend, set())
            block = next((block for block in sorted(mine) if free.get(block)), None)
            if block is None:
                wanted = min(left[backend], LANES)
                rooms = sorted(block for block, indices in free.items() if indices)
                if not rooms:
                    break
                roomy = (block for block in rooms if len(free[block]) >= wanted)
                block = next(roomy, max(rooms, key=lambda block: len(free[block])))
                mine.add(block)
            found[key] = free[block].pop()
            left[backend] -= 1
        return found

    def take_back(self, kept: set[ServerKey]) -> None:
        """Free the indices of all others; no process may have used them."""
        for key in self.known.keys() - kept:
            del self.known[key]

    def _forget(self, kept: set[ServerKey]) -> None:
        """Free the indices of all servers but those in ``kept``."""
        for key in self.known.keys() - kept:
            self._board.forget_server(self.known.pop(key))
