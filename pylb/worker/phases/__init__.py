"""The phases of a request: functions of its transaction, in the order of a request's life.

A phase of a request gives None (go on), an `Answer` (send it and ask no server) or a `Wait`. A phase of a
response takes its head and gives it back, changed or not. Of the transaction they set ``backend``, with which
each request begins anew; whoever sets more must see to its being set back. A frontend gets the phases that
its configuration needs, once, when it is made; this module is the list of them.

Floor: above the server side, below the exchange, which runs them. No module of this package may know the
exchange, a side or the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping

from pylb.config.accesslog import AccessLog
from pylb.config.logtarget import target_of
from pylb.config.model import Frontend as FrontendConfig
from pylb.rules.decision import Rules
from pylb.worker.backend import Backend
from pylb.worker.core import Core
from pylb.worker.frontend import Frontend
from pylb.worker.phases import (
    accesslog,
    answers,
    connection,
    fields,
    gates,
    limits,
    observe,
    outcomes,
    pages,
    retry,
    route,
    sticky,
)
from pylb.worker.transaction import Transaction


def compiled(
    config: FrontendConfig,
    backends: dict[str, Backend],
    core: Core,
    rules: Rules | None = None,
    bodies: Mapping[str, bytes] | None = None,
    log: AccessLog | None = None,
) -> Frontend[Transaction]:
    """A frontend with the phases that its configuration needs, in order.

    Args:
        rules: its rules, if it has any; their places are backends.
        bodies: what the files of error pages hold, by their path.
        log: its access log, whose writer is in ``core.access_logs``.
    """
    body_bytes = core.limits.body_bytes if config.body_bytes is None else config.body_bytes
    frontend: Frontend[Transaction] = Frontend(
        config, backends[config.backend], body_bytes, core.limits.body_rate
    )
    limited = body_bytes or any(backend.body_bytes for backend in backends.values()) or _limited(rules)
    sticks = config.mode == "http" and any(backend.sticky is not None for backend in backends.values())
    on_request = [
        answers.health_path(config, core, _counted(config, backends)),
        answers.redirect_to_https(config),
        route.route(config, rules) if config.mode == "http" else connection.connection(rules),
        sticky.request(rules is not None and rules.edit) if sticks else None,
        limits.body if limited else None,
    ]
    pages_ = pages.pages(config, rules, bodies or {})
    frontend.again = retry.statuses(backends.values())
    frontend.instead = retry.another(core)
    on_response = [
        fields.strict_transport_security(config),
        route.edit_response(rules),
        sticky.response if sticks else None,
    ]
    edits = tuple(phase for phase in on_response if phase is not None)
    frontend.on_request = tuple(phase for phase in on_request if phase is not None)
    frontend.on_response = edits if edits or pages_ is not None or frontend.again else None
    frontend.page = pages_
    on_account = [
        observe.response_times(backends.values()),
        outcomes.outcomes(backends.values()),
        gates.breakers(backends.values(), core),
    ]
    if log is not None:
        writer = core.access_logs[target_of(log)]
        on_account.append(accesslog.access_log(config, log, writer, core))
        frontend.tells_all = log.without_request
    frontend.on_account = tuple(phase for phase in on_account if phase is not None)
    return frontend


def _limited(rules: Rules | None) -> bool:
    """Whether a rule bounds the bodies of requests."""
    return rules is not None and any(rule.edits is not None and rule.edits.body_bytes for rule in rules.rules)


def _counted(config: FrontendConfig, backends: Mapping[str, Backend]) -> list[Backend]:
    """The backends of a frontend that are to have so many usable servers; all, where rules compute names."""
    names = {config.backend}
    for rule in config.rules:
        if rule.backend is not None:
            names |= set(backends) if "{" in rule.backend else {rule.backend}
        names |= set(rule.split)
    return [backends[name] for name in backends if name in names and backends[name].counted]
