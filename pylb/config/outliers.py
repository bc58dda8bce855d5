"""The section ``[backend.outliers]``: servers that answer badly are taken out for a while."""

from __future__ import annotations

from pydantic import Field, model_validator

from pylb.config.edits import Statuses
from pylb.config.section import Section
from pylb.config.values import Seconds


class Outliers(Section):
    """When a server is ejected by what clients get of it, and how it comes back (as Envoy does it)."""

    failures: int = Field(
        default=5, ge=0, le=1 << 30, description="In a row, over all workers; 0 looks at none."
    )
    rate: float = Field(
        default=0.0, ge=0, lt=1, description="Share of its requests in window, above which; 0 looks at none."
    )
    requests: int = Field(
        default=20, ge=1, le=1 << 30, description="Requests in window, below which rate says nothing."
    )
    window: Seconds = Field(default=10.0, description="Time that rate is of.")
    statuses: Statuses = Field(
        default=(),
        description="Responses that are failures, beside connections refused or lost, timeouts and "
        "malformed responses.",
    )
    eject: Seconds = Field(
        default=30.0, description="How long a server is out; the second time twice as long, and so on."
    )
    eject_most: Seconds = Field(default=300.0, description="The longest time.")
    share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Of the servers that may be out at a time; one may be, and never the last usable one.",
    )
    good: int = Field(
        default=3,
        ge=1,
        le=1 << 30,
        description="Good answers after which it has all of its share again; until then it has a twentieth.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Outliers:
        if not self.failures and not self.rate:
            raise ValueError("failures or rate must say when a server is ejected; both are 0")
        if self.eject_most < self.eject:
            raise ValueError(f"eject_most ({self.eject_most:g} s) is less than eject ({self.eject:g} s)")
        return self
