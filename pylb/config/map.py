"""The section ``[[map]]``: a file of values that rules look requests up in."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pylb.config.declaration import Default
from pylb.config.section import Section
from pylb.config.values import FilePath

_KEYS = {"exact": "{host}", "prefix": "{path}", "domain": "{host}", "network": "{client.ip}"}


def _name(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value) is None:
        raise ValueError("expected letters, digits, - and _")
    return value


class Map(Section):
    """A file of keys and values, a pair per line; it is read again when it changes."""

    name: Annotated[str, AfterValidator(_name)] = Field(
        description="What rules call it: map = NAME as a matcher, {map.NAME} as a variable."
    )
    file: FilePath = Field(description="Lines of a key, white space, and perhaps a value; # is a comment.")
    kind: Literal["exact", "prefix", "domain", "network"] = Field(
        default="exact",
        description="Whether keys are texts, paths (with what is below), domains (likewise) or networks.",
    )
    key: Annotated[str, Default("{host}, {path} or {client.ip}, by kind")] = Field(
        default="", description="What of a request is looked up, with variables."
    )

    @property
    def template(self) -> str:
        """The key, or its default."""
        return self.key or _KEYS[self.kind]
