"""The sections in a rule that say what is changed of a request and of its response.

Below `actions`, which names them. What they hold is judged here as far as it can be without the maps and
files of the configuration; `changes` makes of them what `pylb.rules` runs.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from pylb.config.declaration import Kind
from pylb.config.match import Expression, Headers
from pylb.config.section import Section
from pylb.config.values import ONE_OR_MORE, Seconds, one_or_more

Template = Annotated[str, Kind("text with variables", "texts with variables")]


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: one_or_more(text) for name, text in value.items()}
    return value


def _status(value: Any) -> Any:
    """``404``, ``"5xx"``, or a list of these, as numbers."""
    found: list[int] = []
    for one in one_or_more(value):
        if isinstance(one, int) and not isinstance(one, bool) and 200 <= one <= 599:
            found.append(one)
        elif isinstance(one, str) and one in ("2xx", "3xx", "4xx", "5xx"):
            found += range(int(one[0]) * 100, int(one[0]) * 100 + 100)
        else:
            raise ValueError('expected a status from 200 to 599, one such as "5xx", or a list of these')
    return tuple(found)


Statuses = Annotated[tuple[int, ...], BeforeValidator(_status), Kind('status, `"5xx"`, or a list')]


class Replace(Section):
    """A regular expression, and what its first match becomes."""

    regex: Expression = Field(description="Found in the value.")
    to: Template = Field(description="What the match becomes; {re.1} and {re.NAME} are its groups.")


class HeaderEdits(Section):
    """Edits of header fields, in the order of these keys from remove to add."""

    remove: Annotated[tuple[str, ...], ONE_OR_MORE, Kind("name, or a list")] = Field(
        default=(), description="Fields that are cut; X-A-* is all that begin so."
    )
    replace: Annotated[dict[str, Replace], Kind("table of name = { regex, to }")] = Field(
        default_factory=dict, description="Fields in whose values the first match becomes something else."
    )
    set: Annotated[dict[str, Template], Kind("table of name = text")] = Field(
        default_factory=dict, description="Fields in place of those of their name; an empty value: none."
    )
    add: Annotated[
        dict[str, tuple[Template, ...]], BeforeValidator(_lists), Kind("table of name = text, or list")
    ] = Field(default_factory=dict, description="Fields beside those of their name.")


class When(Section):
    """Which responses; all keys must hold."""

    status: Statuses = Field(default=(), description="The status is one of these.")
    header: Headers = Field(default_factory=dict, description="Fields of the response.")


class ResponseEdits(HeaderEdits):
    """Edits of some responses."""

    when: When = Field(default_factory=When, description="Which responses.")


class PathRewrite(Section):
    """Another path; may be written as ``to`` alone."""

    short: ClassVar[str] = "to"

    prefix: str | None = Field(
        default=None, pattern="^/", description="The beginning that is replaced, at a segment's end."
    )
    regex: Expression | None = Field(default=None, description="What is replaced, in the normalised path.")
    to: Template = Field(description="What comes there; without prefix and regex, the whole path.")

    @model_validator(mode="after")
    def _one_way(self) -> PathRewrite:
        if self.prefix is not None and self.regex is not None:
            raise ValueError("prefix and regex both say what is replaced; leave one out")
        if "?" in self.to:
            raise ValueError("a path has no question mark; use rewrite.query")
        if self.prefix is None and self.regex is None and not self.to.startswith(("/", "{")):
            raise ValueError("a path begins with /")
        return self


class QueryRewrite(Section):
    """Another query; may be written as ``to`` alone."""

    short: ClassVar[str] = "to"

    to: Template | None = Field(default=None, description="The whole query; empty for none.")
    set: Annotated[dict[str, Template], Kind("table of name = text")] = Field(
        default_factory=dict, description="Parameters in place of those of their name."
    )
    remove: Annotated[tuple[str, ...], ONE_OR_MORE, Kind("name, or a list")] = Field(
        default=(), description="Parameters that are cut."
    )


class Rewrite(Section):
    """What the server is asked for in place of what the client wrote."""

    path: PathRewrite | None = Field(default=None, description="The path.")
    query: QueryRewrite | None = Field(default=None, description="The query.")
    host: Template | None = Field(default=None, description="What the server gets as Host.")


class LocationRewrite(Section):
    """Another ``Location``."""

    from_: Template | None = Field(
        default=None, validation_alias="from", description="The beginning that is replaced."
    )
    regex: Expression | None = Field(default=None, description="What is replaced.")
    to: Template = Field(description="What comes there.")

    @model_validator(mode="after")
    def _one_way(self) -> LocationRewrite:
        if (self.from_ is None) is (self.regex is None):
            raise ValueError("either from or regex says what is replaced")
        return self


class CookiePart(Section):
    """Another path or domain of a cookie; may be written as ``to`` alone."""

    short: ClassVar[str] = "to"

    from_: str | None = Field(
        default=None,
        validation_alias="from",
        description="The path's beginning, or the domain, that is replaced; without it, any.",
    )
    to: Template = Field(description="What comes there; of a domain, nothing removes it.")


class CookieEdits(Section):
    """Edits of servers' cookies."""

    cookie: Annotated[tuple[str, ...], ONE_OR_MORE, Kind("name, or a list")] = Field(
        default=(), description="Which cookies; without it, all."
    )
    path: CookiePart | None = Field(default=None, description="Their path.")
    domain: CookiePart | None = Field(default=None, description="Their domain, where they have one.")
    secure: bool | None = Field(default=None, description="Whether they have Secure.")
    http_only: bool | None = Field(default=None, description="Whether they have HttpOnly.")
    same_site: Literal["Strict", "Lax", "None", ""] | None = Field(
        default=None, description="Their SameSite; empty removes it."
    )


class RouteTimeouts(Section):
    """How long pylb waits, where it isn't as ``[timeouts]`` says."""

    connect: Seconds | None = Field(default=None, description="For a server to accept a connection.")
    client: Seconds | None = Field(
        default=None, description="Inactivity while a request's body comes or a response is not taken."
    )
    server: Seconds | None = Field(
        default=None, description="For a server to answer, or to go on answering (504)."
    )
    tunnel: Seconds | None = Field(default=None, description="Inactivity of an upgraded connection.")
