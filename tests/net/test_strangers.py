"""Who listens on a port, as the kernel's tables say."""

from __future__ import annotations

import socket

import pytest

from bench.rig.balancer import free_port
from pylb.config.address import Address
from pylb.net.adminsocket import AdminSocket
from pylb.net.listeners import BindError, Listeners
from pylb.net.strangers import inodes, listening, overlap, stranger


def test_a_table_is_read_as_far_as_it_shows_listening_sockets() -> None:
    table = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt  uid timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0     0 4711 1 0 100 0 0 10 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0     0 4712 1 0 100 0 0 10 0
   2: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0     0 4713 1 0 100 0 0 10 0
nonsense"""
    assert list(listening(table.splitlines())) == [("127.0.0.1", 8080, 4711), ("0.0.0.0", 80, 4712)]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("::", "::1", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("fe80::1%lo", "fe80::1", True),
        ("::1", "::2", False),
    ],
)
def test_what_overlaps(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) == expected


@pytest.mark.parametrize(
    ("family", "host", "wide"), [(socket.AF_INET, "127.0.0.1", "0.0.0.0"), (socket.AF_INET6, "::1", "::")]
)
def test_our_own_are_no_strangers(family: socket.AddressFamily, host: str, wide: str) -> None:
    with socket.create_server((host, 0), family=family) as sock:
        port = sock.getsockname()[1]
        for asked in (host, wide):
            assert stranger(family, asked, port, frozenset())
            assert not stranger(family, asked, port, inodes([sock]))
        assert not stranger(family, host, free_port(), frozenset())


def test_the_same_place_in_another_spelling_shares_its_sockets() -> None:
    port = free_port()
    old = Listeners([("f", Address("::1", port))], 2, 16)
    new, removed = old.updated([("f", Address("0:0:0:0:0:0:0:1", port))])
    assert removed == [] and new.all() == old.all()
    old.close_others(new)
    assert all(sock.fileno() >= 0 for sock in new.all())
    new.close()


def test_a_wider_address_can_be_had_beside_ours_but_not_beside_anothers() -> None:
    port = free_port()
    old = Listeners([("f", Address("127.0.0.1", port))], 2, 16)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.2", port))
        other.listen()
        with pytest.raises(BindError, match="another process"):
            old.updated([("f", Address("0.0.0.0", port))])
    new, removed = old.updated([("f", Address("0.0.0.0", port))])
    assert len(removed) == 2 and len(new.all()) == 2
    new.close()
    old.close()


def test_the_admin_address_widens_but_takes_no_binds_place() -> None:
    port, other = free_port(), free_port()
    admin = AdminSocket(Address("127.0.0.1", port), True)
    binds = Listeners([("f", Address("127.0.0.1", other))], 2, 16)
    own = [*binds.all(), admin.sock]
    AdminSocket(Address("0.0.0.0", port), True, own).close()
    # Of two sockets with one address the kernel would make one group.
    with pytest.raises(BindError, match="pylb itself has it"):
        AdminSocket(Address("127.0.0.1", other), True, own)
    with pytest.raises(BindError, match="pylb itself has it"):
        binds.updated([("f", Address("127.0.0.1", port))], [admin.sock])
    binds.close()
    admin.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_a_token_the_admin_address_is_this_machines(host: str) -> None:
    with pytest.raises(BindError, match="admin_token_file"):
        AdminSocket(Address(host, free_port()), False)
    AdminSocket(Address(host, free_port()), True).close()
