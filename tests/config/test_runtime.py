"""Where the admin socket lies, and whom one may trust there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylb.config.address import Address
from pylb.config.runtime import admin_paths, default_admin_path, distrust
from pylb.net.adminsocket import AdminSocket
from pylb.net.listeners import BindError

USER = 54321  # nobody's


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """As if this were a user without a run-time directory; the path of its directory in /tmp."""
    for name in ("PYLB_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    directory = f"/tmp/pylb-{USER}"
    assert not os.path.lexists(directory)
    yield directory
    if os.path.islink(directory):
        os.unlink(directory)
    shutil.rmtree(directory, ignore_errors=True)


def test_roots_is_the_services_whatever_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYLB_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/0")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_admin_path() == "/run/pylb/admin.sock"
    assert admin_paths() == ["/run/pylb/admin.sock"]


def test_a_users_own_comes_before_the_services(
    user: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert admin_paths() == [f"{user}/admin.sock", "/run/pylb/admin.sock"]
    os.chown(tmp_path, USER, -1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert admin_paths() == [f"{tmp_path}/pylb/admin.sock", "/run/pylb/admin.sock"]
    os.chown(tmp_path, 0, -1)  # as after su, when it is still the other user's
    assert default_admin_path() == f"{user}/admin.sock"
    monkeypatch.setenv("PYLB_RUNTIME_DIR", "/somewhere")
    assert admin_paths() == ["/somewhere/admin.sock"]


def listens(user: str) -> str:
    """What is said against listening in the user's directory."""
    try:
        AdminSocket(Address("", 0, f"{user}/admin.sock"), False).close()
    except BindError as error:
        return str(error)
    return ""


def test_a_directory_in_tmp_is_used_if_it_is_ours_alone(user: str) -> None:
    path = f"{user}/admin.sock"
    assert distrust(path) == ""  # nothing there yet
    os.mkdir(user, 0o700)
    assert "belongs to user 0" in distrust(path) and "belongs to user 0" in listens(user)
    os.chown(user, USER, -1)
    assert distrust(path) == ""
    for mode in (0o755, 0o770, 0o701):
        os.chmod(user, mode)
        assert f"mode {mode:04o}" in distrust(path) and "open to others" in listens(user)
    os.rmdir(user)
    Path(user).touch()
    assert "no directory" in distrust(path)
    os.unlink(user)


def test_a_link_in_tmp_is_not_followed(user: str, tmp_path: Path) -> None:
    os.chown(tmp_path, USER, -1)
    os.chmod(tmp_path, 0o700)
    os.symlink(tmp_path, user)
    assert "is a link" in distrust(f"{user}/admin.sock") and "is a link" in listens(user)
    assert not (tmp_path / "admin.sock").exists()


def test_a_socket_elsewhere_is_the_operators_choice(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    assert distrust(f"{tmp_path}/admin.sock") == ""


def test_status_trusts_nothing_there(user: str, tmp_path: Path) -> None:
    """Somebody has made the directory first, and listens."""
    os.mkdir(user, 0o777)
    script = (
        f"import os, sys; os.geteuid = lambda: {USER}\n"
        "sys.argv = ['pylb', 'status']\nfrom pylb.__main__ import main; main()"
    )
    environment = {key: value for key, value in os.environ.items() if "RUNTIME_DIR" not in key}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{user} belongs to user 0" in done.stderr and done.stderr.count("\n") == 1
