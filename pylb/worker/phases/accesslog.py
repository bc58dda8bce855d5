"""The access log's phase of the account: what is logged, and how. Floor: phases."""

from __future__ import annotations

from collections.abc import Callable
from random import random

from pylb.config.accesslog import AccessLog, LogCondition, format_of
from pylb.config.model import Frontend as FrontendConfig
from pylb.worker.core import Core
from pylb.worker.logwriter import LogWriter
from pylb.worker.phases.logline import line
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction

Condition = Callable[[Transaction], bool]


def access_log(
    config: FrontendConfig, log: AccessLog, writer: LogWriter, core: Core
) -> Callable[[Transaction], None]:
    """Make a transaction's line, if it is to have one, and put it beside the others."""
    always = line(format_of(log, config.mode), config, core, writer.lines.append)
    conditions = _conditions(config, log)
    if not conditions:
        return always

    def sometimes(tx: Transaction) -> None:
        for condition in conditions:
            if not condition(tx):
                return
        always(tx)

    return sometimes


def _conditions(config: FrontendConfig, log: AccessLog) -> list[Condition]:
    """Those that must all hold."""
    conditions: list[Condition] = []
    if config.health is not None:
        conditions.append(_not_asked_for_health(config.health.path))
    if log.when:
        some = [_fits(when) for when in log.when]
        conditions.append(some[0] if len(some) == 1 else lambda tx: any(fits(tx) for fits in some))
    if log.sample < 1.0:
        share = log.sample
        conditions.append(lambda tx: random() < share)
    return conditions


def _not_asked_for_health(path: str) -> Condition:
    """As of HAProxy's ``monitor-uri``, nothing is told of the health path."""
    own = path.partition("?")[0].encode()

    def asked(tx: Transaction) -> bool:
        if tx.reason is not Reason.ANSWERED or tx.head is None:
            return True
        return tx.head.target.partition(b"?")[0] != own

    return asked


def _fits(when: LogCondition) -> Condition:
    """Whether all keys of a condition hold."""
    statuses = frozenset(status for some in when.status for status in some)
    slower = int(when.slower * 1e9) if when.slower is not None else -1
    failed = when.failed

    def fits(tx: Transaction) -> bool:
        if statuses and (tx.response is None or tx.response.status not in statuses):
            return False
        if slower >= 0 and tx.ended_ns - (tx.first_byte_ns or tx.began_ns) <= slower:
            return False
        return failed is None or failed is (tx.reason not in (None, Reason.ANSWERED))

    return fits
