"""docs/configuration.md says what the model says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pylb.config import model
from pylb.config.load import from_document

TEXT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
DOCUMENT: dict[str, Any] = tomllib.loads("\n".join(re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)))


def test_the_example_is_valid() -> None:
    config = from_document(DOCUMENT)
    assert config.frontends[0].body_bytes == 10 * 1024 * 1024
    assert config.frontends[1].sni["a.example.org"] == "app"


def test_every_key_is_there() -> None:
    shown: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            shown.update(value)
            for one in value.values():
                walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)

    walk(DOCUMENT)
    sections = [one for one in vars(model).values() if isinstance(one, type) and issubclass(one, BaseModel)]
    keys = {key for section in sections for key in section.model_fields}
    assert keys - {"frontends", "backends", "servers"} <= shown
