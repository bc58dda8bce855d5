"""Has the levers do what the policy wants, in a thread of its own, and undoes it.

libvirt and guests may stand still, so the server only says what is wanted, and the thread compares that with
what is so. What fails is tried again, later each time; what was found is on disk before anything is changed.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.act.agent import Vcpus
from controller.act.kept import Found, Kept
from controller.act.policy import Balancer, Policy, Wanted
from controller.act.weights import Lever

PERIOD = 1.0
"""Seconds after which the thread looks for what is left to do."""
PATIENCE = 5.0
"""Seconds that a controller's end waits for what it has to restore."""
CHECK = 5.0
"""Seconds after which it is asked whether a preferred machine was started anew."""
_RETRY_FIRST = 1.0
_RETRY_MOST = 30.0
_REMEMBERED = 20

log = logging.getLogger("controller")


@dataclass(slots=True)
class _Failure:
    problem: str
    again: float
    wait: float


class Actor:
    """Acts for one controller.

    Args:
        lever: of machines' weights; ``times`` says how many times as large a preferred machine's becomes.
        vcpus: by machine what brings its vCPUs online, where that is wanted.
        process: the process that runs a machine.
    """

    def __init__(
        self,
        policy: Policy,
        lever: Lever,
        kept: Kept,
        times: float,
        vcpus: Mapping[str, Vcpus],
        process: Callable[[str], int | None],
    ) -> None:
        self._policy = policy
        self._lever = lever
        self._kept = kept
        self._times = times
        self._vcpus = vcpus
        self._process = process
        self._wanted = Wanted()
        self._otherwise = "left by a controller that was killed"
        self._failures: dict[str, _Failure] = {}
        self._reasons: dict[str, tuple[float, str]] = {}
        self._satisfied: dict[str, int] = {}
        self._news = threading.Event()
        self._ending = self._ended = False
        self._thread = threading.Thread(target=self._run, name="act", daemon=True)
        self._checked = -math.inf
        self.preferred: list[dict[str, Any]] = []
        """For `status`: the machines that have something from us; replaced as a whole, as is `actions`."""
        self.actions: list[dict[str, Any]] = []
        """The last ones."""

    def start(self) -> None:
        """Begin; first with what an earlier controller left."""
        self._news.set()
        self._thread.start()

    def look(self, now: float, balancers: Iterable[Balancer]) -> None:
        """Say how the balancers are; called often, never blocks."""
        wanted = self._policy.decide(now, balancers)
        if (wanted.preferred.keys(), wanted.vcpus) != (self._wanted.preferred.keys(), self._wanted.vcpus):
            self._otherwise = "no pressure any more"
            self._wanted = wanted
            self._news.set()

    def close(self) -> None:
        """Undo everything; what can't be undone now, the next start undoes."""
        self._otherwise = "the controller ends"
        self._wanted = Wanted()
        self._ending = True
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        self._ended = True
        left = [machine for machine, found in self._kept.machines.items() if found]
        if left:
            log.warning("not restored: %s; the next start does that", ", ".join(left))
        self._kept.close()

    def _run(self) -> None:
        while True:
            self._news.wait(PERIOD)
            self._news.clear()
            self.work(time.monotonic())
            if self._ended or self._ending and not any(self._kept.machines.values()):
                return

    def work(self, now: float) -> None:
        """Compare what is with what is wanted, and act; each machine's failures are its own."""
        wanted = self._wanted
        kept = self._kept.machines
        check = now - self._checked >= CHECK
        if check:
            self._checked = now
        for machine in dict.fromkeys([*kept, *wanted.preferred]):
            has = machine in kept and bool(kept[machine].place)
            if machine not in wanted.preferred:
                if has:
                    self._try(now, machine, "weight", self._release)
                else:
                    self._failures.pop(f"{machine} weight", None)
            elif not has or check:
                self._try(now, machine, "weight", self._prefer)
        for machine in self._satisfied.keys() - wanted.vcpus.keys():
            del self._satisfied[machine]
        for machine in dict.fromkeys([*kept, *wanted.vcpus]):
            count = wanted.vcpus.get(machine, 0)
            if machine not in self._vcpus:
                continue
            if count and self._satisfied.get(machine, 0) < count:
                self._try(now, machine, "vcpus", self._bring_online)
            elif not count and machine in kept and kept[machine].vcpus:
                self._try(now, machine, "vcpus", self._take_offline)
        self._show()

    def _try(self, now: float, machine: str, what: str, action: Callable[[str], None]) -> None:
        failure = self._failures.get(f"{machine} {what}")
        if failure is not None and now < failure.again and not self._ending:
            return
        try:
            action(machine)
            self._failures.pop(f"{machine} {what}", None)
        except Exception as error:  # whatever a lever meets, the others are still to be undone
            problem = getattr(error, "strerror", None) or str(error) or repr(error)
            if failure is None or failure.problem != problem:
                log.warning("machine %s, %s: %s; trying again", machine, what, problem)
            wait = _RETRY_FIRST if failure is None else min(_RETRY_MOST, 2 * failure.wait)
            self._failures[f"{machine} {what}"] = _Failure(problem, now + wait, wait)

    # -- weights

    def _prefer(self, machine: str) -> None:
        """Give it preference, unless it has that."""
        place = self._lever.find(machine)
        found = self._kept.machines.setdefault(machine, Found())
        if found.place == place:
            return
        usual = self._lever.read(place)
        given = self._lever.raised(place, usual, self._times)
        found.place, found.usual, found.given = place, usual, given
        try:
            self._kept.save()
            self._lever.write(place, given)
        except OSError:
            found.place = ""
            raise
        self._did(machine, f"weight {given} instead of {usual}", self._wanted.preferred.get(machine, ""))

    def _release(self, machine: str) -> None:
        found = self._kept.machines[machine]
        try:
            weight = self._lever.read(found.place)
            if weight == found.given:
                self._lever.write(found.place, found.usual)
                what = f"weight {found.usual} again"
            else:  # never reached, or somebody else's since then
                what = f"weight {weight} is left as it is"
        except FileNotFoundError:
            what = "it has gone"
        found.place = ""
        self._forget(machine)
        self._did(machine, what, self._wanted.ended.get(machine, self._otherwise))

    # -- vCPUs

    def _bring_online(self, machine: str) -> None:
        count = self._wanted.vcpus.get(machine, 0)
        lever = self._vcpus[machine]
        online, offline = lever.vcpus(machine)
        more = offline[: max(0, count - online)]
        if more:
            found = self._kept.machines.setdefault(machine, Found())
            pid = self._process(machine) or 0
            before = found.vcpus if found.pid == pid else []
            found.vcpus, found.pid = sorted({*before, *more}), pid
            self._kept.save()
            lever.set_online(machine, more, True)
            what = f"vCPU{'s' if len(more) > 1 else ''} {', '.join(map(str, more))} brought online"
            self._did(machine, what, f"{count} cores are leased to its balancer or idle for it")
        self._satisfied[machine] = count

    def _take_offline(self, machine: str) -> None:
        found = self._kept.machines[machine]
        process = self._process(machine)
        if process is None and os.path.exists(f"/proc/{found.pid}"):
            raise OSError("it is not known yet")  # to a source that has just begun
        if process == found.pid:  # else it was started anew, and has what it begins with
            online, offline = self._vcpus[machine].vcpus(machine)
            ours = sorted(set(found.vcpus) - set(offline))[: online - 1]
            if ours:
                self._vcpus[machine].set_online(machine, ours, False)
                what = f"vCPU{'s' if len(ours) > 1 else ''} {', '.join(map(str, ours))} taken offline"
                self._did(machine, what, self._otherwise)
        found.vcpus = []
        self._forget(machine)

    # -- what is kept and shown

    def _forget(self, machine: str) -> None:
        if not self._kept.machines[machine]:
            del self._kept.machines[machine]
        self._kept.save()

    def _did(self, machine: str, what: str, why: str) -> None:
        log.info("machine %s: %s: %s", machine, what, why)
        self._reasons[machine] = time.time(), why
        did = {"at": round(time.time(), 3), "machine": machine, "action": what, "reason": why}
        self.actions = [*self.actions, did][-_REMEMBERED:]

    def _show(self) -> None:
        problems: dict[str, str] = {}
        for key, failure in self._failures.items():
            problems.setdefault(key.rpartition(" ")[0], failure.problem)
        shown = []
        for machine in sorted({*problems, *self._kept.machines}):
            found = self._kept.machines.get(machine, Found())
            since, why = self._reasons.get(machine, (0.0, ""))
            shown.append(
                {
                    "machine": machine,
                    "weight": found.given if found.place else None,
                    "usual": found.usual if found.place else None,
                    "vcpus": found.vcpus,
                    "since": round(since, 3),
                    "reason": why,
                    "problem": problems.get(machine, ""),
                }
            )
        self.preferred = shown
