"""Which server has which index of the scoreboard, over all configurations that a process still has.

An index is given to another server only when no process knows the former one: each process writes down by
which version of the lists of servers it goes, and those of a version no longer hold a server that was given
up with it; and a worker still has active requests at a server that it is to forget, or none.

Algorithms read the active requests of a block of neighbouring servers at once (`pylb.balance.loads`). So
those of a backend get indices in as few blocks as there is room for.

It knows the scoreboard, and no process and no configuration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pylb.balance.loads import LANES
from pylb.config.model import Config, ServerKey, server_keys
from pylb.net.listeners import BindError
from pylb.scoreboard import Scoreboard, ServerField

MAX_SERVERS = 512
"""That there is room for at least; a start with more than a third as many makes more room."""
MAX_BACKENDS = 256
"""Likewise."""


def room_for(config: Config) -> int:
    """How many servers the scoreboard is to tell apart."""
    found = sum(source.most for backend in config.backends for source in backend.discover)
    return max(MAX_SERVERS, 3 * len(server_keys(config)) + 2 * found)


def backends_for(config: Config) -> int:
    """How many backends the scoreboard is to tell apart."""
    return max(MAX_BACKENDS, 3 * len(config.backends))


class NoRoom(BindError):
    """The scoreboard has no room for so many servers, or backends."""


class Indices:
    """Servers' indices: given, given up, and free again."""

    def __init__(self, board: Scoreboard) -> None:
        self.known: dict[ServerKey, int] = {}
        """(backend, server, address) to the index, of servers that were given up, too."""
        self._given_up: dict[ServerKey, int] = {}  # with the version of the lists that hold it no more
        self._board = board

    def give(self, keys: Iterable[ServerKey]) -> list[ServerKey]:
        """Give new servers an index, and keep those that they have; gives the new ones.

        Raises:
            NoRoom: the scoreboard has no room for them; nothing was changed.
        """
        wanted = list(dict.fromkeys(keys))
        fresh = [key for key in wanted if key not in self.known]
        found = self._places(fresh)
        if len(found) < len(fresh):
            raise NoRoom(
                f"more than {self._board.servers} servers, with those of workers that still drain; "
                "try later or restart"
            )
        self.known.update(found)
        for key in wanted:
            self._given_up.pop(key, None)
        return fresh

    def give_up(self, keys: Iterable[ServerKey], version: int) -> None:
        """No list holds these servers, from this version on."""
        for key in keys:
            self._given_up.setdefault(key, version)

    @property
    def waiting(self) -> bool:
        """Whether some that were given up aren't free yet."""
        return bool(self._given_up)

    def held(self) -> list[ServerKey]:
        """The servers that were not given up."""
        return [key for key in self.known if key not in self._given_up]

    def free(self, version: int) -> list[ServerKey]:
        """Free the indices of those that nobody knows any more, as all processes go by this version of the
        lists or a later one; gives the servers whose indices these were."""
        gone = [
            key
            for key, since in self._given_up.items()
            if since <= version and not self._board.server_total(ServerField.ACTIVE, self.known[key])
        ]
        for key in gone:
            del self._given_up[key]
            self._board.forget_server(self.known.pop(key))
        return gone

    def take_back(self, keys: Iterable[ServerKey]) -> None:
        """Free the indices of these servers, of which no process was told."""
        for key in keys:
            self._board.forget_server(self.known.pop(key))

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
