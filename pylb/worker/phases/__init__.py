"""The phases of a request: functions of its transaction, in the order of a request's life.

A phase of a request gives None (go on), an `Answer` (send it and ask no server) or a `Wait`. A phase of a
response takes its head and gives it back, changed or not. Of the transaction they set ``backend``, with which
each request begins anew; whoever sets more must see to its being set back. A frontend gets the phases that
its configuration needs, once, when it is made; this module is the list of them.

Floor: above the server side, below the exchange, which runs them. No module of this package may know the
exchange, a side or the event loop.
"""

from __future__ import annotations

from pylb.config.model import Frontend as FrontendConfig
from pylb.rules.decision import Rules
from pylb.worker.backend import Backend
from pylb.worker.core import Core
from pylb.worker.frontend import Frontend
from pylb.worker.phases import answers, fields, limits, route
from pylb.worker.transaction import Transaction


def compiled(
    config: FrontendConfig, backends: dict[str, Backend], core: Core, rules: Rules | None = None
) -> Frontend[Transaction]:
    """A frontend with the phases that its configuration needs, in order. Its rules' places are backends."""
    body_bytes = core.limits.body_bytes if config.body_bytes is None else config.body_bytes
    frontend: Frontend[Transaction] = Frontend(
        config, backends[config.backend], body_bytes, core.limits.body_rate
    )
    on_request = [
        limits.body(body_bytes),
        answers.health_path(config, core),
        answers.redirect_to_https(config),
        route.route(rules),
    ]
    on_response = [fields.strict_transport_security(config)]
    frontend.on_request = tuple(phase for phase in on_request if phase is not None)
    frontend.on_response = tuple(phase for phase in on_response if phase is not None)
    return frontend
