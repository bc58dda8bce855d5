"""The sections ``[frontend.tls]`` and ``[backend.tls]``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pylb.config.declaration import Default
from pylb.config.section import Section
from pylb.config.values import FilePath, HostName, SecondsOrZero


class Tls(Section):
    """TLS to clients."""

    certificates: FilePath = Field(
        description="A .pem with certificate and key, or a folder of .pem or .crt + .key files; see below."
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


class ServerTls(Section):
    """TLS to the servers."""

    verify: bool = Field(default=True, description="Whether a server's certificate is verified.")
    ca: Annotated[FilePath | None, Default("the system's")] = Field(
        default=None, description="PEM file of the CAs that may issue the servers' certificates."
    )
    name: Annotated[HostName | None, Default("the server's host")] = Field(
        default=None, description="Expected in the certificate, and sent as the server's name (SNI)."
    )
    certificate: FilePath | None = Field(
        default=None, description="PEM file with the certificate that pylb shows the servers."
    )
    key: Annotated[FilePath | None, Default("in certificate")] = Field(
        default=None, description="PEM file with the certificate's key."
    )

    @model_validator(mode="after")
    def _whole(self) -> ServerTls:
        if self.key is not None and self.certificate is None:
            raise ValueError("key needs certificate")
        return self
