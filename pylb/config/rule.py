"""The section ``[[frontend.rule]]``: what is done with which requests."""

from __future__ import annotations

from pydantic import Field, model_validator

from pylb.config.actions import Actions
from pylb.config.match import Match


class Rule(Actions):
    """A rule; the rules of a frontend are looked at in the order of the file."""

    match: Match = Field(default_factory=Match, description="Which requests; without it, all.")

    @model_validator(mode="after")
    def _does_something(self) -> Rule:
        if not self.model_fields_set - {"match"}:
            raise ValueError("a rule without an action; set backend, for example")
        return self
