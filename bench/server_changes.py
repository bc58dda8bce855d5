"""``python -m bench.server_changes``: is every request answered while servers are changed again and again?

Keep-alive clients send without pause to two workers. Meanwhile servers are added, removed, drained, taken
back, put into maintenance, weighed and moved to another address, by the admin address, at 1,000 changes a
minute. A removed server is answering requests at that moment, and its index goes to another one soon after.
Nothing may fail, and each change must be carried out.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.nothing_lost import Clients, _keep_alive
from bench.rig.balancer import Balancer
from bench.rig.command import console, parser
from bench.rig.origins import origin
from bench.rig.processes import child, event
from bench.rig.report import in_words, write
from pylb.control import view

RATE = 1000 / 60.0  # changes a second
SERVERS = 4
MOST = 12  # servers at a time


class Operator:
    """Changes the servers of one backend; one of them is always left alone."""

    def __init__(self, balancer: Balancer, addresses: list[str], seed: int) -> None:
        self.made: Counter[str] = Counter()
        self.refused: list[str] = []
        self.slowest = 0.0
        self._balancer = balancer
        self._addresses = addresses
        self._chance = random.Random(seed)
        self._names = [f"s{number}" for number in range(2, len(addresses) + 1)]
        self._numbers = itertools.count(1)

    def change(self) -> None:
        """Make one change, and wait until it is made."""
        kinds = ["add", "remove", "drain", "ready", "maintenance", "weight", "address"]
        if len(self._names) < 2:
            kinds = ["add"]
        elif len(self._names) >= MOST:
            kinds.remove("add")
        kind = self._chance.choice(kinds)
        began = time.monotonic()
        try:
            self._make(kind)
            self.made[kind] += 1
        except (view.AdminError, OSError) as error:
            self.refused.append(f"{kind}: {error}")
        self.slowest = max(self.slowest, time.monotonic() - began)

    def _make(self, kind: str) -> None:
        if kind == "add":
            name, address = f"n{next(self._numbers)}", self._chance.choice(self._addresses)
            self._ask("POST", "/servers/main", {"address": address, "name": name})
            self._names.append(name)
            return
        name = self._chance.choice(self._names)
        path = f"/servers/main/{name}"
        if kind == "remove":
            self._names.remove(name)
            self._ask("DELETE", path, {})
        elif kind == "weight":
            self._ask("POST", path, {"weight": self._chance.randint(0, 20)})
        elif kind == "address":
            self._ask("POST", path, {"address": self._chance.choice(self._addresses)})
        else:
            self._ask("POST", path, {"state": kind})

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> None:
        view.fetch(self._balancer.admin, method, path, body)


def run(seconds: float, clients: int, seed: int) -> tuple[Operator, Clients, float]:
    """Change servers for so long; gives who did it, what the clients saw, and the seconds that it took."""
    ends = event()
    with ExitStack() as stack:
        addresses = [stack.enter_context(origin()) for _ in range(SERVERS)]
        balancer = stack.enter_context(Balancer("--workers", "2", servers=addresses))
        pipe = stack.enter_context(child(_keep_alive, balancer.port, clients, ends))
        balancer.wait("load", lambda status: status["totals"]["requests"] > 1000)
        operator = Operator(balancer, addresses, seed)
        began = time.monotonic()
        with console.status("changing servers"):
            for number in itertools.count():
                if (at := number / RATE) >= seconds:
                    break
                time.sleep(max(0.0, began + at - time.monotonic()))
                operator.change()
        took = time.monotonic() - began
        ends.set()
        return operator, pipe.recv(), took


def report(folder: Path, operator: Operator, seen: Clients, took: float) -> bool:
    """JSON and Markdown; whether nothing was lost."""
    made = sum(operator.made.values())
    good = not (seen.failures or seen.unanswered or operator.refused)
    causes = dict(Counter(text for _, text in seen.failures))
    record = {
        "changes": dict(operator.made), "refused": dict(Counter(operator.refused)), "seconds": took,
        "slowest_change_ms": operator.slowest * 1000, "requests": seen.answered, "failures": causes,
        "unanswered": seen.unanswered,
    }  # fmt: skip
    lines = [
        "# Servers changed under load", "",
        f"Written by `python -m bench.server_changes`. {in_words()}.", "",
        f"**{'Nothing was lost.' if good else 'Something was lost.'}** {seen.clients} keep-alive clients "
        f"send without pause through two workers to {SERVERS} servers and those that are added.", "",
        "| changes | a minute | slowest | refused | requests | failed | unanswered |",
        "|---|---|---|---|---|---|---|",
        f"| {made} | {60 * made / took:.0f} | {operator.slowest * 1000:.0f} ms | {len(operator.refused)} | "
        f"{seen.answered} | {len(seen.failures)} | {seen.unanswered} |", "",
        "Changes: " + ", ".join(f"{count} {kind}" for kind, count in sorted(operator.made.items())) + ".",
        f"Failures as the clients saw them: {'; '.join(causes) or 'none'}.",
    ]  # fmt: skip
    write("server_changes", record, lines, folder)
    return good


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--clients", type=int, default=100)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    operator, seen, took = run(chosen.seconds, chosen.clients, chosen.seed)
    sys.exit(0 if report(chosen.out, operator, seen, took) else 1)


if __name__ == "__main__":
    main()
