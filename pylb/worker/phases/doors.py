"""How a request takes the places that it needs at a server, and gives them back; and how they go along with a
request that another worker goes on with.

Floor: phases; below `queue`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from pylb.places import Give, Holder, Take

Door = tuple[Take, Give]
"""Two functions: one takes all places that a request has at a server, the other gives them back."""


class Doors:
    """Those of a backend, in one worker.

    Args:
        own: the backend's place.
        bound: whether a request has that, too.
        pump: called where somebody waits: with a server's place that was given back, or -1.
    """

    def __init__(self, holder: Holder, own: int, bound: bool, pump: Callable[[int], None]) -> None:
        self._holder = holder
        self._own = own
        self._bound = bound
        self._pump = pump
        self._places: WeakKeyDictionary[Give, tuple[int, ...]] = WeakKeyDictionary()

    def door(self, place: int) -> Door | None:
        """That of a server, by its place (-1: it has none); None where its requests have none."""
        own = self._own
        if place < 0:
            return self._known(self._ends(own), own) if self._bound else None
        take, give = self._ends(place)
        if not self._bound:
            return self._known((take, give), place)
        take_own, give_own = self._holder.ends(own, own, lambda _: None)

        def take_both() -> bool:
            if take_own():
                if take():
                    return True
                give_own()
            return False

        def give_both() -> None:
            give_own()
            give()

        return self._known((take_both, give_both), place, own)

    def _ends(self, place: int) -> Door:
        then = self._pump if place != self._own else lambda _: self._pump(-1)
        return self._holder.ends(place, self._own, then)

    def _known(self, door: Door, *places: int) -> Door:
        self._places[door[1]] = places
        return door

    # Requests that move

    def places_of(self, give: Give) -> tuple[int, ...]:
        """The places that this gives back."""
        return self._places[give]

    def part(self, give: Give) -> None:
        """A request goes on in another worker, and with it what this would give back."""
        for place in self.places_of(give):
            self._holder.part(place)

    def arrive(self, places: Sequence[int]) -> Give:
        """A request comes from another worker with these places; what gives them back."""
        gives = [self._ends(place)[1] for place in places]

        def give() -> None:
            for one in gives:
                one()

        self._places[give] = tuple(places)
        for place in places:
            self._holder.arrive(place)
        return give
