"""The kinds of sources by the key that names each in the configuration: a line for each.

A kind's module is imported only where a configuration has one, by the supervisor before the fork: the control
plane may have no right to read Python's own files.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from pylb.config.model import Config, Discover
from pylb.control.sources.source import Access, Source

_MODULES = {
    "dns": "dns",
    "srv": "dns",
    "file": "file",
    "docker": "docker",
    "http": "http",
    "function": "function",
}


def load(config: Config) -> None:
    """Import what the configuration's sources need."""
    for backend in config.backends:
        for section in backend.discover:
            _module(section.kind)


def _module(kind: str) -> Any:
    return importlib.import_module(f"pylb.control.sources.{_MODULES[kind]}")


def source(section: Discover, backend: str, access: Access) -> Source:
    """The source of a section."""
    module = _module(section.kind)
    made: dict[str, Callable[[], Source]] = {
        "dns": lambda: module.DnsSource(section),
        "srv": lambda: module.DnsSource(section),
        "file": lambda: module.FileSource(section),
        "docker": lambda: module.DockerSource(section, backend),
        "http": lambda: module.HttpSource(section, access),
        "function": lambda: module.FunctionSource(section),
    }
    return made[section.kind]()
