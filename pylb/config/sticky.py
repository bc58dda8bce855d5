"""The section ``[backend.sticky]``: a cookie by which clients keep to their servers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pylb.config.declaration import Default
from pylb.config.section import Section
from pylb.config.values import FilePath, HostName, Seconds

_OF_INSERTED = (
    *("indirect", "nocache", "preserve", "path", "domain", "secure", "http_only", "same_site", "max_age"),
    *("max_idle", "max_life"),
)


class Sticky(Section):
    """A cookie by which clients keep to their servers, in the words of HAProxy's ``cookie``."""

    cookie: str = Field(
        pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", description="The name of the cookie that names the server."
    )
    mode: Literal["insert", "rewrite", "prefix", "passive"] = Field(
        default="insert",
        description="Who makes it: pylb; or servers, whose value pylb replaces, puts the server in front of, "
        "or only reads.",
    )
    values: Literal["name", "hashed", "signed"] = Field(
        default="name",
        description="The server's name (its cookie), a hash of its address, or its name with a signature "
        "without which it counts for nothing.",
    )
    secret_file: Annotated[FilePath | None, Default("random, until pylb ends")] = Field(
        default=None, description="File with the secret of hashes and signatures."
    )
    indirect: bool = Field(default=True, description="Servers don't see the cookie.")
    nocache: bool = Field(
        default=True, description="Cache-Control: private in responses in which it is inserted."
    )
    preserve: bool = Field(
        default=False, description="Where a server sets the cookie itself, its one goes to the client."
    )
    path: str = Field(default="/", pattern=r"^/[!-:<-~]*$", description="Its Path.")
    domain: HostName | None = Field(default=None, description="Its Domain; without it, the host's alone.")
    secure: bool = Field(default=False, description="Whether it has Secure: with TLS only.")
    http_only: bool = Field(default=True, description="Whether it has HttpOnly: scripts don't see it.")
    same_site: Literal["Strict", "Lax", "None"] | None = Field(default=None, description="Its SameSite.")
    max_age: Annotated[Seconds | None, Default("until the browser is closed")] = Field(
        default=None, description="Its Max-Age: how long browsers keep it."
    )
    max_idle: Annotated[Seconds | None, Default("no bound")] = Field(
        default=None, description="Time without a request after which it counts for nothing."
    )
    max_life: Annotated[Seconds | None, Default("no bound")] = Field(
        default=None, description="Time after which it counts for nothing, however it is used."
    )

    @model_validator(mode="after")
    def _fits(self) -> Sticky:
        given = self.model_fields_set
        for key in _OF_INSERTED:
            if self.mode != "insert" and key in given:
                raise ValueError(f'{key} is for mode = "insert"; this cookie is made by servers')
        if self.mode == "passive" and self.values != "name":
            raise ValueError('mode = "passive" reads what servers write, so values must be "name"')
        if self.secret_file is not None and self.values == "name":
            raise ValueError('secret_file needs values = "signed" or "hashed"')
        if self.same_site == "None" and not self.secure:
            raise ValueError('browsers refuse same_site = "None" without secure = true')
        if self.cookie.startswith(("__Secure-", "__Host-")) and self.mode == "insert" and not self.secure:
            raise ValueError(f"browsers refuse {self.cookie} without secure = true")
        if self.cookie.startswith("__Host-") and (self.domain is not None or self.path != "/"):
            raise ValueError(f"browsers refuse {self.cookie} with domain, or another path than /")
        return self
