"""A request put through a configuration as a worker does it, with all that there is to tell.

`DryRun` makes backends and frontends as a worker's process does. `DryRun.ask` gives the request to a real
exchange, between a client side and server sides (`sides.py`) that only note what they are told; nothing is
connected to. When the exchange comes to the rules, they are asked once more with a trace, which tells what
became of each of them.

Floor: above `request`; below what shows or judges an outcome.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pylb.config import changes, routing, stickiness
from pylb.config.connections import needs_hello
from pylb.config.model import Config
from pylb.config.model import Frontend as FrontendConfig
from pylb.explain.request import Asking, BadRequest, Request
from pylb.explain.sides import NotingClient, NotingServer
from pylb.http.errors import Refused
from pylb.net.serverlists import as_configured
from pylb.rules import split
from pylb.rules.decision import Rules, Step
from pylb.scoreboard import Scoreboard
from pylb.worker import phases
from pylb.worker.backend import Backend
from pylb.worker.core import Core
from pylb.worker.descriptors import Descriptors
from pylb.worker.exchange import begin
from pylb.worker.frontend import DROP, Bind, Frontend
from pylb.worker.phases import choose, connection, keys, route
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction

_BY_REQUEST = frozenset({"cookie", "header", "path", "query", "source", "uri"})
"""Algorithms whose choice depends on the request, and not on what else is under way; what follows a colon is
left out."""


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
    cookie: str = ""
    """The cookie that has chosen the server; empty where none has."""
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


def by_request(algorithm: str) -> bool:
    """Whether a backend's algorithm sends like requests to one server."""
    return algorithm.partition(":")[0] in _BY_REQUEST


class _Core(Core):
    """A worker's, of which the exchange asks little; ``reason`` is that of the last refusal."""

    reason = ""

    def count_refusal(self, refused: Refused) -> None:
        self.reason = refused.reason


class DryRun:
    """The frontends of a configuration, as a worker has them."""

    def __init__(self, config: Config) -> None:
        """Raises OSError or `routing.Unusable` where a file is no good."""
        self._config = config = _with_stand_ins(config)
        self._maps = routing.read_maps(config)
        self._bodies = changes.read_bodies(config)
        # Without a secret_file pylb has made one up, so that no signature is known here.
        secrets = stickiness.secrets(config, os.urandom(32))
        loop = asyncio.new_event_loop()
        loop.close()  # there is a pooled connection to each server, so nothing is begun on it
        self._core = _Core(loop, config.timeouts, config.limits, 0.0, Descriptors(1024, 0))
        count = sum(len(backend.servers) for backend in config.backends)
        board = Scoreboard(1, servers=max(count, 1), backends=len(config.backends))
        lists = as_configured(config)
        self._backends = {
            backend.name: Backend(backend.model_copy(update={"tls": None}), board, lists[backend.name], 0)
            for backend in config.backends
        }
        for backend in config.backends:
            made = self._backends[backend.name]
            made.key = keys.compiled(backend)
            made.stick(stickiness.compiled(backend, secrets.get(backend.name, b"")))
            made.choose = choose.compiled(made)
        self._compiled: dict[str, tuple[Rules | None, Frontend[Transaction]]] = {}
        self._phases: dict[str, Phases] = {}

    def frontend_of(self, request: Request, name: str = "") -> tuple[FrontendConfig, str]:
        """The frontend that a request comes to, and the key of the bind.

        Without a ``name`` it is the one that listens on the URL's port, with TLS for https; where the URL
        names no port and none listens on the usual one, the only one for that scheme.

        Raises:
            BadRequest: none is, or several are.
        """
        mode, spoken = ("tcp", "TCP") if request.raw else ("http", "HTTP")
        candidates = [one for one in self._config.frontends if one.mode == mode]
        if name:
            candidates = [one for one in candidates if one.name == name]
            if not candidates:
                names = ", ".join(one.name for one in self._config.frontends if one.mode == mode)
                raise BadRequest("frontend", f"no frontend {name!r} for {spoken}; there is {names or 'none'}")
        elif not candidates:
            raise BadRequest("url", f"no frontend speaks {spoken}")
        at_port = [one for one in candidates if any(bind.port == request.port for bind in one.bind)]
        if at_port:
            candidates = at_port
        elif request.explicit and not name:
            raise BadRequest("url", f"no frontend listens on port {request.port}; name one (frontend)")
        ends_tls = request.https
        if request.raw:  # TLS that passes through is more likely to be meant where names are looked at
            ends_tls = request.https and not any(_looks_at_tls(one) for one in candidates)
        same = [one for one in candidates if (one.tls is not None) is ends_tls]
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
        sni = {host: self._backends[backend] for host, backend in config.sni.items()}
        bind = Bind(bind_key, config, frontend, sni, self._core.head_limits)
        facts = Asking(request, bind_key, bind.tls)
        facts.requests = 1  # any connection serves a request that is not the client's first
        outcome = Outcome(config.name)
        frontend.on_request = _with_trace(self._phases[config.name], rules, config, outcome)
        server = self._pooled()
        client = NotingClient(facts)
        self._core.reason = ""
        exchange = begin(self._core, facts, frontend)
        if config.mode == "tcp":
            self._connected(request, exchange.tx, bind, outcome)
            return outcome
        head = bind.reader(facts)
        try:
            head.read(request.head())
        except Refused as refused:
            exchange.refuse(refused, client)
        else:
            exchange.request(client, head, b"", True)
        if server.asked:
            self._passed(server, outcome, exchange.tx)
            exchange.client_gone(Reason.CLIENT_GONE)
        elif client.response is not None:
            outcome.status = client.response.status
            _, outcome.response_headers = _lines(client.response.out)
            outcome.body = client.content
        outcome.refused = self._core.reason
        return outcome

    def _connected(self, request: Request, tx: Transaction, bind: Bind, outcome: Outcome) -> None:
        """A connection in TCP mode: it has no head, and no server is asked."""
        if bind.sni:
            tx.go_to(bind.backend_for(request.name))
        if any(phase(tx) is DROP for phase in bind.frontend.on_request):
            return
        outcome.backend = tx.backend.name
        self._picked(outcome, tx.backend.servers[0].name)

    def _pooled(self) -> NotingServer:
        """Have one side in the pool of each server."""
        side = NotingServer()
        for backend in self._backends.values():
            for server in backend.servers:
                server.pool.idle = {side: None}
        return side

    def _frontend(self, config: FrontendConfig) -> tuple[Rules | None, Frontend[Transaction]]:
        found = self._compiled.get(config.name)
        if found is None:
            rules = routing.compiled(self._config, config, self._maps, self._backends, self._bodies)
            frontend = phases.compiled(config, self._backends, self._core, rules, self._bodies)
            self._phases[config.name] = frontend.on_request
            found = self._compiled[config.name] = rules, frontend
        return found

    def _passed(self, server: NotingServer, outcome: Outcome, tx: Transaction) -> None:
        outcome.backend = server.backend
        sticky = tx.backend.sticky
        if sticky is not None and tx.visit is not None and sticky.names(tx.visit.token, server.name):
            outcome.cookie = sticky.cookie.name.decode()
        self._picked(outcome, server.name)
        line, outcome.request_headers = _lines(server.head)
        outcome.target = line.split(" ")[1]

    def _picked(self, outcome: Outcome, name: str) -> None:
        """Which servers may get it, where this one would have now."""
        section = next(one for one in self._config.backends if one.name == outcome.backend)
        usable = tuple(one.name for one in section.servers if one.weight)
        outcome.servers = (name,) if outcome.cookie or by_request(section.balance) else usable


def _looks_at_tls(config: FrontendConfig) -> bool:
    return config.tls is None and (bool(config.sni) or needs_hello(config.rules))


def _with_stand_ins(config: Config) -> Config:
    """The same, but with a server for each source that would find some."""
    backends = []
    for backend in config.backends:
        found = [source.server(f"any of {source.asks}", "192.0.2.1:1") for source in backend.discover]
        backends.append(backend.model_copy(update={"servers": (*backend.servers, *found)}))
    return config.model_copy(update={"backends": tuple(backends)})


Phases = tuple[Callable[[Transaction], Any], ...]


def _with_trace(phases: Phases, rules: Rules | None, config: FrontendConfig, outcome: Outcome) -> Phases:
    """The phases, with the trace before the one that asks the rules."""

    def trace(tx: Transaction) -> None:
        assert rules is not None
        _trace(rules, tx, config, outcome)

    if rules is None:
        return phases
    return tuple(
        one
        for phase in phases
        for one in ([trace, phase] if phase.__module__ in (route.__name__, connection.__name__) else [phase])
    )


def _trace(rules: Rules, tx: Transaction, config: FrontendConfig, outcome: Outcome) -> None:
    """Ask the rules on their own."""
    view = rules.view()
    view.begin(tx.head or connection.NO_HEAD, tx.client)
    try:
        decision = rules.decide(view, outcome.steps)
    except Refused:  # the next phase is, too
        return
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
