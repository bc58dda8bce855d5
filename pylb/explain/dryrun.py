"""A request put through the phases of a configuration, as a worker does, with all that there is to tell.

`DryRun` makes backends and frontends as a worker's process does, and `DryRun.ask` runs the phases that come
before a server is picked on a real transaction. Nothing is connected to. Beside that the rules are asked with
a trace, which tells what became of each of them.

Floor: above `request`; below what shows or judges an outcome.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from pylb.config import routing
from pylb.config.model import Config
from pylb.config.model import Frontend as FrontendConfig
from pylb.explain.request import Asking, BadRequest, Request
from pylb.http.errors import Answer, Refused, error
from pylb.http.request import RequestHead
from pylb.http.response import ResponseHead
from pylb.rules import split
from pylb.rules.decision import Rules, Step
from pylb.rules.maps import Map
from pylb.scoreboard import Scoreboard
from pylb.worker import phases
from pylb.worker.backend import Backend
from pylb.worker.core import Core
from pylb.worker.descriptors import Descriptors
from pylb.worker.frontend import Bind, Frontend
from pylb.worker.phases import route
from pylb.worker.phases.pick import pick
from pylb.worker.transaction import Transaction

BY_LOAD = frozenset({"leastconn", "roundrobin", "first", "random", "twochoices"})
"""Algorithms whose choice depends on more than the request."""


@dataclass
class Outcome:
    """What becomes of a request."""

    frontend: str
    steps: list[Step] = field(default_factory=list)
    """What became of each rule that was looked at, in order."""
    rule: int = -1
    """The position of the rule that ended the evaluation; -1 where none did."""
    backend: str = ""
    """Where it goes; empty where it is answered, refused or dropped."""
    shares: dict[str, int] = field(default_factory=dict)
    """Where chance decides: the backends it may go to, by weight; ``backend`` is one of them."""
    servers: tuple[str, ...] = ()
    """The servers of which one gets it; a single one where the request decides that."""
    target: str = ""
    """Path and query as the server gets them."""
    request_headers: list[tuple[str, str]] = field(default_factory=list)
    """The fields that the server gets."""
    status: int = 0
    """Of pylb's own answer; 0 where a server answers."""
    refused: str = ""
    """Why pylb refuses the request, in the word of its counter."""
    response_headers: list[tuple[str, str]] = field(default_factory=list)
    """The fields of pylb's own answer."""
    body: bytes = b""


class DryRun:
    """The frontends of a configuration, as a worker has them."""

    def __init__(self, config: Config) -> None:
        """Raises OSError or `routing.Unusable` where a map is no good."""
        self._config = config
        self._maps: dict[str, Map] = routing.read_maps(config)
        loop = asyncio.new_event_loop()
        loop.close()  # no phase asks it for anything
        self._core = Core(loop, config.timeouts, config.limits, 0.0, Descriptors(1024, 0))
        count = sum(len(backend.servers) for backend in config.backends)
        board = Scoreboard(1, servers=max(count, 1), backends=len(config.backends))
        numbers = iter(range(count))
        self._backends = {
            backend.name: Backend(
                backend.model_copy(update={"tls": None}),
                *(board, lambda server: next(numbers), 0, lambda: True),
            )
            for backend in config.backends
        }
        self._compiled: dict[str, tuple[Rules | None, Frontend[Transaction]]] = {}

    def frontend_of(self, request: Request, name: str = "") -> tuple[FrontendConfig, str]:
        """The frontend that a request comes to, and the key of the bind.

        Without a ``name`` it is the one that listens on the URL's port, with TLS for https; where the URL
        names no port and none listens on the usual one, the only one for that scheme.

        Raises:
            BadRequest: none is, or several are.
        """
        candidates = [one for one in self._config.frontends if one.mode == "http"]
        if name:
            candidates = [one for one in candidates if one.name == name]
            if not candidates:
                names = ", ".join(one.name for one in self._config.frontends if one.mode == "http")
                raise BadRequest("frontend", f"no frontend {name!r} for HTTP; there is {names or 'none'}")
        elif not candidates:
            raise BadRequest("url", "no frontend speaks HTTP")
        at_port = [one for one in candidates if any(bind.port == request.port for bind in one.bind)]
        if at_port:
            candidates = at_port
        elif request.explicit and not name:
            raise BadRequest("url", f"no frontend listens on port {request.port}; name one (frontend)")
        same = [one for one in candidates if (one.tls is not None) is request.https]
        candidates = same or candidates
        if len(candidates) > 1:
            names = ", ".join(one.name for one in candidates)
            raise BadRequest("url", f"several frontends could get this request; name one (frontend): {names}")
        chosen = candidates[0]
        binds = [bind for bind in chosen.bind if bind.port == request.port] or list(chosen.bind)
        return chosen, str(binds[0])

    def ask(self, request: Request, name: str = "") -> Outcome:
        """What becomes of a request; raises BadRequest as `frontend_of`."""
        config, bind_key = self.frontend_of(request, name)
        rules, frontend = self._frontend(config)
        bind = Bind(bind_key, config, frontend, {}, self._core.head_limits)
        client = Asking(request, bind_key, bind.tls)
        outcome = Outcome(config.name)
        tx = Transaction()
        tx.client, tx.frontend, tx.backend = client, frontend, frontend.backend
        head = bind.reader(client)
        try:
            head.read(request.head())
            tx.head = head
            answer = None
            for phase in frontend.on_request:
                if rules is not None and phase.__module__ == route.__name__:
                    _trace(rules, head, client, config, outcome)
                result = phase(tx)
                if isinstance(result, Answer):
                    answer = result
                    break
        except Refused as refused:
            outcome.refused = refused.reason
            answer = error(refused.status)
        if answer is not None:
            self._answered(answer, tx, outcome)
        else:
            self._passed(tx, head, outcome)
        return outcome

    def _frontend(self, config: FrontendConfig) -> tuple[Rules | None, Frontend[Transaction]]:
        found = self._compiled.get(config.name)
        if found is None:
            rules = routing.compiled(self._config, config, self._maps, self._backends)
            found = rules, phases.compiled(config, self._backends, self._core, rules)
            self._compiled[config.name] = found
        return found

    def _answered(self, answer: Answer, tx: Transaction, outcome: Outcome) -> None:
        head: ResponseHead = answer.head
        for phase in tx.frontend.on_response:
            head = phase(tx, head)
        outcome.status = head.status
        _, outcome.response_headers = _lines(head.out)
        outcome.body = answer.body

    def _passed(self, tx: Transaction, head: RequestHead, outcome: Outcome) -> None:
        outcome.backend = tx.backend.name
        section = next(one for one in self._config.backends if one.name == tx.backend.name)
        usable = tuple(server.name for server in section.servers if server.weight)
        if section.balance not in BY_LOAD and len(usable) > 1:
            server = pick(tx)
            usable = () if server is None else (server.name,)
        outcome.servers = usable
        line, outcome.request_headers = _lines(head.printed())
        outcome.target = line.split(" ")[1]


def _trace(rules: Rules, head: RequestHead, client: Asking, config: FrontendConfig, outcome: Outcome) -> None:
    """Ask the rules on their own; raises Refused as they do."""
    view = rules.view()
    view.begin(head, client)
    decision = rules.decide(view, outcome.steps)
    outcome.rule = decision.rule
    if decision.rule >= 0:
        section = config.rules[decision.rule]
        if section.split and (section.split_by is None or not split.key_of(section.split_by)(view)):
            outcome.shares = {one: weight for one, weight in section.split.items() if weight}


def _lines(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    """A head's first line, and its fields."""
    first, *lines = head.decode("utf-8", "backslashreplace").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return first, [(name, value.strip()) for name, _, value in pairs]
