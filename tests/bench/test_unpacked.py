"""Where newer versions of peers come from, and how they say which they are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bench.rig.peers import pylb_text, version_in
from bench.rig.site import Site
from bench.rig.unpacked import Missing, mirror
from pylb.config.load import from_document


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list", "# deb http://old.example/debian x main\ndeb http://a.example/debian sid main\n"),
        ("sources.list", "deb [arch=amd64 signed-by=/x.gpg] http://a.example/debian bookworm main\n"),
        ("sources.list.d/debian.sources", "Types: deb\nURIs: http://a.example/debian\nSuites: bookworm\n"),
    ],
)
def test_the_mirror_is_the_one_that_apt_has(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "a.list").write_text("deb http://b.example/apt stable main\n")
    (tmp_path / name).write_text(text)
    assert mirror(tmp_path) == "http://a.example/debian"


def test_without_a_mirror_of_debian_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="names no mirror of Debian"):
        mirror(tmp_path)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("HAProxy version 2.6.12-1+deb12u4 2025/12/31 - https://haproxy.org/\n", "2.6.12-1+deb12u4"),
        ("nginx version: nginx/1.22.1\n", "1.22.1"),
        ("\n/x/envoy  version: 8f1c09/1.40.0/Clean/RELEASE/BoringSSL\n", "1.40.0"),
        ("v2.11.7 h1:abc=\n", "2.11.7"),
        ("?", "unknown"),
    ],
)
def test_versions_are_found_in_what_programs_say(said: str, version: str) -> None:
    assert version_in(said) == version


def test_pylb_takes_the_sites_of_a_table(tmp_path: Path) -> None:
    sites = [Site(["127.0.0.1:1"], routes=3), Site(["127.0.0.1:1"], log=True)]
    found = from_document(tomllib.loads(pylb_text(tmp_path, *sites)))
    assert [len(one.rules) for one in found.frontends] == [3, 0]
