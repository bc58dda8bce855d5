"""How many connections there may be, and who goes when there are too many. Pure: no sockets.

Peers that have shown who they are (*trusted*) and *strangers* have places of their own, so that strangers,
however many, take none from the trusted. When the strangers' places are full, the oldest stranger goes: an
honest one needs its place only for as long as a hello takes.
"""

from __future__ import annotations

from typing import Generic, TypeVar

MAX_TRUSTED = 1024
MAX_STRANGERS = 128
RESERVE = 32
"""Descriptors that are kept for files: sources, the log."""

Peer = TypeVar("Peer")


def within(limit: int, used: int) -> tuple[int, int]:
    """Places for trusted peers and for strangers with ``limit`` descriptors, of which ``used`` are taken."""
    room = limit - used - min(RESERVE, limit // 4)
    strangers = max(1, min(MAX_STRANGERS, room // 4))
    return max(1, min(MAX_TRUSTED, room - strangers)), strangers


class Places(Generic[Peer]):
    """Keeps who has which place."""

    def __init__(self, trusted: int = MAX_TRUSTED, strangers: int = MAX_STRANGERS) -> None:
        self.most_trusted = trusted
        self.most_strangers = strangers
        self._strangers: dict[Peer, None] = {}
        self._idle: dict[Peer, None] = {}  # trusted, and has not said hello
        self._greeted: dict[Peer, None] = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._idle) + len(self._greeted)

    def all(self) -> list[Peer]:
        """Everybody."""
        return [*self._strangers, *self._idle, *self._greeted]

    def come(self, peer: Peer) -> Peer | None:
        """A stranger comes; gives the one that has to go for it."""
        self._strangers[peer] = None
        return self._oldest(self._strangers) if len(self._strangers) > self.most_strangers else None

    def trust(self, peer: Peer) -> tuple[bool, Peer | None]:
        """A stranger shows who it is: whether it has a place, and who has to go for it.

        Those that have said hello keep their places; of the others the oldest one goes.
        """
        gone = None
        if len(self._idle) + len(self._greeted) >= self.most_trusted:
            if not self._idle:
                return False, None
            gone = self._oldest(self._idle)
        self._strangers.pop(peer, None)
        self._idle[peer] = None
        return True, gone

    def greet(self, peer: Peer) -> None:
        """A trusted peer has said hello."""
        self._idle.pop(peer, None)
        self._greeted[peer] = None

    def leave(self, peer: Peer) -> None:
        """It has gone; if it had a place, that is free."""
        for places in (self._strangers, self._idle, self._greeted):
            places.pop(peer, None)

    @staticmethod
    def _oldest(places: dict[Peer, None]) -> Peer:
        oldest = next(iter(places))
        del places[oldest]
        return oldest
