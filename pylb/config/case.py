"""The section ``[[test]]``: a request, and what is to become of it.

`pylb.explain.tested` puts it through the rules; here is only how it is written.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from pylb.config.declaration import Default, Kind
from pylb.config.section import Section

_FIELD_KIND = Kind("table of name = text, list of texts, true or false")


def _wanted(value: Any) -> Any:
    """``true`` for any value, ``false`` for none, or the values."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise ValueError("expected a text, a list of texts, true (it is there) or false (it is not)")


def _sent(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Wanted = Annotated[tuple[str, ...] | bool, BeforeValidator(_wanted)]
Sent = Annotated[tuple[str, ...], BeforeValidator(_sent)]


class Expect(Section):
    """What is to become of a test's request. All keys must hold."""

    backend: str | None = Field(
        default=None, description="The backend that it goes to; where chance decides, one of those."
    )
    server: str | None = Field(default=None, description="The server that it goes to.")
    path: str | None = Field(
        default=None, description="What the server is asked for; with the query, where a ? is in it."
    )
    request_headers: Annotated[dict[str, Wanted], _FIELD_KIND] = Field(
        default_factory=dict, description="Fields that the server gets."
    )
    status: int | None = Field(default=None, ge=100, le=599, description="The status of pylb's own answer.")
    response_headers: Annotated[dict[str, Wanted], _FIELD_KIND] = Field(
        default_factory=dict, description="Fields of that answer."
    )
    drop: bool | None = Field(default=None, description="Whether the connection is closed without an answer.")

    @model_validator(mode="after")
    def _says_something(self) -> Expect:
        if not self.model_fields_set:
            raise ValueError("say what is expected: backend, status or another key")
        return self


class Case(Section):
    """A request that `check`, start and reload put through the rules, before anything is changed."""

    url: str = Field(
        description="What is asked for: https://HOST/PATH?QUERY; in TCP mode tcp://HOST:PORT or tls://NAME."
    )
    method: str = Field(default="GET", description="The method.")
    headers: Annotated[dict[str, Sent], Kind("table of name = text or list of texts")] = Field(
        default_factory=dict, description="Fields of the request."
    )
    source: Annotated[str, Kind("IP address")] = Field(
        default="127.0.0.1", validation_alias="from", description="Who asks."
    )
    alpn: tuple[str, ...] = Field(default=(), description="The protocols that a tls:// client offers.")
    frontend: Annotated[str | None, Default("by scheme and port")] = Field(
        default=None, description="The frontend that is asked, where the URL doesn't say."
    )
    expect: Expect = Field(description="What is to become of it.")
