"""docs/example.toml is good, does what it says, and stands in the README as it is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner

from pylb.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(autouse=True)
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trustme.CA().issue_cert("shop.example")
    made.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "shop.pem"))
    monkeypatch.setenv("CERTIFICATES", str(tmp_path))
    monkeypatch.chdir(ROOT)


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_it_is_good_and_its_tests_pass() -> None:
    assert said("check", "-c", "docs/example.toml") == (
        "docs/example.toml: ok: 2 frontends, 4 backends, 7 servers, 4 tests\n"
    )


def test_the_readme_shows_it_and_what_explain_says() -> None:
    assert f"```toml\n{(ROOT / 'docs/example.toml').read_text()}```" in README
    (block,) = re.findall(
        r"^    \$ python -m pylb (explain .*\n(?:(?:    .*)?\n)*?)\n(?=\S)", README, re.MULTILINE
    )
    command, _, shown = block.partition("\n")
    assert re.sub("^    ", "", shown, flags=re.MULTILINE) == said(*shlex.split(command))


@pytest.mark.parametrize(
    ("url", "source", "ends"),
    [
        (
            "https://www.shop.example/a?b",
            "192.0.2.1",
            ["answer    301", "Location: https://shop.example/a?b"],
        ),
        ("https://shop.example/admin", "10.0.0.1", ["backend   "]),
        (
            "https://shop.example/api/a",
            "192.0.2.1",
            ["backend   api", "sent      GET /a", "X-Real-IP: 192.0.2.1"],
        ),
        ("https://a.blog.example/", "192.0.2.1", ["backend   blog"]),
        ("https://other.example/", "192.0.2.1", ["answer    421"]),
    ],
)
def test_what_becomes_of_requests(url: str, source: str, ends: list[str]) -> None:
    output = said("explain", "-c", "docs/example.toml", url, "--from", source)
    assert all(end in output for end in ends), output
