"""The Huffman code of HPACK (RFC 7541 §5.2, appendix B).

The code is canonical: codes of one length follow each other in the order of their symbols, so their lengths
are all that has to be known. DEFLATE's codes are so, too (RFC 1951 §3.2.2), but its bytes are read from the
other end, and no code has more than 15 bits. HPACK's longer ones all begin with 15 ones. So zlib decodes a
string whose symbols are usual ones: as a block whose symbols are these, and whose end is those 15 ones. It
takes 5 ns a byte, but first half a microsecond.

Short strings, and those with other symbols, are decoded a byte at a time. What a byte means depends on the
bits that are left of the last one; for each such rest there is a table, filled as bytes come (so the usual
few thousand entries are made, and a peer can make no more than 65,536).

Floor: near the bottom of `pylb.http2`.
"""

from __future__ import annotations

import zlib
from itertools import combinations
from typing import TypeAlias

_LENGTHS = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b08060606"
    "0505050606060606060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e06"
    "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c14161414161616171617171717171817"
    "181816171817171717151617161717181615141616171715171616181516171715151615171617171416161617161617"
    "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b14181415161515171616191918181a17"
    "1a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
_EOS = 256


def _codes() -> list[str]:
    """Of each symbol the bits."""
    codes = [""] * len(_LENGTHS)
    code = 0
    before = 0
    for symbol in sorted(range(len(_LENGTHS)), key=lambda symbol: (_LENGTHS[symbol], symbol)):
        length = _LENGTHS[symbol]
        code <<= length - before
        before = length
        codes[symbol] = format(code, f"0{length}b")
        code += 1
    return codes


_CODES = _codes()
_bits = _CODES.__getitem__
_Node: TypeAlias = "dict[str, _Node | int]"


def _tree() -> _Node:
    root: _Node = {}
    for symbol, code in enumerate(_CODES):
        node = root
        for bit in code[:-1]:
            node = node.setdefault(bit, {})  # type: ignore[assignment]  # no code begins another one
        node[code[-1]] = symbol
    return root


class _Rest(dict[int, "tuple[_Rest, bytes]"]):
    """By the next byte: what is left of it then, and the symbols that it completes."""

    __slots__ = ("_node", "good")

    def __init__(self, node: _Node, good: bool) -> None:
        super().__init__()
        self._node = node
        self.good = good
        """Whether a string may end here: with fewer than eight bits, all of them ones (§5.2)."""

    def __missing__(self, byte: int) -> tuple[_Rest, bytes]:
        node = self._node
        out = bytearray()
        for bit in format(byte, "08b"):
            after = node[bit]
            if isinstance(after, int):
                if after == _EOS:
                    raise ValueError("EOS in a string")
                out.append(after)
                node = _ROOT
            else:
                node = after
        made = self[byte] = (_rest(node), bytes(out))
        return made


_ROOT = _tree()
_rests: dict[int, _Rest] = {}


def _rest(node: _Node) -> _Rest:
    known = _rests.get(id(node))
    if known is None:
        known = _rests[id(node)] = _Rest(node, id(node) in _ENDS)
    return known


def _ends() -> frozenset[int]:
    node = _ROOT
    ends = [id(node)]
    for _ in range(7):
        node = node["1"]  # type: ignore[assignment]  # EOS has 30 of them
        ends.append(id(node))
    return frozenset(ends)


_ENDS = _ends()
_START = _rest(_ROOT)


_DEFLATE_BITS = 15
_SHORT = 12
"""Bytes below which the tables are faster."""


def _deflate_head() -> bytes:
    """What stands before the symbols of a block whose code is HPACK's (RFC 1951 §3.2.7), in whole bytes."""
    lengths = [size if size <= _DEFLATE_BITS else 0 for size in _LENGTHS[:256]]
    lengths += (_DEFLATE_BITS, 0)  # the end of a block; there is no code of distances
    # These lengths are encoded, too: eleven that occur, five of them in three bits, the others in four.
    # Which five decides where the head ends, and the string must begin at a byte.
    occurring = sorted(set(lengths))
    for short in combinations(occurring, 5):
        if sum(size not in short for size in lengths) % 8 == 0:
            break
    codes = {size: format(at, "03b") for at, size in enumerate(short)}
    codes |= {size: format(at, "04b") for at, size in enumerate(sorted(set(occurring) - set(short)), 10)}
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
    last, dynamic, literals, distances, codes_of_lengths = "1", "01", "00000", "00000", "1111"
    bits = [last, dynamic, literals, distances, codes_of_lengths]
    bits += [format(len(codes.get(size, "")), "03b")[::-1] for size in order]
    bits += [codes[size] for size in lengths]
    text = "".join(bits)
    return int(text[::-1], 2).to_bytes(len(text) // 8, "little")


_inflater = zlib.decompressobj(-8)
_inflater.decompress(_deflate_head())
_another = _inflater.copy
_FROM_THE_OTHER_END = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_END = b"\xff\x7f"  # fifteen ones and a zero


def decode(data: bytes) -> bytes:
    """The string that these bytes encode.

    Raises:
        ValueError: they encode none.
    """
    out = by_zlib(data) if len(data) >= _SHORT else None
    return by_tables(data) if out is None else out


def by_zlib(data: bytes) -> bytes | None:
    """The same for most strings whose symbols are usual ones; None for all else."""
    inflater = _another()
    out: bytes = inflater.decompress(data.translate(_FROM_THE_OTHER_END) + _END)
    if not inflater.eof:
        return None
    # The end was the string's padding and some of the ones behind it. With more bits of padding than there
    # may be, or a symbol that DEFLATE doesn't have, it is over earlier: in the string, or with one byte more
    # at most, and then the string's last byte is all ones. With seven bits of padding that may be so, too.
    rest = len(inflater.unused_data)
    return out if rest == 0 or (rest == 1 and data[-1] != 0xFF) else None


def by_tables(data: bytes) -> bytes:
    """`decode`, for strings of any kind."""
    rest = _START
    out = b""
    for byte in data:
        rest, symbols = rest[byte]
        out += symbols
    if not rest.good:
        raise ValueError("a string ends within a symbol")
    return out


def encode(text: bytes) -> bytes:
    """A string, encoded; it may be longer than it was."""
    bits = "".join(map(_bits, text))
    size = len(bits) + 7 >> 3
    return int(bits + "1" * (-len(bits) & 7), 2).to_bytes(size, "big") if bits else b""
