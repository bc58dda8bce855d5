"""The access logs' files, as the supervisor opens, hands over and reopens them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from pylb.config.load import ConfigError, from_document, with_files
from pylb.config.model import Config
from pylb.net import channel
from pylb.supervisor.accesslogs import AccessLogs
from pylb.supervisor.processes import Worker


def _config(*logs: Any, general: Any = None) -> Config:
    frontends = [
        {"name": f"f{number}", "bind": f"127.0.0.1:{number + 1}", "backend": "b"}
        | ({} if log is None else {"access_log": log})
        for number, log in enumerate(logs)
    ]
    document: dict[str, Any] = {"frontend": frontends, "backend": [{"name": "b", "server": ["127.0.0.1:9"]}]}
    return from_document(document | ({} if general is None else {"log": {"access": general}}))


def _worker(config: Config) -> tuple[Worker, socket.socket]:
    ours, theirs = channel.pair()
    return Worker(1, ours, 0.0, row=0, slot=0, generation=1, config=config), theirs


def test_frontends_with_equal_targets_share_one(tmp_path: Path) -> None:
    path = str(tmp_path / "a.log")
    config = _config(path, f"{tmp_path}/../{tmp_path.name}/a.log", None, False, general="stdout")
    logs = AccessLogs()
    opened = logs.open(config)
    assert sorted(target.path for target in opened) == ["", path, path]
    numbers = {opened[target] for target in opened if target.path}
    assert len(numbers) == 1
    assert opened[next(target for target in opened if not target.path)] == 1
    assert logs.open(config) == opened
    logs.close_others([])
    with pytest.raises(OSError):
        os.fstat(cast(int, numbers.pop()))


def test_usr1_opens_files_under_their_numbers_and_hands_them_to_those_that_write_them(tmp_path: Path) -> None:
    first, second = tmp_path / "1.log", tmp_path / "2.log"
    config, other = _config(str(first)), _config(str(second))
    logs = AccessLogs()
    (number,) = logs.open(config).values()
    logs.open(other)
    writing, its_end = _worker(config)
    idle, other_end = _worker(_config(None))
    first.rename(tmp_path / "1.log.1")
    logs.reopen([config], [writing, idle])
    assert os.stat(first).st_ino == os.fstat(cast(int, number)).st_ino
    fds: list[int] = []
    message = channel.recv(its_end, fds)
    assert message == {"op": "reopen", "path": str(first)}
    assert os.fstat(fds[0]).st_ino == os.stat(first).st_ino
    with pytest.raises(BlockingIOError):
        channel.recv(other_end, fds)
    assert str(second) not in logs._files  # no configuration in use names it
    channel.close_all(fds)


def test_a_file_that_cannot_be_reopened_is_written_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    config = _config(str(folder / "a.log"))
    logs = AccessLogs()
    (number,) = logs.open(config).values()
    folder.rename(tmp_path / "gone")
    logs.reopen([config], [])
    assert "can't be reopened" in caplog.text
    assert os.write(cast(int, number), b"x\n") == 2


def test_what_has_no_room_in_a_channel_is_sent_later(tmp_path: Path) -> None:
    config = _config(str(tmp_path / "a.log"))
    logs = AccessLogs()
    logs.open(config)
    worker, end = _worker(config)
    while channel.send(worker.channel, {"op": "x", "fill": "." * 10_000}):
        pass
    logs.reopen([config], [worker])
    logs.tick()
    fds: list[int] = []
    for message in channel.waiting(end):
        assert message is not None and message["op"] == "x"
    logs.tick()
    logs.tick()
    got = [(message, len(fds)) for message in channel.waiting(end, fds)]
    assert got == [({"op": "reopen", "path": str(tmp_path / "a.log")}, 1)]
    assert fds == []  # they were closed


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("/nowhere/a.log", "log.access.to: /nowhere: no such directory"),
        ("{tmp}", "log.access.to: {tmp}: Is a directory"),
        ("{tmp}/pipe", "{tmp}/pipe: is a socket, or a pipe that nobody reads"),
        ("syslog:unix:{tmp}/none", "{tmp}/none: No such file or directory"),
        ("syslog:no.such.host.invalid:514", "log.access.to: "),
    ],
)
def test_a_destination_that_cannot_be_used_is_a_mistake(tmp_path: Path, to: str, said: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError) as error:
        with_files(_config(None, general=to.format(tmp=tmp_path)))
    assert said.format(tmp=tmp_path) in error.value.problems[0]
    assert sorted(os.listdir(tmp_path)) == ["pipe"]


def test_looking_makes_no_file(tmp_path: Path) -> None:
    with_files(_config(str(tmp_path / "a.log")))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could be led to other users' files")
def test_root_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a.log").symlink_to(tmp_path / "other")
    with pytest.raises(ConfigError) as error:
        with_files(_config(str(tmp_path / "a.log")))
    (problem,) = error.value.problems
    assert problem.startswith("frontend[0].access_log.to: ") and "is a link" in problem
