"""Keys: what of a request an algorithm hashes, compiled from the configuration. Floor: phases."""

from __future__ import annotations

from collections.abc import Callable

from pylb.config.model import Backend as BackendConfig
from pylb.worker.transaction import Transaction

Key = Callable[[Transaction], bytes | None]
"""None where the request has no such thing: then servers take turns."""


def compiled(config: BackendConfig) -> Key | None:
    """The key of a backend's requests; None for an algorithm that hashes nothing."""
    return of(config.balance)


def of(text: str) -> Key | None:
    """What is written ``source``, ``header:NAME`` and so on; None for anything else."""
    kind, _, name = text.partition(":")
    if kind == "source":
        return _source
    if kind in ("uri", "path"):
        return _path
    if kind == "header":
        return _header(name.lower().encode())
    if kind == "cookie":
        return _cookie(name.encode())
    return _query(name.encode()) if kind == "query" else None


def _source(tx: Transaction) -> bytes | None:
    source = tx.client.source
    return source[0].encode() if source is not None else None


def _path(tx: Transaction) -> bytes | None:
    """The target up to its query."""
    return tx.head.target.partition(b"?")[0] if tx.head is not None else None


def _header(name: bytes) -> Key:
    def key(tx: Transaction) -> bytes | None:
        return tx.head.field(name) or None if tx.head is not None else None

    return key


def _cookie(name: bytes) -> Key:
    def key(tx: Transaction) -> bytes | None:
        cookies = tx.head.field(b"cookie") if tx.head is not None else None
        return _value_of(name, cookies.split(b";")) if cookies else None

    return key


def _query(name: bytes) -> Key:
    def key(tx: Transaction) -> bytes | None:
        query = tx.head.target.partition(b"?")[2] if tx.head is not None else b""
        return _value_of(name, query.split(b"&")) if query else None

    return key


def _value_of(name: bytes, pairs: list[bytes]) -> bytes | None:
    """The value of the first pair ``NAME=VALUE`` that isn't empty."""
    for pair in pairs:
        found, _, value = pair.strip().partition(b"=")
        if found == name and value:
            return value
    return None
