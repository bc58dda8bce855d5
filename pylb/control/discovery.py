"""Discovery: asks each source of servers when it is due, and tells the supervisor what is to be believed.

Within `pylb.control` above `sources` (who is asked) and below `main`. What to do with an answer is decided in
`pylb.discover.course`; the supervisor owns the lists of servers and tells workers and this process of them.
What a source has answered last is kept by the supervisor, too, for the control plane that comes after this
one: the servers stay where the first question after a restart or a reload goes wrong.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pylb.config.model import Config, Discover
from pylb.control.names import Names
from pylb.control.orders import Orders
from pylb.control.sources import registry
from pylb.control.sources.source import Access, Source
from pylb.discover import course
from pylb.discover.course import Bounds, Course, Outcome, Step
from pylb.discover.found import Answer, Failed
from pylb.log import log
from pylb.net.channel import MAX_PACKET
from pylb.repeats import Repeats

_NAMES = ("file", "function")
"""Kinds whose servers may be names: what is written on this machine."""
_SHOWN = 5  # servers that a line of the log names


class Watch:
    """One source of one backend.

    Args:
        remembered: what an earlier control plane has kept of it.
    """

    def __init__(
        self, section: Discover, backend: str, source: Source, orders: Orders, remembered: object = None
    ) -> None:
        self.section = section
        self.backend = backend
        self.failures = 0
        """Since this process began."""
        self.error = ""
        """Why the last look gave no answer."""
        self.answered: float | None = None
        """When the last answer came (monotonic seconds)."""
        self.due = 0.0
        """When the next look comes."""
        self._source = source
        self._orders = orders
        self._who = f"backend {backend}: {section.asks}"
        self._repeats = Repeats(every=60.0, quiet=120.0)
        bounds = Bounds(
            *(section.most, section.allow_local, section.kind in _NAMES, section.keeps, section.hold)
        )
        known = remembered.get("servers") if isinstance(remembered, dict) else None
        if isinstance(remembered, dict) and remembered.get("asks") != section.asks:
            known = None
        self.course = Course(bounds, course.remembered(known))
        self._ttl: float | None = None
        self._told = False

    async def run(self) -> None:
        """Ask for as long as the process lives."""
        try:
            if self.course.known:
                self._tell()
            while True:
                await self.look()
                pause = course.pause(self.course, self._ttl, self.section.seconds)
                self.due = time.monotonic() + pause
                try:
                    async with asyncio.timeout(pause):
                        await self._source.changed()
                except TimeoutError:
                    pass
        finally:
            await self._source.close()

    async def look(self) -> None:
        """Ask once, and tell the supervisor if there are other servers now."""
        now = time.monotonic()
        try:
            async with asyncio.timeout(self._source.limit):
                answer = await self._source.look()
            outcome = self.course.answered(answer, time.monotonic())
        except Failed as error:
            self._failed(str(error), now)
            return
        except TimeoutError:
            self._failed(f"no answer within {self.section.timeout:g} s", now)
            return
        except OSError as error:
            self._failed(error.strerror or str(error), now)
            return
        self._answered(answer, outcome)
        if outcome.step is Step.TAKEN or not self._told:
            self._tell()

    def _failed(self, why: str, now: float) -> None:
        self.course.note_failure()
        self.failures += 1
        self.error = why
        self._say(logging.WARNING, why, f"{why}; {self._stays()}", now)

    def _answered(self, answer: Answer, outcome: Outcome) -> None:
        now = time.monotonic()
        if self.error:
            self._repeats.over(self.error)
            log.info("%s: it answers again", self._who)
        self.error = ""
        self.answered = now
        self._ttl = answer.ttl
        for note in outcome.notes:
            self._say(logging.WARNING, note, note, now)
        match outcome.step:
            case Step.TAKEN:
                log.info("%s: %s", self._who, _change(outcome, len(self.course.known)))
            case Step.DOUBTED:
                known = len(self.course.known)
                log.warning(
                    "%s: its answer would remove %d of %d servers (%s); it is asked again first",
                    *(self._who, len(outcome.removed), known, _some(outcome.removed)),
                )
            case Step.EMPTY:
                self._say(logging.WARNING, "empty", f"it answers with no server; {self._stays()}", now)
            case Step.SAME:
                self._repeats.over("empty")
                if not self._told and not self.course.known:
                    log.warning("%s: it answers with no server", self._who)

    def _stays(self) -> str:
        known = len(self.course.known)
        if not known:
            return "there is no server of it until it has one"
        return f"{known} servers stay" if known > 1 else "its server stays"

    def _say(self, level: int, kind: str, text: str, now: float) -> None:
        """A line of the log, once; repetitions are counted."""
        for again, line in self._repeats.due(now):
            log.log(again, "%s", line)
        line = f"{self._who}: {text}"
        if self._repeats.happened(kind, now, level, line):
            log.log(level, "%s", line)

    def _tell(self) -> None:
        """Have the supervisor know, and keep, what servers there are."""
        section, known = self.section, self.course.known
        servers: list[dict[str, Any]] = []
        room = MAX_PACKET - 1000
        for one in known.values():
            entry: dict[str, Any] = {"name": one.address, "address": one.address}
            entry["weight"] = section.weight if one.weight is None else one.weight
            if one.backup is not None:
                entry["backup"] = one.backup
            room -= len(json.dumps(entry)) + 1
            if room < 0:
                log.error("%s: only %d of %d servers fit into a message", self._who, len(servers), len(known))
                break
            servers.append(entry)
        self._orders.discovered(self.backend, section.name, servers)
        left = {"asks": section.asks, "servers": course.kept(known)}
        self._orders.keep(key_of(self.backend, section.name), left)
        self._told = True

    def status(self) -> dict[str, Any]:
        """For the operator; times in seconds from now."""
        now = time.monotonic()
        return {
            "backend": self.backend,
            "source": self.section.name,
            "asks": self.section.asks,
            "servers": len(self.course.known),
            "answered": None if self.answered is None else round(now - self.answered, 1),
            "next": round(max(0.0, self.due - now), 1),
            "doubted": self.course.doubted,
            "failures": self.failures,
            "error": self.error,
        }


class Discovery:
    """All sources of the configuration.

    Args:
        access: by backend and source, what was read for it before the fork.
        kept: what earlier control planes have kept.
        orders: to the supervisor.
    """

    def __init__(
        self,
        config: Config,
        access: Mapping[tuple[str, str], Access],
        kept: Mapping[str, object],
        orders: Orders,
    ) -> None:
        self.watches = [
            Watch(
                section,
                backend.name,
                registry.source(section, backend.name, access.get((backend.name, section.name), Access())),
                orders,
                kept.get(key_of(backend.name, section.name)),
            )
            for backend in config.backends
            for section in backend.discover
        ]
        self.names = Names(config)

    def parts(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """What is to run for as long as the process lives, each with what it is called in the log."""
        for watch in self.watches:
            yield f"discovery by {watch.section.asks}", watch.run
        if self.names.unresolved:
            yield "looking names up", self.names.run

    def status(self) -> list[dict[str, Any]]:
        """A source each, and the servers whose names can't be resolved."""
        return [watch.status() for watch in self.watches] + self.names.status()


    def why(self, backend: str, server: str) -> dict[str, Any]:
        """Who has found a server; empty where nobody has."""
        for watch in self.watches:
            if watch.backend == backend and server in watch.course.known:
                return {"found_by": watch.status()}
        return {}


def key_of(backend: str, source: str) -> str:
    """By which a source's last answer is kept."""
    return f"discovered {backend} {source}"


def _change(outcome: Outcome, known: int) -> str:
    parts = [f"{known} servers"] if known != 1 else ["1 server"]
    if outcome.added:
        parts.append(f"new: {_some(outcome.added)}")
    if outcome.removed:
        parts.append(f"gone: {_some(outcome.removed)}")
    if len(parts) == 1:
        parts.append("other weights")
    return "; ".join(parts)


def _some(addresses: tuple[str, ...]) -> str:
    more = f" and {len(addresses) - _SHOWN} more" if len(addresses) > _SHOWN else ""
    return ", ".join(address[:80] for address in addresses[:_SHOWN]) + more
