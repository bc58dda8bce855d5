"""What a rule does: keys of ``[[frontend.rule]]`` beside ``match``.

A key of `ENDINGS` ends the evaluation; what only edits lets the next rule have its turn.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from pylb.config.declaration import Kind
from pylb.config.section import Section

_SPLIT_BY = re.compile(r"source|header:[!#$%&'*+\-.^_`|~0-9A-Za-z]+|cookie:[!-:<-~]+")


def _split_by(value: str) -> str:
    if _SPLIT_BY.fullmatch(value) is None:
        raise ValueError('expected "source", "header:NAME" or "cookie:NAME"')
    return value


def _weights(value: dict[str, int]) -> dict[str, int]:
    if any(weight < 0 or weight > 1_000_000 for weight in value.values()):
        raise ValueError("a weight is a number from 0 to 1000000")
    if value and not sum(value.values()):
        raise ValueError("at least one weight must be above 0")
    return value


class Actions(Section):
    """What is done with a request that matches."""

    ENDINGS: ClassVar[tuple[str, ...]] = ("backend", "split")
    """Keys of which a rule has at most one, and which make it the last one of a request."""

    backend: str | None = Field(
        default=None, description="The backend; with variables, among those that there are."
    )
    split: Annotated[dict[str, int], AfterValidator(_weights), Kind("table of backend = weight")] = Field(
        default_factory=dict, min_length=1, description="Backends, and their shares of the requests."
    )
    split_by: Annotated[
        str | None, AfterValidator(_split_by), Kind('`"source"`, `"header:NAME"` or `"cookie:NAME"`')
    ] = Field(default=None, description="What keeps to one backend of split: requests that are alike in it.")

    @model_validator(mode="after")
    def _one_ending(self) -> Actions:
        endings = [key for key in self.ENDINGS if key in self.model_fields_set]
        if len(endings) > 1:
            raise ValueError(f"{endings[0]} and {endings[1]} both say where a request ends; leave one out")
        if self.split_by is not None and not self.split:
            raise ValueError("split_by needs split")
        return self

    @property
    def ends(self) -> bool:
        """Whether no further rule is looked at."""
        return any(key in self.model_fields_set for key in self.ENDINGS)
