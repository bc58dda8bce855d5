"""Map files are read again when they change, and a bad one changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pylb.config.routing import read_map
from pylb.rules.maps import Map
from pylb.rules.template import compile as template
from pylb.worker.mapfiles import MapFiles
from tests.http.wire import TestCore


class Scene:
    """A network map and its file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "office.map"
        self.file.write_text("10.0.0.0/8 office\n")
        self.map = Map("office", "network", template("{client.ip}"))
        self.map.version, text = read_map(str(self.file))
        self.map.read(text)
        self.core = TestCore()
        self.files = MapFiles(self.core, [(self.map, str(self.file))])

    @property
    def found(self) -> list[bytes | None]:
        return [self.map.find(b"10.1.2.3"), self.map.find(b"192.0.2.1")]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_changed_file_takes_the_place_of_the_old_one(scene: Scene) -> None:
    many = "".join(f"172.16.{n >> 8}.{n & 255} host-{n}\n" for n in range(5000))
    scene.file.write_text(many + "192.0.2.0/24 lab")
    await scene.files.look()
    assert scene.found == [None, b"lab"]
    assert (scene.map.entries, scene.map.find(b"172.16.19.135")) == (5001, b"host-4999")


async def test_a_broken_file_changes_nothing_and_is_told_of_once(scene: Scene) -> None:
    scene.file.write_text("192.0.2.0/24 lab\n10.0.0.0/33 office\n")
    await scene.files.look()
    await scene.files.look()
    assert scene.found == [b"office", None]
    (line,) = scene.core.said
    assert f"map office: {scene.file}: line 2: '10.0.0.0/33' does not" in line
    scene.file.write_text("192.0.2.0/24 lab\n")
    await scene.files.look()
    assert scene.found == [None, b"lab"]


async def test_a_file_that_is_gone_changes_nothing_and_is_told_of_once(scene: Scene) -> None:
    scene.file.unlink()
    await scene.files.look()
    await scene.files.look()
    assert scene.found == [b"office", None]
    (line,) = scene.core.said
    assert line.endswith("No such file or directory; what was read before stays in use")
    scene.file.write_text("192.0.2.0/24 lab\n")
    await scene.files.look()
    assert scene.found == [None, b"lab"]


async def test_a_file_that_has_not_changed_is_not_read_again(scene: Scene) -> None:
    before = scene.map.find
    await scene.files.look()
    assert scene.map.find == before
