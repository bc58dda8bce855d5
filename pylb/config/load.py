"""From what users write (a TOML file, options of the command line) to the model.

The top floor of the configuration, for the command line and the supervisor. Every mistake is reported, each
as one line that names the key as it stands in the file, or the option.
"""

from __future__ import annotations

import codecs
import os
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from pylb.config.files import read_regular
from pylb.config.links import broken_links
from pylb.config.mistakes import ConfigError, lines
from pylb.config.model import Config
from pylb.config.options import put, quick_form, renamed
from pylb.config.trials import problems

__all__ = ["ConfigError", "from_document", "load_file", "quick", "read_document", "with_files"]

_LARGEST_FILE = 4 * 1024 * 1024  # bytes; the supervisor does nothing else while it reads them
_MOST_DOTS = 500
"""In a key. No key of the model has as many, and `tomllib` takes time by the square of their number."""
_STRING = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")

# Where one mark begins as another does, the longer one comes first.
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8 with a byte order mark (BOM)"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def load_file(path: str | os.PathLike[str], **given: str | None) -> Config:
    """Read a TOML file, put the ``given`` options in place of its keys, and look at the files that it names.

    Raises:
        ConfigError: with every mistake in it, or in them.
        OSError: the file can't be read.
    """
    document = read_document(path)
    put(document, given)
    try:
        return with_files(from_document(document))
    except ConfigError as error:
        raise ConfigError(renamed(error.problems, given)) from None


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
    """Parse a TOML file without checking what it says; raises as `load_file`."""
    data = read_regular(path, _LARGEST_FILE)
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            raise ConfigError([f"not valid TOML: the file is {encoding}; save it as UTF-8 without a BOM"])
    try:
        text = data.decode()
        if any(line.count(".") > _MOST_DOTS for line in _STRING.sub("", text).splitlines()):
            raise RecursionError
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(["not valid TOML: it is nested too deeply"]) from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError, and a number of too many digits
        hint = "; it looks like UTF-16, save it as UTF-8" if b"\0" in data[:4] else ""
        raise ConfigError([f"not valid TOML: {error}{hint}"]) from None


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
