"""How the Python that this runs on was built, as far as it says so itself (``sysconfig``).

Nearly all of a worker's CPU time is Python's own, so a build without its compiler's optimisations makes every
request dearer. ``/status`` shows it and warns, and benchmarks name it in their results. On the lowest floor:
knows of pylb nothing, and looks at no file.

Source: https://docs.python.org/3/using/configure.html#performance-options
"""

from __future__ import annotations

import platform
import re
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass

Variables = Mapping[str, object]
"""What `sysconfig.get_config_vars` gives."""


@dataclass(frozen=True)
class Build:
    """A build of Python: its version, how it was optimised in words, and whether that is enough."""

    version: str
    words: str
    optimised: bool


def build(variables: Variables | None = None) -> Build:
    """Of the Python that runs this, or of the one with these ``variables``."""
    found = sysconfig.get_config_vars() if variables is None else variables
    level = _level(found)
    if found.get("Py_DEBUG"):
        return Build(platform.python_version(), "debug build", False)
    if level in ("", "0", "1", "g"):
        return Build(platform.python_version(), f"compiled with {f'-O{level}' if level else 'no -O'}", False)
    profile, linked = _profile(found), _linked(found)
    if profile or linked:
        words = " and ".join(filter(None, (profile, linked)))
        return Build(platform.python_version(), words if profile else f"{words}, no PGO", bool(profile))
    return Build(platform.python_version(), "no PGO, no LTO", False)


def _text(found: Variables, *names: str) -> str:
    return " ".join(str(found.get(name) or "") for name in names)


def _level(found: Variables) -> str:
    """The optimisation level: the last one given is the one that a compiler obeys."""
    levels = re.findall(r"(?:^|\s)-O(\w*)", _text(found, "OPT", "PY_CFLAGS", "PY_CFLAGS_NODIST"))
    return (levels[-1] or "1") if levels else ""


def _profile(found: Variables) -> str:
    """How the compiler knew which code is hot; empty if it didn't (profile guided optimisation)."""
    flags = _text(found, "PY_CFLAGS", "PY_CFLAGS_NODIST", "PY_CORE_CFLAGS")
    if "--enable-optimizations" in _text(found, "CONFIG_ARGS") or re.search(r"-fprofile(-instr)?-use", flags):
        return "PGO"
    # Debian and Ubuntu run the profile in their packages' rules, and take its flags out of what is recorded:
    # the variable, which every other build with gcc or clang has, is empty.
    return "PGO by its distributor" if found.get("PGO_PROF_USE_FLAG") == "" else ""


def _linked(found: Variables) -> str:
    """Whether it was optimised as a whole when it was linked (LTO); empty if not."""
    asked = re.search(r"--with-lto(?!=no)", _text(found, "CONFIG_ARGS"))
    flags = _text(found, "PY_CFLAGS_NODIST", "PY_CORE_CFLAGS", "PY_CORE_LDFLAGS", "PY_LDFLAGS_NODIST")
    return "LTO" if asked or "-flto" in flags else ""


BUILD = build()
"""Of the Python that runs this: what it reads is read before anything forks and gives up rights."""
