"""The section ``[workers]``, and how it is written on the command line."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from controller.sources.quota import possible_cores
from pylb.config.declaration import Default
from pylb.config.section import Section
from pylb.config.values import Seconds
from pylb.excerpt import shown


class Workers(Section):
    """How many worker processes may run, and when one counts as hung."""

    min: int = Field(default=1, ge=1, le=256, description="So many run whatever the controller says.")
    max: Annotated[int, Default("the cores in the affinity mask, and those that may yet come online")] = (
        Field(
            default_factory=possible_cores,
            ge=1,
            le=256,
            description="More never run, however many cores are idle.",
        )
    )
    watchdog: Seconds = Field(
        default=10.0, description="Time without a sign of life after which a process is killed and replaced."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is greater than max ({self.max})")
        return self


def workers_range(text: str) -> dict[str, int]:
    """``"2"`` or ``"1..4"`` as the section's keys; raises ValueError for anything else."""
    match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", text, re.ASCII)
    if match is None:
        raise ValueError(f"expected N or MIN..MAX, as in 1..4 (got {shown(text)})")
    return {"min": int(match[1]), "max": int(match[2] or match[1])}
