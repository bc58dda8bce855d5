"""The section ``[backend.queue]``: what becomes of requests for which no server has a free place."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from pylb.config.declaration import Default, Kind
from pylb.config.section import Section
from pylb.config.values import Seconds

_KEY = re.compile(r"source|(?:header|cookie|query):[!-~]+", re.ASCII)


def _key(value: str) -> str:
    if _KEY.fullmatch(value) is None:
        raise ValueError('expected "source", "header:NAME", "cookie:NAME" or "query:NAME"')
    return value


class QueueConfig(Section):
    """How requests wait for a place at a server (``maxconn``)."""

    size: int = Field(
        default=1000,
        ge=0,
        le=1_000_000,
        description="How many may wait, over all workers: 503 at once above; 0 lets none wait.",
    )
    timeout: Annotated[Seconds | None, Default("timeouts.connect")] = Field(
        default=None, description="How long one waits, then 503."
    )
    fair: Annotated[
        str | None,
        AfterValidator(_key),
        Kind('`"source"`, `"header:NAME"`, `"cookie:NAME"` or `"query:NAME"`'),
        Default("first come, first served"),
    ] = Field(default=None, description="Requests that are alike in it take turns with the others.")
