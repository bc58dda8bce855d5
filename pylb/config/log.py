"""The section ``[log]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pylb.config.accesslog import AccessLog
from pylb.config.declaration import Option
from pylb.config.section import Section


class Log(Section):
    """What is written to standard error."""

    format: Annotated[Literal["console", "json"], Option("--log-format")] = Field(
        default="console", description="How the log is written: for people, or an object per line."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important messages that are written."
    )
    access: AccessLog | None = Field(default=None, description="The access log of all frontends; see below.")
