"""The base of all sections of the configuration: a table of the file as a typed, frozen object.

Above `values`, below the modules with sections. A section declares its keys as fields: type, bounds, default,
description. The file, the command line (`options`) and the documentation (`document`) are made from them.
"""

from __future__ import annotations

from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator


class Section(BaseModel):
    """A table of the file. Unknown keys are mistakes, and values can't be changed later.

    A list of tables has the singular name of the file as its ``validation_alias`` (``[[server]]``).
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        validate_by_name=True,  # in code; `load` allows the file its own names only
        validate_by_alias=True,
    )

    short: ClassVar[str] = ""
    """The key whose value may be written in place of the whole table; empty where there is none."""

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: Any) -> Any:
        return {cls.short: value} if cls.short and isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # For Python, and so for pydantic, true is 1.
        if isinstance(value, bool) and _is_number(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("expected a number")
        return value


def _is_number(wanted: Any) -> bool:
    return wanted in (int, float) or any(_is_number(part) for part in get_args(wanted))
