"""Certificates of listeners: which files a configuration means, and which of them serve a name together.

Above `files`, below `tls`, which loads them. Knows no context and no connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

_CHAIN, _KEY = "fullchain.pem", "privkey.pem"
"""How ACME clients (Let's Encrypt's certbot) name the two in a certificate's folder below ``live/``."""


def certificate_files(place: str) -> list[tuple[Path, Path]]:
    """(certificate, key) files: of one ``.pem`` that holds both, or of all pairs in a folder.

    In a folder, ``NAME.pem`` holds both, or ``NAME.crt`` the certificate chain and ``NAME.key`` the key.
    Where ``fullchain.pem`` and ``privkey.pem`` lie, in it or in its subfolders, they are a pair, and the
    other files of an ACME client beside them (``cert.pem``, ``chain.pem``) are not needed.

    Raises:
        OSError: there is no such file or folder, or no certificate in it.
    """
    path = Path(place)
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{place}: no such file or folder")
        return [_pair(path)]
    found = []
    if _is_acme(path):
        found.append((path / _CHAIN, path / _KEY))
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            if _is_acme(entry):
                found.append((entry / _CHAIN, entry / _KEY))
        elif entry.suffix in (".pem", ".crt") and not (_is_acme(path) and entry.name in _OTHERS):
            found.append(_pair(entry))
    if not found:
        raise FileNotFoundError(
            f"{place}: no *.pem and no *.crt in this folder, and no subfolder with {_CHAIN} and {_KEY}"
        )
    return found


_OTHERS = (_CHAIN, _KEY, "cert.pem", "chain.pem")


def _is_acme(folder: Path) -> bool:
    return (folder / _CHAIN).is_file() and (folder / _KEY).is_file()


def _pair(path: Path) -> tuple[Path, Path]:
    key = path.with_suffix(".key")
    if path.name == _CHAIN and not key.is_file():
        key = path.with_name(_KEY)
    return path, key if key.is_file() else path


@dataclass(frozen=True)
class Certificate:
    """A certificate chain's file and that of its key, and what of the certificate decides who gets it."""

    file: Path
    key: Path
    names: frozenset[str]
    """In lower case."""
    kind: str
    """Of its key. A context has one certificate of each kind (RSA, ECDSA), and OpenSSL takes the one that the
    client can verify."""


def read(file: Path, key: Path) -> Certificate:
    """What a certificate says; ValueError where it is none."""
    parsed = x509.load_pem_x509_certificate(file.read_bytes())
    try:
        alternative = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = [str(one.value) for one in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    kind = type(parsed.public_key()).__name__
    return Certificate(file, key, frozenset(name.lower() for name in names), kind)


def together(
    first: Certificate, names: frozenset[str], those: Sequence[Certificate]
) -> tuple[Certificate, ...]:
    """``first``, and of each other kind of key the first of ``those`` that is for all of these names."""
    chosen = {first.kind: first}
    if names:
        for one in those:
            if names <= one.names:
                chosen.setdefault(one.kind, one)
    return tuple(chosen.values())
