"""The sections of what pylb answers itself: ``redirect`` and ``answer`` of a rule, and ``error_page``.

Below `actions` and `frontend`, which name them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pylb.config.declaration import Default, Kind
from pylb.config.edits import Statuses, Template
from pylb.config.section import Section
from pylb.config.values import FilePath


class Redirect(Section):
    """Another place for the client to go to; may be written as ``to`` alone."""

    short: ClassVar[str] = "to"

    to: Template = Field(description='The URL, or "https": the same one by https.')
    status: Annotated[Literal[301, 302, 303, 307, 308] | None, Default('302; 308 to "https"')] = Field(
        default=None, description="How: 301 and 308 are for ever, 307 and 308 keep the method."
    )
    keep_path: bool = Field(default=False, description="Whether the request's path follows.")
    keep_query: bool = Field(default=False, description="Whether the request's query follows.")

    @model_validator(mode="after")
    def _https_keeps_all(self) -> Redirect:
        if self.to == "https" and (self.keep_path or self.keep_query):
            raise ValueError('to = "https" keeps path and query; leave keep_path and keep_query out')
        return self


class Body(Section):
    """A body, in the configuration or in a file that is read at start and reload."""

    body: str | None = Field(default=None, description="What is sent, as it stands here.")
    file: FilePath | None = Field(default=None, description="What is sent, as it stands in this file.")
    content_type: Annotated[str | None, Default("by the file's name; text/plain")] = Field(
        default=None, pattern=r"^[!-~][ -~]*$", description="What that is."
    )

    @model_validator(mode="after")
    def _one_body(self) -> Body:
        if self.body is not None and self.file is not None:
            raise ValueError("body and file both say what is sent; leave one out")
        return self


class Reply(Body):
    """A whole response."""

    status: int = Field(default=200, ge=200, le=599, description="Its status.")
    headers: Annotated[dict[str, Template], Kind("table of name = text")] = Field(
        default_factory=dict, description="Its fields."
    )


class ErrorPage(Body):
    """What is sent with some statuses in place of pylb's own words."""

    status: Statuses = Field(min_length=1, description="With which.")
    servers: bool = Field(default=False, description="Whether servers' responses are replaced, too.")

    @model_validator(mode="after")
    def _errors(self) -> ErrorPage:
        if min(self.status) < 400:
            raise ValueError("a page is for errors, 400 to 599; use answer in a rule for others")
        if self.body is None and self.file is None:
            raise ValueError("set file or body")
        return self
