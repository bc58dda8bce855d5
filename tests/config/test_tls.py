"""Contexts of listeners, without sockets: which certificate a client gets, and what tickets are worth."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from pylb.config.address import parse_address
from pylb.config.model import Backend, Config, Frontend, Server, Tls
from pylb.config.tls import SESSIONS_AGE, Sessions, listener_tls, listeners_tls

CA = trustme.CA()
ECDSA, RSA = trustme.KeyType.ECDSA, trustme.KeyType.RSA


def issue(file: Path, kind: trustme.KeyType, *names: str) -> str:
    """A file with a certificate and its key."""
    CA.issue_cert(*names, key_type=kind).private_key_and_cert_chain_pem.write_to_path(str(file))
    return str(file)


class Client:
    """A client of TLS 1.2, which asks for a name."""

    def __init__(self, name: str, kind: str = "ECDSA") -> None:
        self.context = ssl.create_default_context()
        CA.configure_trust(self.context)
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_ciphers(f"ECDHE-{kind}-AES128-GCM-SHA256")
        self.name = name
        self.session: ssl.SSLSession | None = None

    def connect(self, server: ssl.SSLContext) -> ssl.SSLObject:
        """Shake hands; the client's end, whose session is kept."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = self.context.wrap_bio(to_client, to_server, server_hostname=self.name, session=self.session)
        theirs = server.wrap_bio(to_server, to_client, server_side=True)
        done: set[ssl.SSLObject] = set()
        while len(done) < 2:
            for end in (ours, theirs):
                try:
                    end.do_handshake()
                    done.add(end)
                except ssl.SSLWantReadError:
                    pass
        self.session = ours.session
        return ours


def names(connection: ssl.SSLObject) -> set[str]:
    """What the server's certificate is for."""
    found: Any = connection.getpeercert()
    return {value for _, value in found["subjectAltName"]}


@pytest.mark.parametrize("asked", ["a.example", "b.a.example"])
def test_of_two_kinds_of_key_a_client_gets_the_one_that_it_knows(tmp_path: Path, asked: str) -> None:
    files = (
        issue(tmp_path / "rsa.pem", RSA, "a.example", "*.a.example"),
        issue(tmp_path / "ecdsa.pem", ECDSA, "*.a.example", "a.example"),
        issue(tmp_path / "other.pem", ECDSA, "other.example"),
    )
    context = listener_tls(Tls(certificates=files)).context()
    for kind in ("RSA", "ECDSA"):
        assert "a.example" in names(Client(asked, kind).connect(context))
    assert names(Client("other.example").connect(context)) == {"other.example"}
    with pytest.raises(ssl.SSLError):
        Client("other.example", "RSA").connect(context)


def test_the_default_certificate_has_no_partner_that_is_for_other_names(tmp_path: Path) -> None:
    files = (issue(tmp_path / "a.pem", RSA, "a.example"), issue(tmp_path / "b.pem", ECDSA, "b.example"))
    context = listener_tls(Tls(certificates=files)).context()
    client = Client("c.example", "ECDSA")
    client.context.check_hostname = False
    with pytest.raises(ssl.SSLError):
        client.connect(context)


def config(file: str, **more: str) -> Config:
    """A frontend with TLS."""
    tls = Tls.model_validate({"certificates": file} | more)
    frontend = Frontend(name="f", bind=(parse_address("127.0.0.1:1"),), backend="b", tls=tls)
    server = Server(name="s", address=parse_address("127.0.0.1:2"))
    return Config(frontends=(frontend,), backends=(Backend(name="b", servers=(server,)),))


def test_sessions_outlive_a_certificate_but_no_day_and_no_other_terms(tmp_path: Path) -> None:
    file = issue(tmp_path / "a.pem", ECDSA, "a.example")
    ca = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(str(ca))
    sessions = Sessions()
    client = Client("a.example")

    def reused(now: float, **more: str) -> bool:
        made = listeners_tls(config(file, **more), sessions, now)["127.0.0.1:1"]
        return client.connect(made.context()).session_reused is True

    assert not reused(0.0)
    issue(tmp_path / "a.pem", ECDSA, "a.example", "new.example")
    assert reused(1.0)
    renewed = listeners_tls(config(file), sessions, 1.0)["127.0.0.1:1"].context()
    assert names(Client("new.example").connect(renewed)) == {"a.example", "new.example"}
    assert not reused(2.0, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
    asks = {"client_certificate": "optional", "client_ca": str(ca)}
    assert not reused(3.0, **asks)
    assert reused(4.0, **asks)
    trustme.CA().cert_pem.write_to_path(str(ca))
    assert not reused(5.0, **asks)
    assert not reused(6.0)  # what was made at 0 is still known, and this client has a ticket of another
    assert reused(SESSIONS_AGE - 0.1)
    assert not reused(SESSIONS_AGE)


def test_each_certificate_of_a_list_is_tried(tmp_path: Path) -> None:
    good, none = issue(tmp_path / "a.pem", ECDSA, "a.example"), str(tmp_path / "none.pem")
    with pytest.raises(FileNotFoundError, match=r"none\.pem"):
        listener_tls(Tls(certificates=(good, none)))
