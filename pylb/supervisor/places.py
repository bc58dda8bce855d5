"""Places at servers and backends with ``maxconn``: how many there are, and whose worker has died.

The supervisor alone makes places and takes them away (`pylb.places`): at the start, at a reload, when a
``maxconn`` changes at run time, and for a worker that has died with some. It looks at all of them once a
second, and at once where something has happened.

It knows the scoreboard and configurations, and no process.
"""

from __future__ import annotations

from collections.abc import Callable

from pylb.config.model import Config
from pylb.net.serverlists import Lists
from pylb.scoreboard import Scoreboard, ServerField
from pylb.servers import Table

EVERY = 1.0
"""Seconds between two looks at all places."""

ON_ITS_WAY = 60.0
"""Seconds for which a place may be on its way between two workers; one that hangs is killed sooner."""


class PlaceKeeper:
    """Keeps the number of places as it should be.

    Args:
        lists: gives the servers of a configuration, those that were discovered included.
    """

    def __init__(self, board: Scoreboard, lists: Callable[[Config], Lists]) -> None:
        self._board = board
        self._lists = lists
        self._table = Table(board)
        self._servers: dict[int, int] = {}  # by index, what the configuration says
        self._backends: dict[int, int] = {}  # by place, likewise
        self._wanted: dict[int, int] = {}  # by place
        self._beside: dict[int, int] = {}
        self._moving: dict[int, float] = {}  # by place, since when some are on their way
        self._due: set[int] = set()
        self._next = 0.0
        self._followed: tuple[object, ...] = ()

    def follow(self, version: int, *configs: Config) -> None:
        """These configurations hold now, the later ones before those which they replace.

        Args:
            version: of the lists.
        """
        followed = (version, self._table.version, *map(id, configs))
        if followed == self._followed:
            return
        self._followed = followed
        self._servers.clear()
        self._backends.clear()
        places = self._board.places
        for config in configs:
            for backend in config.backends:
                index = self._board.backends.get(backend.name)
                if index is not None:
                    self._backends[places.of_backend(index)] = backend.maxconn
            for listed in self._lists(config).values():
                for one in listed:
                    self._servers[one.index] = one.config.maxconn
        self._changed()

    def _changed(self) -> None:
        wanted = dict(self._backends)
        for index, configured in self._servers.items():
            wanted[index] = self._table.maxconn(index, configured)
        self._wanted = {place: number for place, number in wanted.items() if number or place in self._wanted}
        self.look()

    def look(self) -> None:
        """Look at all places with the next `tick`, for a worker has died."""
        self._due = set(self._wanted)

    def tick(self, now: float) -> bool:
        """Put right what isn't; whether some of it has to be tried again soon."""
        if now >= self._next:
            self._next = now + EVERY
            self.look()
        free = 0
        for place in list(self._due):
            if not self._board.places.moving(place):
                self._moving.pop(place, None)
            elif now >= self._moving.setdefault(place, now) + ON_ITS_WAY:
                self._board.places.lost(place)  # its worker died just as it had come
            found = self._audit(place)
            if found is not None:
                self._due.discard(place)
                free += found
        if free:
            for row in self._board.live_rows():
                self._board.places.wake(row)
        return bool(self._due)

    def _audit(self, place: int) -> int | None:
        board = self._board
        beside = 0
        if place < board.servers:
            # Requests that came while there was no limit. A worker raises its count of active ones a moment
            # after it has taken a place, and lowers it a moment before it gives one back: so the greater of
            # two looks counts.
            active = board.server_column(ServerField.ACTIVE, place)
            held = board.places.held(place)
            seen = sum([max(0, active[row] - held[row]) for row in board.live_rows()])
            beside = max(seen, self._beside.get(place, 0))
            self._beside[place] = seen
        return board.places.audit(place, self._wanted[place], beside)
