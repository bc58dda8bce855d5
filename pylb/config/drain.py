"""The section ``[drain]``."""

from __future__ import annotations

from pydantic import Field

from pylb.config.section import Section
from pylb.config.values import Seconds, SecondsOrZero


class Drain(Section):
    """How workers leave, at a stop, at a reload, and when their number falls."""

    timeout: Seconds = Field(
        default=30.0, description="At a stop, and only then: how long what is under way may take."
    )
    spread: Seconds = Field(
        default=2.0,
        description="Time over which clients that no other worker takes over are asked to connect anew.",
    )
    announce: SecondsOrZero = Field(
        default=0.0,
        description="At a stop: for so long health paths answer 503 while requests are still taken.",
    )
    linger: SecondsOrZero = Field(
        default=0.0,
        description="How long a worker replaced by scaling or reload may serve what it has; 0 is to the end.",
    )
    generations: int = Field(
        default=10,
        ge=1,
        le=100,
        description="Replaced generations that may linger; the oldest one above is closed.",
    )
