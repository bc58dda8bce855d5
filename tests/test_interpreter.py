"""How Python was built, by what builds record of themselves."""

from __future__ import annotations

import platform

import pytest

from pylb.interpreter import Variables, build

PYENV: dict[str, object] = {
    "CONFIG_ARGS": "'--prefix=/root/.pyenv/versions/3.11.7' '--enable-shared'",
    "OPT": "-DNDEBUG -g -fwrapv -O3 -Wall",
    "PY_CFLAGS": "-Wsign-compare -DNDEBUG -g -fwrapv -O3 -Wall",
    "PY_CFLAGS_NODIST": "-std=c11 -Wextra -fvisibility=hidden  -I./Include/internal",
    "PY_CORE_CFLAGS": "-Wsign-compare -DNDEBUG -g -fwrapv -O3 -Wall -std=c11 -Wextra",
    "PGO_PROF_USE_FLAG": "-fprofile-use -fprofile-correction",
    "Py_DEBUG": 0,
}
"""As pyenv builds it, and as ``./configure && make`` does: the flag is known to be possible, and not used."""
DEBIAN: dict[str, object] = PYENV | {
    "CONFIG_ARGS": "'--enable-shared' '--prefix=/usr' '--with-dtrace' 'CFLAGS=-g -fstack-protector-strong '",
    "PY_CFLAGS": "-Wsign-compare -DNDEBUG -g -fwrapv -O2 -Wall -g -fstack-protector-strong -g -fwrapv -O2",
    "PGO_PROF_USE_FLAG": "",
}


@pytest.mark.parametrize(
    ("variables", "words", "optimised"),
    [
        (PYENV, "no PGO, no LTO", False),
        (DEBIAN, "PGO by its distributor", True),
        (PYENV | {"CONFIG_ARGS": "'--enable-optimizations' '--with-lto'"}, "PGO and LTO", True),
        (PYENV | {"CONFIG_ARGS": "'--enable-optimizations' '--with-lto=thin'"}, "PGO and LTO", True),
        (PYENV | {"CONFIG_ARGS": "'--enable-optimizations' '--with-lto=no'"}, "PGO", True),
        (PYENV | {"CONFIG_ARGS": "'--with-lto=full'"}, "LTO, no PGO", False),
        (PYENV | {"PY_CORE_CFLAGS": "-O3 -fprofile-use -flto"}, "PGO and LTO", True),
        (PYENV | {"PY_CORE_CFLAGS": "-O3 -fprofile-instr-use=code.profclangd"}, "PGO", True),
        (DEBIAN | {"Py_DEBUG": 1}, "debug build", False),
        (PYENV | {"PY_CFLAGS": "-g -O3 -Og"}, "compiled with -Og", False),
        (DEBIAN | {"PY_CFLAGS": "-O2", "PY_CFLAGS_NODIST": "-O0"}, "compiled with -O0", False),
        ({}, "compiled with no -O", False),
    ],
)
def test_a_build_says_how_it_was_optimised(variables: Variables, words: str, optimised: bool) -> None:
    found = build(variables)
    assert (found.words, found.optimised) == (words, optimised)


def test_the_python_that_runs_this_is_known() -> None:
    found = build()
    assert found.version == platform.python_version()
    assert found.optimised or found.words in ("no PGO, no LTO", "LTO, no PGO", "debug build")
