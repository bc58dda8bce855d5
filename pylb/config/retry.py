"""The sections ``[backend.retry]`` and ``[backend.breaker]``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from pylb.accesslog.statuses import statuses
from pylb.config.accesslog import Statuses
from pylb.config.declaration import Default, Kind
from pylb.config.section import Section
from pylb.config.values import ONE_OR_MORE, Seconds, SecondsOrZero, SizeOrZero
from pylb.http.requestline import IDEMPOTENT
from pylb.retry.policy import ALL, ALL_STATUSES, CONDITIONS, CONNECT

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}", re.ASCII)
_WORDS = ", ".join(f'"{word}"' for word in (*CONDITIONS, ALL))


def _condition(value: Any) -> Any:
    if isinstance(value, str) and value in (*CONDITIONS, ALL):
        return value
    if isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return statuses(value)
        except ValueError:
            pass
    raise ValueError(f'expected {_WORDS}, or a status such as 503, "5xx" or "500-504"')


def _method(value: str) -> str:
    if _METHOD.fullmatch(value) is None:
        raise ValueError(f"no method is called {value!r}")
    return value


Condition = Annotated[str | range, BeforeValidator(_condition), Kind("condition or status", "conditions")]
Method = Annotated[str, AfterValidator(_method), Kind("method", "methods")]


class Retry(Section):
    """When a request is sent to a server once more, up to ``retries`` times."""

    on: Annotated[tuple[Condition, ...], ONE_OR_MORE] = Field(
        default=(CONNECT,),
        description="After which failures: `conn-failure`, `empty-response`, `junk-response`, "
        "`response-timeout`, `all-retryable-errors`, or statuses of responses.",
    )
    methods: Annotated[tuple[Method, ...], Default("GET, HEAD, OPTIONS, PUT, DELETE")] = Field(
        default=tuple(sorted(method.decode() for method in IDEMPOTENT)),
        description="What may be sent twice; others are only while no server can have seen them.",
    )
    pause: SecondsOrZero = Field(
        default=0.1,
        description="Time before servers that were all tried are tried again: fourfold each time, a quarter "
        "more at random.",
    )
    longest_pause: SecondsOrZero = Field(default=1.0, description="What it grows to.")
    per_try: Seconds | None = Field(
        default=None, description="For the head of a server's response, in each try."
    )
    timeout: Seconds | None = Field(
        default=None, description="For the head of a response, over all tries and pauses (504)."
    )
    body: SizeOrZero = Field(
        default=64 * 1024, le=1 << 30, description="What of a request's body is kept to be sent again."
    )
    budget: Annotated[float | None, Default("any number")] = Field(
        default=None,
        ge=0,
        le=16,
        allow_inf_nan=False,
        description="Retries as a share of the other tries, by worker: 0.2 is one for five.",
    )
    budget_least: float = Field(
        default=10.0,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Retries per second and worker that the budget always allows.",
    )

    @property
    def conditions(self) -> frozenset[str]:
        """The failures among ``on``."""
        words = {one for one in self.on if isinstance(one, str)}
        return frozenset(CONDITIONS) if ALL in words else frozenset(words)

    @property
    def statuses(self) -> frozenset[int]:
        """The statuses among ``on``."""
        found = {status for one in self.on if isinstance(one, range) for status in one}
        return frozenset(found) | (ALL_STATUSES if ALL in self.on else frozenset())


class BreakerConfig(Section):
    """When a backend is left alone, since most of its requests fail."""

    share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Share of requests that have failed, from which on all are answered with 503.",
    )
    least: int = Field(
        default=20, ge=1, le=1_000_000, description="Requests in a window, below which it stays closed."
    )
    window: Seconds = Field(default=10.0, description="Time in which they are counted, by each worker.")
    rest: Seconds = Field(
        default=5.0, description="How long it stays open; then one request at a time shows if it closes."
    )
    status: Annotated[tuple[Statuses, ...], ONE_OR_MORE] = Field(
        default=(), description="Responses of servers that count as failures, too."
    )
