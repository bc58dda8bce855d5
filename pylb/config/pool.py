"""The section ``pool`` of a backend."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pylb.config.section import Section
from pylb.config.values import SecondsOrZero


class Pool(Section):
    """Connections to the servers, from one request to the next; may be written as ``reuse`` alone."""

    short: ClassVar[str] = "reuse"

    reuse: Literal["safe", "aggressive", "always", "never"] = Field(
        default="safe",
        description="Whether a client's first request goes on another client's connection: where it can be "
        "sent again; where that connection has served others well, too; any; none, nor do later ones.",
    )
    idle: int = Field(
        default=1000,
        ge=0,
        le=1 << 30,
        description="Unused connections that a worker keeps per server; 0 is no limit.",
    )
    connections: int = Field(
        default=0,
        ge=0,
        le=1 << 30,
        description="Connections that a worker has to a server, used or not; 0 is no limit. Above, an unused "
        "one is closed; where there is none, another server is tried.",
    )
    age: SecondsOrZero = Field(
        default=3600.0, description="Age from which a connection serves no further request; 0 is never."
    )
    requests: int = Field(
        default=0, ge=0, le=1 << 30, description="Requests that a connection serves; 0 is any number."
    )
