"""Containers whose labels say that they are a backend's servers. Above `fitness`.

The Docker Engine's API lists them (``GET /containers/json``). Whoever starts a container writes its labels:
they choose backend, port and weight of that container, and nothing else. A label that is no good leaves its
container out, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pylb.discover.document import weight
from pylb.discover.fitness import address_of
from pylb.discover.found import Answer, Found


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which containers, and how they are reached."""

    backend: str
    label: str = "pylb"
    """What labels begin with: ``pylb.backend``, ``pylb.port``, ``pylb.weight``."""
    network: str | None = None
    """The network whose addresses are used; without one, the first by name in which the container is."""
    port: int | None = None
    """Of containers that name none."""


def servers(containers: object, wanted: Wanted) -> Answer:
    """The servers among what the engine has listed."""
    found: list[Found] = []
    notes: list[str] = []
    for one in containers if isinstance(containers, list) else []:
        if not isinstance(one, dict):
            continue
        labels = _table(one.get("Labels"))
        if labels.get(f"{wanted.label}.backend") != wanted.backend or not _runs(one):
            continue
        try:
            found.append(_server(one, labels, wanted))
        except ValueError as error:
            notes.append(f"container {_name(one)} is left out: {error}")
    return Answer(tuple(found), notes=tuple(notes))


def _runs(container: Mapping[str, Any]) -> bool:
    """Whether it runs, and Docker's own health check, where it has one, has found it healthy."""
    status = str(container.get("Status", ""))
    return container.get("State") == "running" and not status.endswith(("(unhealthy)", "(health: starting)"))


def _server(container: Mapping[str, Any], labels: Mapping[str, Any], wanted: Wanted) -> Found:
    share = labels.get(f"{wanted.label}.weight")
    if share is not None:
        share = weight(_number(share, f"{wanted.label}.weight"))
    return Found(address_of(_host(container, wanted.network), _port(container, labels, wanted)), share)


def _host(container: Mapping[str, Any], network: str | None) -> str:
    networks = _table(_table(container.get("NetworkSettings")).get("Networks"))
    chosen = [network] if network is not None else sorted(networks)
    for name in chosen:
        of = _table(networks.get(name))
        for key in ("IPAddress", "GlobalIPv6Address"):
            if isinstance(host := of.get(key), str) and host:
                return host
    raise ValueError(f"it has no address in {'any network' if network is None else f'network {network!r}'}")


def _port(container: Mapping[str, Any], labels: Mapping[str, Any], wanted: Wanted) -> int:
    text = labels.get(f"{wanted.label}.port")
    if text is not None:
        return _number(text, f"{wanted.label}.port")
    if wanted.port is not None:
        return wanted.port
    ports = container.get("Ports")
    exposed = {
        one.get("PrivatePort")
        for one in (ports if isinstance(ports, list) else [])
        if isinstance(one, dict) and one.get("Type") == "tcp"
    }
    if len(exposed) == 1 and type(port := exposed.pop()) is int:
        return port
    raise ValueError(f"it exposes {len(exposed)} ports; label it {wanted.label}.port")


def _number(text: object, label: str) -> int:
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 5:
        raise ValueError(f"{label} is {text!r:.40}, and no number")
    return int(text)


def _name(container: Mapping[str, Any]) -> str:
    names = container.get("Names")
    first = names[0] if isinstance(names, list) and names else container.get("Id", "?")
    return str(first).lstrip("/")[:80]


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
