"""Giving root's rights up, and giving files away, as units."""

from __future__ import annotations

import ast
import grp
import os
import pwd
import socket
from pathlib import Path

import pytest

from pylb.config.address import Address
from pylb.config.identity import Identity, identity, ignored, problems
from pylb.config.load import quick
from pylb.config.model import Config
from pylb.net.adminsocket import AdminSocket
from pylb.supervisor import privileges

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root can become another user")
NOBODY = pwd.getpwnam("nobody")


def config(user: str | None = None, group: str | None = None) -> Config:
    return quick(["127.0.0.1:0"], ["127.0.0.1:9"]).model_copy(update={"user": user, "group": group})


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def as_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY.pw_uid)
    monkeypatch.setattr(os, "getegid", lambda: NOBODY.pw_gid)


@pytest.mark.usefixtures("as_root")
def test_names_and_numbers() -> None:
    groups = tuple(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert identity(config()) is None
    assert identity(config("nobody")) == Identity(NOBODY.pw_uid, NOBODY.pw_gid, groups)
    assert identity(config(str(NOBODY.pw_uid))) == Identity(NOBODY.pw_uid, NOBODY.pw_gid, groups)
    other = next(one for one in grp.getgrall() if one.gr_gid not in (0, NOBODY.pw_gid))
    for name in (other.gr_name, str(other.gr_gid)):
        found = identity(config("nobody", name))
        assert found is not None and found.gid == other.gr_gid in found.groups
    # As with HAProxy, a group alone is the group alone; numbers need no names.
    assert identity(config(None, other.gr_name)) == Identity(0, other.gr_gid, (other.gr_gid,))
    assert identity(config("4000000", "4000001")) == Identity(4000000, 4000001, (4000001,))


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize(
    ("user", "group", "says"),
    [
        ("no-such-user", None, "user: this machine has no user 'no-such-user'"),
        ("no\0user", None, "user: this machine has no user 'no\\x00user'"),
        ("", None, "user: this machine has no user ''"),
        ("4294967295", None, "user: this machine has no user '4294967295'"),
        ("٣", None, "user: this machine has no user '٣'"),
        ("4000000", None, "user: 4000000 is not in the user database; set group, too"),
        ("nobody", "no-such-group", "group: this machine has no group 'no-such-group'"),
        (None, "-1", "group: this machine has no group '-1'"),
    ],
)
def test_mistakes_name_the_key(user: str | None, group: str | None, says: str) -> None:
    assert problems(config(user, group)) == [says]


@pytest.mark.usefixtures("as_somebody")
def test_for_others_than_root_it_is_without_effect() -> None:
    for user, group, effect in (
        (None, None, False),
        ("nobody", None, False),  # that is what runs already
        (str(NOBODY.pw_uid), str(NOBODY.pw_gid), False),
        ("root", None, True),
        (None, "root", True),
        ("no-such-user", None, True),
    ):
        assert identity(config(user, group)) is None
        assert problems(config(user, group)) == []
        assert ignored(config(user, group)) is effect


@needs_root
def test_what_was_dropped_cannot_be_had_back() -> None:
    attempts = (
        lambda: os.setuid(0),
        lambda: os.seteuid(0),
        lambda: os.setresuid(0, -1, -1),
        lambda: os.setgid(0),
        lambda: os.setgroups([0]),
        lambda: os.open("/etc/shadow", os.O_RDONLY),
        lambda: os.kill(os.getppid(), 0),
    )
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            privileges.drop(Identity(NOBODY.pw_uid, NOBODY.pw_gid, (NOBODY.pw_gid,)))
            code = 0
            for attempt in attempts:
                try:
                    attempt()
                except PermissionError:
                    continue
                code += 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_root
def test_root_cannot_be_led_to_give_another_file_away(tmp_path: Path) -> None:
    who = Identity(NOBODY.pw_uid, NOBODY.pw_gid, ())
    secret = tmp_path / "secret"
    secret.touch()
    link, hard, plain, sock = (tmp_path / name for name in ("link", "hard", "plain", "sock"))
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.bind(str(sock))
        two.bind(str(hard))
        link.symlink_to(sock)
        os.link(hard, tmp_path / "second name")
        os.link(secret, plain)
        for path in (link, hard, plain, tmp_path / "none"):
            privileges.give(Address("", 0, str(path)), who)
        assert {path.stat().st_uid for path in tmp_path.iterdir()} == {0}
        privileges.give(Address("", 0, str(sock)), who)
        assert (sock.stat().st_uid, sock.stat().st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)


def test_children_import_nothing_late() -> None:
    """Their user may not be able to read Python's files, so all imports are done before the fork."""
    root = Path(__file__).parents[2] / "pylb"
    files = [file for name in ("worker", "control", "net", "http") for file in (root / name).glob("*.py")]
    assert len(files) > 30
    late = [
        f"{file.name}: {ast.unparse(statement)}"
        for file in files
        for function in ast.walk(ast.parse(file.read_text()))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for statement in ast.walk(function)
        if isinstance(statement, ast.Import | ast.ImportFrom)
    ]
    assert late == []


@needs_root
def test_the_user_reaches_its_admin_socket_in_a_folder_that_stays_roots(tmp_path: Path) -> None:
    who = Identity(NOBODY.pw_uid, NOBODY.pw_gid, ())
    address = Address("", 0, str(tmp_path / "made" / "admin.sock"))
    admin = AdminSocket(address, False, folder_mode=privileges.folder_mode(who))
    privileges.give(address, who)
    folder, file = (tmp_path / "made").stat(), os.stat(address.path)
    assert (folder.st_uid, folder.st_mode & 0o777) == (0, 0o711)
    assert (file.st_uid, file.st_mode & 0o777) == (NOBODY.pw_uid, 0o600)
    admin.close()
    assert not os.path.exists(address.path)
