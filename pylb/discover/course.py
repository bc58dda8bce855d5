"""What is done with the answers of one source, one after the other. Above `fitness`.

A failure changes nothing. An answer that would remove more than half of the servers is believed when the next
one would, too: half a zone that has just been loaded, or a registry that has just begun, looks the same as a
fleet that was stopped. Nothing here asks or waits: time is passed in, in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from pylb.discover.fitness import unfit
from pylb.discover.found import Answer, Failed, Found

_FLOOR = 1.0
"""Seconds between two questions at least, whatever an answer's TTL says."""
_LONGEST = 86400.0
"""Seconds after which any answer is asked for again."""
_CONFIRM_WITHIN = 10.0
"""Seconds until an answer is confirmed at the latest: until its TTL is over it comes from caches again."""
_RETRY = (1.0, 2.0, 5.0)
"""Seconds until the question comes again after the first, second, … failure in a row."""


class Step(Enum):
    """What was done with an answer."""

    SAME = "same"
    TAKEN = "taken"
    DOUBTED = "doubted"
    """It would remove more than half; the next one decides."""
    EMPTY = "empty"
    """It has no servers, and the known ones stay."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an answer may not exceed."""

    most: int
    """Servers."""
    local: bool = False
    names: bool = False
    """Both as in `fitness.unfit`."""
    keep_when_empty: bool = False
    """Whether the servers stay when an answer has none."""
    hold: float = 0.0
    """Seconds for which a server stays that answers no longer have."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, and why there may be less than was answered."""

    step: Step
    added: tuple[str, ...] = ()
    """Addresses."""
    removed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Course:
    """The servers that one source is believed to have, and the answers since.

    Args:
        known: those that are still known from before (a restart, a reload).
    """

    def __init__(self, bounds: Bounds, known: Iterable[Found] = ()) -> None:
        self._bounds = bounds
        self.known: dict[str, Found] = {
            one.address: one
            for one in list(known)[: bounds.most]
            if not unfit(one.address, bounds.local, bounds.names)
        }
        """By address."""
        self.doubted = False
        """The last answer would have removed more than half."""
        self.failures = 0
        """In a row."""
        self._missing: dict[str, float] = {}
        """Since when answers don't have a server that is held."""

    def answered(self, answer: Answer, now: float) -> Outcome:
        """Take an answer, or don't.

        Raises:
            Failed: it has servers, and none of them may be one; `note_failure` is yet to be called.
        """
        wanted, notes = self._fitting(answer)
        self.failures = 0
        if not wanted and self.known and self._bounds.keep_when_empty:
            self.doubted = False
            return Outcome(Step.EMPTY, notes=notes)
        wanted = self._with_held(wanted, now)
        removed = tuple(address for address in self.known if address not in wanted)
        if len(removed) * 2 > len(self.known) and not self.doubted:
            self.doubted = True
            return Outcome(Step.DOUBTED, removed=removed, notes=notes)
        self.doubted = False
        added = tuple(address for address in wanted if address not in self.known)
        step = Step.SAME if wanted == self.known else Step.TAKEN
        self.known = wanted
        return Outcome(step, added, removed, notes)

    def note_failure(self) -> None:
        """There was no answer, or none that can be used."""
        self.failures += 1

    def _fitting(self, answer: Answer) -> tuple[dict[str, Found], tuple[str, ...]]:
        """What of an answer may be a server, each address once, as many as are allowed."""
        notes = list(answer.notes)
        found: dict[str, Found] = {}
        refused = 0
        for one in answer.servers:
            why = unfit(one.address, self._bounds.local, self._bounds.names)
            if why:
                refused += 1
                if refused <= 3:
                    notes.append(f"{one.address} is refused: {why}")
            else:
                found.setdefault(one.address, one)
        if refused > 3:
            notes.append(f"{refused - 3} more are refused")
        if answer.servers and not found:
            raise Failed("; ".join(notes))
        if len(found) <= self._bounds.most:
            return found, tuple(notes)
        notes.append(f"{len(found)} servers, of which {self._bounds.most} are taken (max)")
        # Which ones must not depend on the order, which DNS changes with each answer.
        order = sorted(found.values(), key=lambda one: (bool(one.backup), *self._rank(one.address)))
        return {one.address: one for one in order[: self._bounds.most]}, tuple(notes)

    def _rank(self, address: str) -> tuple[bool, str]:
        return address not in self.known, address

    def _with_held(self, wanted: dict[str, Found], now: float) -> dict[str, Found]:
        """With those that were there until a moment ago."""
        hold = self._bounds.hold
        if not hold:
            return wanted
        missing = {
            address: self._missing.get(address, now) for address in self.known if address not in wanted
        }
        self._missing = missing
        latest = sorted(missing.items(), key=lambda one: -one[1])
        held = [address for address, since in latest if now - since < hold]
        room = self._bounds.most - len(wanted)
        return wanted | {address: self.known[address] for address in held[: max(0, room)]}


def pause(course: Course, ttl: float | None, interval: float | None) -> float:
    """Seconds until the next question.

    Args:
        ttl: the last answer's.
        interval: the configuration's, which goes before the TTL.
    """
    usual = interval if interval is not None else max(_FLOOR, min(ttl or _FLOOR, _LONGEST))
    if course.failures:
        return _RETRY[min(course.failures, len(_RETRY)) - 1]
    if course.doubted:
        return _FLOOR if ttl is None else max(_FLOOR, min(usual, _CONFIRM_WITHIN))
    return usual


def kept(servers: Mapping[str, Found]) -> list[list[object]]:
    """Servers as JSON, for who comes after."""
    return [[one.address, one.weight, one.backup] for one in servers.values()]


def remembered(value: object) -> list[Found]:
    """Servers of `kept`; what isn't as it should be is left out."""
    found = []
    for one in value if isinstance(value, list) else []:
        match one:
            case [str(address), int() | None as weight, bool() | None as backup]:
                found.append(Found(address, weight, backup))
    return found
