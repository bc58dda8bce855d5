"""The Huffman code of HPACK (RFC 7541 §5.2, appendix B).

The code is canonical: codes of one length follow each other in the order of their symbols, so their lengths
are all that has to be known. It is decoded a byte at a time. What a byte means depends on the bits that are
left of the last one; for each such rest there is a table, filled as bytes come (so the usual few thousand
entries are made, and a peer can make no more than 65,536).

Floor: near the bottom of `pylb.http2`.
"""

from __future__ import annotations

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


def decode(data: bytes) -> bytes:
    """The string that these bytes encode.

    Raises:
        ValueError: they encode none.
    """
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
