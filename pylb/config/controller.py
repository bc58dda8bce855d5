"""The section ``[controller]``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from pylb.config.declaration import Default, Option
from pylb.config.section import Section
from pylb.config.values import ControllerAddress, FilePath


class Controller(Section):
    """Who says which cores are idle, and how pylb makes itself known there."""

    address: Annotated[ControllerAddress | None, Option("--controller"), Default("embedded")] = Field(
        default=None,
        description="Who knows idle cores: unix:PATH, tcp:HOST:PORT, vsock:CID:PORT or serial:PATH.",
    )
    name: str = Field(
        default="pylb",
        min_length=1,
        max_length=128,
        description="The balancer's name; some sources of the controller find its machine by it.",
    )
    weight: float = Field(
        default=1.0, gt=0, le=1000, description="Share of contended cores, beside other balancers' weights."
    )
    token_file: FilePath | None = Field(
        default=None, description="File with the token that the controller asks for."
    )
    tls_ca: FilePath | None = Field(
        default=None,
        description="PEM file of the CAs that may vouch for the controller; with it TLS is spoken.",
    )
    tls_cert: FilePath | None = Field(
        default=None, description="PEM file with the certificate that pylb shows the controller."
    )
    tls_key: FilePath | None = Field(default=None, description="PEM file with the key of tls_cert.")

    @model_validator(mode="after")
    def _whole(self) -> Controller:
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_cert and not self.tls_ca):
            raise ValueError("tls_cert and tls_key belong together, and need tls_ca")
        return self
