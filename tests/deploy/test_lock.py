"""The images' locked releases and pyproject.toml agree (``make lock`` renews them)."""

from __future__ import annotations

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.deploy.compose import ROOT
from tests.deploy.floors import DEPENDENCIES, PROJECT, floor


def locked(name: str) -> dict[str, Version]:
    """Each package's version."""
    text = (ROOT / "deploy" / name).read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)
    assert len(found) > 20
    return {str(canonicalize_name(package)): Version(version) for package, version in found}


def test_each_dependency_has_one_floor_and_is_locked_at_an_allowed_release() -> None:
    releases = locked("requirements.lock")
    for requirement in DEPENDENCIES:
        assert floor(requirement)
        assert releases[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_load_has_the_same_releases_and_locust() -> None:
    releases, more = locked("requirements.lock"), locked("requirements-load.lock")
    assert releases.items() <= more.items()
    for text in PROJECT["optional-dependencies"]["load"]:
        requirement = Requirement(text)
        assert more[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_what_serves_is_known_file_by_file_and_from_no_named_place() -> None:
    text = (ROOT / "deploy/requirements.lock").read_text()
    entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    for name in ("requirements.lock", "requirements-load.lock"):
        assert "://" not in (ROOT / "deploy" / name).read_text()
