"""The whole configuration as a typed model, in HAProxy's words; all sections can be imported from here.

A key is declared once, as a field of its section, and each section has a module (`frontend`, `timeouts`, …).
This one has the keys outside of sections. It is above the sections and below `keys`, which reads the
declarations; whether the sections of a file fit together is checked in `links`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from pylb.config.accesslog import AccessLog, LogCondition, in_force, misfit
from pylb.config.address import loopback
from pylb.config.backend import Backend, Discover, Server, ServerTls
from pylb.config.case import Case, Expect
from pylb.config.check import Check, CheckType
from pylb.config.controller import Controller
from pylb.config.declaration import Default, Option
from pylb.config.drain import Drain
from pylb.config.edits import (
    CookieEdits,
    CookiePart,
    HeaderEdits,
    LocationRewrite,
    PathRewrite,
    QueryRewrite,
    Replace,
    ResponseEdits,
    Rewrite,
    RouteTimeouts,
    When,
)
from pylb.config.frontend import Frontend, Health, Tls
from pylb.config.limits import Limits
from pylb.config.log import Log
from pylb.config.map import Map
from pylb.config.match import Match
from pylb.config.outliers import Outliers
from pylb.config.pool import Pool
from pylb.config.queue import QueueConfig
from pylb.config.replies import ErrorPage, Redirect, Reply
from pylb.config.retry import BreakerConfig, Retry
from pylb.config.rule import Rule
from pylb.config.section import Section
from pylb.config.sticky import Sticky
from pylb.config.tcp import Tcp
from pylb.config.timeouts import Timeouts
from pylb.config.values import ONE_OR_MORE, BindAddress, FilePath
from pylb.config.workers import Workers, workers_range

__all__ = [
    "AccessLog",
    "Backend",
    "BreakerConfig",
    "Case",
    "Check",
    "CheckType",
    "Config",
    "Controller",
    "CookieEdits",
    "CookiePart",
    "Discover",
    "Drain",
    "ErrorPage",
    "Expect",
    "Frontend",
    "HeaderEdits",
    "Health",
    "Limits",
    "LocationRewrite",
    "Log",
    "LogCondition",
    "Map",
    "Match",
    "Outliers",
    "PathRewrite",
    "Pool",
    "QueryRewrite",
    "QueueConfig",
    "Redirect",
    "Replace",
    "Reply",
    "ResponseEdits",
    "Retry",
    "Rewrite",
    "RouteTimeouts",
    "Rule",
    "Section",
    "Server",
    "ServerKey",
    "ServerTls",
    "Sticky",
    "Tcp",
    "Timeouts",
    "Tls",
    "When",
    "Workers",
    "server_keys",
]


class Config(Section):
    """The keys outside of sections, and the sections."""

    include: Annotated[tuple[FilePath, ...], ONE_OR_MORE] = Field(
        default=(),
        description="Further files: patterns (`conf.d/*.toml`) from this file's folder; see below.",
    )
    frontends: Annotated[tuple[Frontend, ...], ONE_OR_MORE] = Field(
        min_length=1, validation_alias="frontend", description="Where clients connect."
    )
    backends: Annotated[tuple[Backend, ...], ONE_OR_MORE] = Field(
        min_length=1, validation_alias="backend", description="Who answers requests."
    )
    maps: Annotated[tuple[Map, ...], ONE_OR_MORE] = Field(
        default=(), validation_alias="map", description="Files of values that rules look up."
    )
    tests: Annotated[tuple[Case, ...], ONE_OR_MORE] = Field(
        default=(), validation_alias="test", description="Requests, and what is to become of them."
    )
    unsafe_regex: bool = Field(
        default=False,
        description="Without google-re2, run rules' regular expressions in Python's engine; see below.",
    )
    workers: Annotated[Workers, Option("--workers", "MIN..MAX|N", workers_range), Default("1..cores")] = (
        Field(default_factory=Workers, description="How many workers may run.")
    )
    timeouts: Timeouts = Field(default_factory=Timeouts, description="How long pylb waits.")
    limits: Limits = Field(default_factory=Limits, description="What a client or server may not exceed.")
    tcp: Tcp = Field(default_factory=Tcp, description="What the kernel does about peers that are gone.")
    drain: Drain = Field(default_factory=Drain, description="How workers leave.")
    controller: Controller = Field(default_factory=Controller, description="Who knows idle cores.")
    log: Log = Field(default_factory=Log, description="What is written to standard error.")
    admin: Annotated[
        BindAddress | None,
        Option("--admin"),
        Default("a unix socket in /run/pylb (root), $XDG_RUNTIME_DIR/pylb or /tmp/pylb-UID"),
    ] = Field(default=None, description="Address for status, scaling and metrics.")
    admin_token_file: FilePath | None = Field(
        default=None, description="File with the token that an admin address on TCP asks for; see below."
    )
    admin_read_token_file: FilePath | None = Field(
        default=None,
        description="File with a second token for the admin address on TCP, with which one may only read.",
    )
    state_file: FilePath | None = Field(
        default=None,
        description="File in which changes of servers are kept that are made while pylb runs; see below.",
    )
    user: Annotated[str | None, Default("who started pylb")] = Field(
        default=None, description="Whom workers and control plane run as when root starts pylb; see below."
    )
    group: Annotated[str | None, Default("the user's")] = Field(
        default=None, description="The group that these run with."
    )
    backlog: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Connections that may wait to be accepted, per listening socket.",
    )

    @model_validator(mode="after")
    def _admin_guarded(self) -> Config:
        if self.admin is not None and not loopback(self.admin) and self.admin_token_file is None:
            raise ValueError(
                f"admin: {self.admin} can be reached from elsewhere, so admin_token_file must be set; "
                "or use a unix socket or 127.0.0.1"
            )
        return self

    @model_validator(mode="after")
    def _access_logs_fit(self) -> Config:
        for number, frontend in enumerate(self.frontends):
            log = in_force(self.log.access, frontend.access_log)
            wrong = misfit(log, frontend.mode) if log is not None else ""
            if wrong:
                raise ValueError(f"frontend[{number}].access_log: {wrong}")
        return self


ServerKey = tuple[str, str, str]
"""Backend, server, address: what a server's figures in the scoreboard belong to."""


def server_keys(config: Config) -> list[ServerKey]:
    """The keys of all servers."""
    return [
        (backend.name, server.name, str(server.address))
        for backend in config.backends
        for server in backend.servers
    ]
