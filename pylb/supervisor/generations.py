"""What a generation of processes runs with, and what of a configuration the supervisor itself opens.

Data alone: every part of the supervisor knows it, and it knows none of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pylb.config.address import Address
from pylb.config.logtarget import Destination, Target
from pylb.config.model import Config
from pylb.config.runtime import default_admin_path
from pylb.net.listeners import Listeners
from pylb.supervisor.secrets import Secrets


@dataclass(frozen=True)
class Generation:
    """The workers that were started between two reloads, and the control plane beside them."""

    number: int
    """From 1 on; one that was given up has had its number all the same."""
    config: Config
    secrets: Secrets
    listeners: Listeners
    access_logs: dict[Target, int | Destination] = field(default_factory=dict)
    """What its workers write to; the descriptors stay the supervisor's."""


def binds_of(config: Config) -> list[tuple[str, Address]]:
    """(frontend name, address) of every bind."""
    return [(frontend.name, address) for frontend in config.frontends for address in frontend.bind]


def lacking(config: Config, others: Iterable[Config]) -> tuple[list[str], list[str]]:
    """Of a configuration, the keys of binds whose frontend has another name in one of the others, and the
    names of backends that one of them lacks."""
    renamed: set[str] = set()
    gone: set[str] = set()
    for other in others:
        names = {str(address): name for name, address in binds_of(other)}
        renamed |= {str(at) for name, at in binds_of(config) if names.get(str(at), name) != name}
        gone |= {one.name for one in config.backends} - {one.name for one in other.backends}
    return sorted(renamed), sorted(gone)


def admin_address_of(config: Config) -> Address:
    """Where the admin socket is to be."""
    if config.admin is not None:
        return config.admin
    return Address("", 0, default_admin_path())
