"""The section ``[[frontend]]`` and those in it: ``[frontend.health]``, ``[frontend.tls]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pylb.config.accesslog import AccessLog
from pylb.config.address import is_host_name
from pylb.config.declaration import Default, Kind, Option
from pylb.config.replies import ErrorPage
from pylb.config.rule import Rule
from pylb.config.section import Section
from pylb.config.values import BINDS, ONE_OR_MORE, BindAddress, FilePath, Network, SecondsOrZero, SizeOrZero

ClientField = Literal[
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Ssl",
    "X-Forwarded-Prefix",
    "X-Real-IP",
]
Treatment = Literal["pass", "add", "replace", "remove"]


def _once_boolean(value: object) -> object:
    return ("add" if value else "pass") if isinstance(value, bool) else value


class Health(Section):
    """A path that pylb answers itself, for whoever asks whether this balancer serves."""

    path: Annotated[str, Kind("path of a URL")] = Field(
        pattern=r"^/[!-~]*$",
        description="Answered with 200, or with 503 at a stop (drain.announce), whatever method and query.",
    )


class Tls(Section):
    """TLS to clients."""

    certificates: Annotated[tuple[FilePath, ...], ONE_OR_MORE, Kind("path, or a list")] = Field(
        min_length=1,
        description="A .pem with certificate and key, or a folder of .pem or .crt + .key files; see below.",
    )
    min_version: Literal["1.2", "1.3"] = Field(default="1.2", description="The oldest version of TLS.")
    ciphers: Annotated[str | None, Default("forward secrecy with AEAD")] = Field(
        default=None, description="For TLS 1.2, in OpenSSL's notation."
    )
    alpn: tuple[Literal["h2", "http/1.1"], ...] = Field(
        default=("h2", "http/1.1"), description="What clients may agree on, the preferred one first."
    )
    client_certificate: Literal["none", "optional", "required"] = Field(
        default="none", description="Whether clients are asked for a certificate."
    )
    client_ca: FilePath | None = Field(
        default=None, description="PEM file of the CAs that may issue client certificates."
    )
    hsts: SecondsOrZero = Field(default=0.0, description="Age in Strict-Transport-Security; 0 sends none.")

    @model_validator(mode="after")
    def _has_ca(self) -> Tls:
        if self.client_certificate != "none" and self.client_ca is None:
            raise ValueError(f"client_certificate is {self.client_certificate!r}, so client_ca must be set")
        return self


class Frontend(Section):
    """Where clients connect, and the backend that answers them."""

    name: str = Field(description="What the frontend is called.")
    bind: Annotated[tuple[BindAddress, ...], BINDS, ONE_OR_MORE, Option("--bind")] = Field(
        min_length=1,
        description="Where clients connect: HOST:PORT, HOST:FIRST-LAST, [IPV6]:PORT or unix:PATH.",
    )
    backend: str = Field(
        description="The name of the backend that answers; with sni, for names that are not listed there."
    )
    mode: Literal["http", "tcp"] = Field(
        default="http", description="Whether requests are read, or bytes relayed as they are."
    )
    tls: Tls | None = Field(default=None, description="TLS to clients.")
    redirect_to_https: bool = Field(default=False, description="Answer every request with a 308 to https.")
    trusted_proxies: tuple[Network, ...] = Field(
        default=(), description="Whose forwarding fields and PROXY headers are believed."
    )
    accept_proxy: bool = Field(
        default=False,
        description="Trusted proxies begin each connection with a PROXY header, version 1 or 2.",
    )
    forwarded: bool = Field(default=False, description="Send Forwarded (RFC 7239) beside X-Forwarded-*.")
    client_fields: tuple[ClientField, ...] = Field(
        default=("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"),
        description="What servers are told of each client, in which fields.",
    )
    via: bool = Field(default=False, description="Send Via to servers.")
    request_id: Annotated[Treatment, BeforeValidator(_once_boolean)] = Field(
        default="pass", description="What is done about clients' X-Request-ID; true is add."
    )
    traceparent: Treatment = Field(
        default="pass", description="What is done about clients' traceparent and tracestate."
    )
    body_bytes: Annotated[SizeOrZero | None, Default("limits.body_bytes")] = Field(
        default=None, description="A request's body: 413 above; 0 is no limit."
    )
    error_pages: Annotated[tuple[ErrorPage, ...], ONE_OR_MORE] = Field(
        default=(), validation_alias="error_page", description="What errors look like."
    )
    health: Health | None = Field(default=None, description="A path that pylb answers itself.")
    access_log: Annotated[AccessLog | None, Default("log.access")] = Field(
        default=None, description="The keys in which its access log differs from log.access; `false`: none."
    )
    rules: Annotated[tuple[Rule, ...], ONE_OR_MORE] = Field(
        default=(), validation_alias="rule", description="What is done with which requests, in this order."
    )
    ambiguous_paths: Literal["refuse", "pass"] = Field(
        default="refuse",
        description="Paths that servers read in different ways, where a rule looks at paths; see below.",
    )
    sni: Annotated[dict[str, str], Kind("table of name = backend")] = Field(
        default_factory=dict,
        description="In TCP mode: TLS passes through, to a backend by the name (or *.name) asked for.",
    )

    @field_validator("sni")
    @classmethod
    def _server_names(cls, value: dict[str, str]) -> dict[str, str]:
        lower: dict[str, str] = {}
        for name, backend in value.items():
            plain = name.removeprefix("*.")
            if not (plain.isascii() and is_host_name(plain)):
                raise ValueError(
                    f"{name!r} is no name that a client asks for (one with umlauts begins with xn--)"
                )
            if name.lower() in lower:
                raise ValueError(f"{name!r} is listed twice")
            lower[name.lower()] = backend  # names have no case (RFC 6066 §3)
        return lower

    @model_validator(mode="after")
    def _fits_mode(self) -> Frontend:
        if self.mode == "http" and self.sni:
            raise ValueError('sni is for mode = "tcp"')
        if self.mode == "tcp" and self.error_pages:
            raise ValueError('error_page needs mode = "http"')
        if self.mode == "tcp" and (
            self.redirect_to_https or self.forwarded or self.health is not None or self.request_id != "pass"
        ):
            raise ValueError('redirect_to_https, forwarded, request_id and health need mode = "http"')
        if self.tls is not None and self.redirect_to_https:
            raise ValueError("redirect_to_https is for a frontend without tls")
        if self.tls is not None and self.sni:
            raise ValueError("sni passes TLS through; with tls it is ended here")
        if self.accept_proxy and not self.trusted_proxies:
            raise ValueError("accept_proxy needs trusted_proxies")
        return self
