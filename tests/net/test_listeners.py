"""Opening, keeping and refusing addresses."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from pylb.config.address import Address
from pylb.net.adminsocket import AdminSocket
from pylb.net.listeners import BindError, Listeners, listen_unix


def test_a_port_in_use_is_refused_in_one_line() -> None:
    with Listeners_one() as port, pytest.raises(BindError, match=f"127.0.0.1:{port}.*another process"):
        Listeners([("f", Address("127.0.0.1", port))], 2, 16)


class Listeners_one:
    """Another program that shares its port with everybody."""

    def __enter__(self) -> int:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen()
        port = self.sock.getsockname()[1]
        assert isinstance(port, int)
        return port

    def __exit__(self, *what: object) -> None:
        self.sock.close()


def test_a_foreign_address_is_refused() -> None:
    with pytest.raises(BindError, match="no such address"):
        Listeners([("f", Address("192.0.2.1", 8080))], 1, 16)


def test_an_update_keeps_what_stays(tmp_path: Path) -> None:
    tcp, unix = Address("127.0.0.1", 0), Address("", 0, str(tmp_path / "a.sock"))
    old = Listeners([("f", tcp), ("f", unix)], 3, 16)
    new, removed = old.updated([("f", tcp)])
    assert new.sockets[str(tcp)] is old.sockets[str(tcp)]
    assert removed == [old.sockets[str(unix)][0]]
    with pytest.raises(BindError):
        old.updated([("f", unix), ("g", Address("192.0.2.1", 1))])
    assert old.sockets[str(unix)][0].fileno() >= 0
    old.close()
    assert not os.path.exists(unix.path)


def test_unix_files(tmp_path: Path) -> None:
    path = str(tmp_path / "dir" / "admin.sock")
    first = AdminSocket(Address("", 0, path), False).sock
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(BindError, match="another process"):
        listen_unix(path, 1)
    first.close()  # the file stays, as after a kill
    listen_unix(path, 1).close()
    os.unlink(path)
    Path(path).write_text("precious")
    with pytest.raises(BindError, match="no socket"):
        listen_unix(path, 1)
    assert Path(path).read_text() == "precious"
