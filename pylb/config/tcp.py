"""The section ``[tcp]``."""

from __future__ import annotations

from pydantic import Field

from pylb.config.section import Section
from pylb.config.values import SecondsOrZero


class Tcp(Section):
    """What the kernel does about peers that are gone, of clients and of servers (``man 7 tcp``)."""

    keep_alive: SecondsOrZero = Field(
        default=60.0,
        description="Silence after which the kernel asks whether the peer is still there; 0: it doesn't ask.",
    )
    keep_alive_interval: SecondsOrZero = Field(
        default=10.0, description="Time from one such question to the next; 0 is the system's."
    )
    keep_alive_probes: int = Field(
        default=6, ge=0, le=127, description="Questions without an answer that end it; 0 is the system's."
    )
    user_timeout: SecondsOrZero = Field(
        default=0.0,
        description="How long what was sent may be neither acknowledged nor, with a peer that doesn't read, "
        "taken; 0 is the system's.",
    )
