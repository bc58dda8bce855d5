"""From what users write (a TOML file, options of the command line) to the model.

The top floor of the configuration, for the command line and the supervisor. Every mistake is reported, each
as one line that names the key as it stands in the file, or the option.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from pylb.config.links import broken_links
from pylb.config.mistakes import ConfigError, lines
from pylb.config.model import Config
from pylb.config.options import OPTIONS, put, quick_form, renamed
from pylb.config.sources import Places, Source, read_source
from pylb.config.trials import problems

__all__ = [
    "ConfigError",
    "Places",
    "Source",
    "from_document",
    "from_source",
    "load_file",
    "quick",
    "read_document",
    "read_source",
    "with_files",
]


def load_file(path: str | os.PathLike[str], **given: str | None) -> Config:
    """Read a TOML file, put the ``given`` options in place of its keys, and look at the files that it names.

    Raises:
        ConfigError: with every mistake in it, or in them, and where it stands.
        OSError: the file can't be read.
    """
    return from_source(read_source(path), **given)


def from_source(source: Source, **given: str | None) -> Config:
    """The same, of files that were read; raises ConfigError."""
    put(source.document, given)
    try:
        return with_files(from_document(source.document))
    except ConfigError as error:
        raise _placed(error, source.places, given) from None


def _placed(error: ConfigError, places: Places, given: dict[str, str | None]) -> ConfigError:
    """The same mistakes with their places; those of an option that was given name it, and have none."""
    flags = tuple(OPTIONS[name].option.flag for name, text in given.items() if text is not None)
    found = renamed(error.problems, given)
    where = [
        "" if flags and line.startswith(flags) else places.of_problem(problem)
        for problem, line in zip(error.problems, found, strict=True)
    ]
    return ConfigError(found, where)


def quick(bind: Sequence[str], server: Sequence[str], **given: str | None) -> Config:
    """The configuration of the quick form: all binds go to one backend of all servers.

    ``given`` are further options by name, as in `options.OPTIONS`. The files that they name aren't looked at.

    Raises:
        ConfigError: with every mistake in it.
    """
    options = {"bind": bind, "server": server, **given}
    document = quick_form()
    put(document, options)
    try:
        return from_document(document)
    except ConfigError as error:
        raise ConfigError(renamed(error.problems, options)) from None


def with_files(config: Config) -> Config:
    """The same, once the files that it names have been found good; raises ConfigError."""
    found = problems(config)
    if found:
        raise ConfigError(found)
    return config


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parse a TOML file and those that it includes, without checking what they say; as `read_source`."""
    return read_source(path).document


def from_document(document: dict[str, Any]) -> Config:
    """Check a parsed document.

    Raises:
        ConfigError: with every mistake in it.
    """
    found: list[str] = []
    config: Config | None = None
    try:
        config = Config.model_validate(document, by_name=False)
    except ValidationError as error:
        found = lines(error)
    except RecursionError:
        raise ConfigError(["it is nested too deeply"]) from None
    try:
        found += broken_links(document)
    except RecursionError:
        raise ConfigError(["it is nested too deeply"]) from None
    if found or config is None:
        raise ConfigError(found)
    return config
