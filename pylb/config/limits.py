"""The section ``[limits]``."""

from __future__ import annotations

from pydantic import Field

from pylb.config.section import Section
from pylb.config.values import SecondsOrZero, Size, SizeOrZero


class Limits(Section):
    """What a client or server may not exceed."""

    header_bytes: Size = Field(
        default=16 * 1024, description="A whole head: 431 above for a request, 502 for a response."
    )
    line_bytes: Size = Field(default=8 * 1024, description="A request line: 414 above.")
    header_count: int = Field(
        default=100, gt=0, le=100_000, description="Fields of a request's head: 431 above."
    )
    body_bytes: SizeOrZero = Field(default=0, description="A request's body: 413 above; 0 is no limit.")
    pipelined_bytes: Size = Field(
        default=64 * 1024,
        description="Further requests that are read while one is under way; then reading stops.",
    )
    body_rate: SizeOrZero = Field(
        default=0,
        description="Bytes per second below which a request's body is cut off after 5 s (408); 0 is any.",
    )
    connections: int = Field(
        default=0,
        ge=0,
        le=1 << 40,
        description="Client connections over all workers: 503 above; 0 is no limit.",
    )
    connection_age: SecondsOrZero = Field(
        default=0.0,
        description="Age (±10 %) from which the next response asks a client to connect anew; 0 is never.",
    )
