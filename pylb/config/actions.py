"""What a rule does: keys of ``[[frontend.rule]]`` beside ``match``.

A key of `ENDINGS` ends the evaluation; what only edits lets the next rule have its turn.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from pylb.config.declaration import Kind
from pylb.config.edits import (
    CookieEdits,
    HeaderEdits,
    LocationRewrite,
    ResponseEdits,
    Rewrite,
    RouteTimeouts,
)
from pylb.config.replies import ErrorPage, Redirect, Reply
from pylb.config.section import Section
from pylb.config.values import ONE_OR_MORE, SizeOrZero

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

    ENDINGS: ClassVar[tuple[str, ...]] = ("backend", "split", "redirect", "answer", "deny", "drop")
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

    redirect: Redirect | None = Field(default=None, description="Send the client to another place.")
    answer: Reply | None = Field(default=None, description="Answer without a server.")
    deny: int | None = Field(default=None, ge=400, le=599, description="Answer with this error.")
    drop: Literal[True] | None = Field(
        default=None, description="Close the connection (of HTTP/2: the stream) without an answer."
    )
    rewrite: Rewrite | None = Field(default=None, description="What the server is asked for.")
    request_headers: HeaderEdits | None = Field(default=None, description="What the server gets.")
    response_headers: HeaderEdits | None = Field(
        default=None, description="What the client gets with each response, pylb's own included."
    )
    responses: Annotated[tuple[ResponseEdits, ...], ONE_OR_MORE] = Field(
        default=(), validation_alias="response", description="What it gets with some responses."
    )
    location: Annotated[tuple[LocationRewrite, ...], ONE_OR_MORE] = Field(
        default=(), description="Location of servers that know another name; the first that fits."
    )
    set_cookie: Annotated[tuple[CookieEdits, ...], ONE_OR_MORE] = Field(
        default=(), description="Cookies of servers that know another name."
    )
    timeouts: RouteTimeouts | None = Field(default=None, description="How long pylb waits.")
    body_bytes: SizeOrZero | None = Field(
        default=None, description="A request's body: 413 above; 0 is no limit."
    )
    priority: int | None = Field(
        default=None,
        ge=-2047,
        le=2047,
        description="In a backend's queue: requests with a lower one go first; 0 without it.",
    )
    error_pages: Annotated[tuple[ErrorPage, ...], ONE_OR_MORE] = Field(
        default=(), validation_alias="error_page", description="What errors look like."
    )

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
