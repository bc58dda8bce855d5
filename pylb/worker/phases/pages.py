"""Error pages: what of the user's own is answered in place of an error. Floor: phases."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pylb.config import changes
from pylb.config.model import Frontend as FrontendConfig
from pylb.http.errors import Answer
from pylb.rules.decision import Rules
from pylb.worker.transaction import Transaction


def pages(
    config: FrontendConfig, rules: Rules | None, bodies: Mapping[str, bytes]
) -> Callable[[Transaction, int, bool], Answer | None] | None:
    """The page for a status, of an error of pylb's own or of a server's response; rules' pages go first."""
    everywhere = changes.pages(config.error_pages, bodies)
    of_rules = rules is not None and any(rule.edits is not None and rule.edits.pages for rule in rules.rules)
    if everywhere is None and not of_rules:
        return None

    def page(tx: Transaction, status: int, own: bool) -> Answer | None:
        found = None if tx.plan is None else tx.plan.page(status, own)
        if found is None and everywhere is not None:
            found = everywhere.own(status) if own else everywhere.servers(status)
        return found

    return page
