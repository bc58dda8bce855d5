"""The section ``[frontend.rule.match]``: what a request must be like for a rule.

A matcher is a field here, a function in `pylb.rules.match`, and a line in `pylb.config.routing`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pylb.config.address import is_host_name
from pylb.config.declaration import Kind
from pylb.config.section import Section
from pylb.config.values import ONE_OR_MORE, Network, one_or_more
from pylb.rules import normal
from pylb.rules.text import Text

_TESTS = ("prefix", "suffix", "contains", "regex")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


def host_pattern(value: str) -> str:
    """A host or ``*.`` and a host, in lower case; raises ValueError with a sentence."""
    wildcard = "*." if value.startswith("*.") else ""
    plain = value[len(wildcard) :].lower().rstrip(".")
    address = re.fullmatch(r"\[[0-9a-f:.]+\]", plain) is not None and not wildcard
    if not address and not (plain.isascii() and is_host_name(plain)):
        raise ValueError(
            "expected a host, or *. and a host, without a port (one with umlauts begins with xn--)"
        )
    return wildcard + plain


def path_value(value: str) -> str:
    """A path as rules compare it, percent-decoded; raises ValueError with a sentence."""
    if not value.startswith("/"):
        raise ValueError("a path begins with /")
    try:
        return normal.path(value.encode()).decode("utf-8", "surrogateescape")
    except normal.Ambiguous:
        raise ValueError("servers read this path in different ways, so no request has it") from None


def _glob(value: str) -> str:
    if any("**" in segment and segment != "**" for segment in value.split("/")):
        raise ValueError("** stands for whole segments, as in /a/**/b; * for a part of one")
    return value


def _method(value: str) -> str:
    if _TOKEN.fullmatch(value) is None:
        raise ValueError("expected a method, such as GET")
    if value.upper() in _METHODS and value not in _METHODS:
        raise ValueError(f"methods have case; write {value.upper()}")
    return value


def _text(value: Any) -> Any:
    """``true``, a value, a list of values, or a table of tests."""
    if isinstance(value, Text):
        return value
    if value is True:
        return Text(present=True)
    if isinstance(value, str) or (isinstance(value, list) and value and all(map(_is_text, value))):
        return Text(equal=tuple(one_or_more(value)))
    if isinstance(value, dict) and value and value.keys() <= set(_TESTS):
        found: dict[str, Any] = {name: tuple(one_or_more(some)) for name, some in value.items()}
        if all(some and all(map(_is_text, some)) for some in found.values()):
            return Text(**found)
    raise ValueError(
        f"expected true, a text, a list of texts, or a table with one of {', '.join(_TESTS)}"
        " (to match what isn't there, use not)"
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _maps(value: Any) -> Any:
    return {value: True} if isinstance(value, str) else value


def _header_names(value: dict[str, Text]) -> dict[str, Text]:
    for name in value:
        if _TOKEN.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name of a header field")
    return value


TextTest = Annotated[Text, BeforeValidator(_text)]
_KIND = Kind("table of name = true, text, list or test")
Table = Annotated[dict[str, TextTest], _KIND]
Headers = Annotated[dict[str, TextTest], AfterValidator(_header_names), _KIND]
HostPattern = Annotated[str, AfterValidator(host_pattern), Kind("host or *.host", "hosts")]
PathValue = Annotated[str, AfterValidator(path_value), Kind("path", "paths")]
Glob = Annotated[str, AfterValidator(_glob), Kind("pattern", "patterns")]
Expression = Annotated[str, Field(max_length=4096), Kind("regular expression", "regular expressions")]
Method = Annotated[str, AfterValidator(_method), Kind("method", "methods")]
Port = Annotated[int, Field(ge=1, le=65535)]


class Match(Section):
    """What a request must be like. All keys must hold; of a list, one of its values."""

    host: Annotated[tuple[HostPattern, ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="The host without port; *.name is every one below name."
    )
    path: Annotated[tuple[PathValue, ...], ONE_OR_MORE] = Field(
        default=(),
        min_length=1,
        description="The path or one above it: /a is for /a and /a/b, not for /ab; /a/ for /a/b alone.",
    )
    path_exact: Annotated[tuple[PathValue, ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="The whole path."
    )
    path_glob: Annotated[tuple[Glob, ...], ONE_OR_MORE] = Field(
        default=(),
        min_length=1,
        description="A * is any part of a segment, ** any segments; without a slash it is for the last one.",
    )
    path_regex: Annotated[tuple[Expression, ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="Found in the path; groups become {re.NAME} and {re.1}."
    )
    starts_with: Annotated[tuple[PathValue, ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="What the path begins with: /a is for /ab, too."
    )
    method: Annotated[tuple[Method, ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="The method, in upper case."
    )
    header: Headers = Field(
        default_factory=dict, min_length=1, description="Fields; of several, one is enough."
    )
    query: Table = Field(
        default_factory=dict, min_length=1, description="Parameters of the query, decoded; likewise."
    )
    cookie: Table = Field(default_factory=dict, min_length=1, description="Cookies; likewise.")
    source: Annotated[tuple[Network, ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="Networks with the client's address ({client.ip})."
    )
    port: Annotated[tuple[Port, ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="The port of the bind that it came by."
    )
    protocol: Annotated[tuple[Literal["http/1.0", "http/1.1", "h2"], ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="What the client speaks."
    )
    tls: bool | None = Field(default=None, description="Whether TLS ended here.")
    tls_version: Annotated[tuple[Literal["1.2", "1.3"], ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="The version of the client's TLS."
    )
    sni: Annotated[tuple[HostPattern, ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="The name that the client's TLS asked for, as host."
    )
    alpn: Annotated[tuple[str, ...], ONE_OR_MORE] = Field(
        default=(),
        min_length=1,
        description='What the client\'s TLS has agreed on; in mode "tcp", one of those that it offers.',
    )
    client_subject: Annotated[TextTest | None, Kind("text, list or test")] = Field(
        default=None, description="The subject of the client's verified certificate, CN=x,O=y."
    )
    map: Annotated[dict[str, TextTest], BeforeValidator(_maps), Kind("name, or table of name = test")] = (
        Field(default_factory=dict, min_length=1, description="Maps that have the request's key.")
    )
    all: Annotated[tuple[Match, ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="Matches that must all hold."
    )
    any: Annotated[tuple[Match, ...], ONE_OR_MORE] = Field(
        default=(), min_length=1, description="Matches of which one must hold."
    )
    not_: Match | None = Field(
        default=None, validation_alias="not", description="A match that must not hold."
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Match:
        for inner in (*self.all, *self.any, *([self.not_] if self.not_ is not None else [])):
            if not inner.model_fields_set:
                raise ValueError("all, any and not hold matches with at least one key")
        return self
