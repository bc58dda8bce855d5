"""Header blocks: HPACK as it is read (RFC 7541).

A block whose first decoding has added nothing to the table and held no change of its size says the same again
as long as nothing else has done so: its bytes and the number of insertions and changes on this connection are
the key under which it is kept, with what its reader made of it (`Section.made`). That the table's entries
are the same isn't enough: size to 0 and back, insert, and the same index means another entry. It is bounded
in bytes. So equal heads, which most are after the first few, cost one look into a dictionary.

Clients don't have a path indexed, since each is another one. So what follows the first such field of a block
is kept likewise, as a section of its own (`Section.tail`): it is mostly the same for all paths.

Floor: within `pylb.http2` above fields and the Huffman code. Knows nothing of frames.
"""

from __future__ import annotations

from typing import Any

from pylb.http2 import huffman
from pylb.http2.codes import Code, Fault
from pylb.http2.fields import STATIC, Field, field

TABLE_BYTES = 4096
"""Of the table, as peers assume it (RFC 9113 §6.5.2); pylb says nothing else."""
_KNOWN_BYTES = 24576  # of blocks, and what they mean, that a connection keeps
_TAILS_BYTES = 8192  # likewise of the ends of blocks
_STRINGS_BYTES = 1 << 20  # of decoded strings that a process keeps
_LONGEST_KEPT = 1024
_BOMB = 16  # so many times the most that a section may have is no mistake

# Huffman-coded strings: of those that no table has, as short cookies and credentials, many come again.
_strings: dict[bytes, bytes] = {}
_strings_bytes = 0


def _string(raw: bytes) -> bytes:
    """A Huffman-coded string.

    Raises:
        ValueError: it is none.
    """
    global _strings_bytes
    known = _strings.get(raw)
    if known is None:
        known = huffman.decode(raw)
        if len(raw) <= _LONGEST_KEPT:
            _strings_bytes += len(raw) + len(known) + 150
            if _strings_bytes > _STRINGS_BYTES:
                _strings.clear()
                _strings_bytes = 0
            _strings[raw] = known
    return known


def integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """An integer whose prefix is full (§5.1), and where it ends.

    Raises:
        ValueError: it is larger than anything here.
        IndexError: it is cut off.
    """
    shift = 0
    value = prefix
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 28:
            raise ValueError("an integer is too large")


class Section:
    """The fields of a header block, and what was made of them."""

    __slots__ = ("fields", "made", "tail")

    def __init__(self, fields: list[Field] | None, tail: Section | None = None) -> None:
        self.fields = fields
        """None where they are more than a section may have."""
        self.tail = tail
        """The last of the fields, if they have ended other blocks, too; not those that differ."""
        self.made: dict[object, Any] = {}
        """Whoever reads sections keeps here what it has made of this one; under what is its own affair."""


class Decoder:
    """The reading end of one connection's HPACK.

    Args:
        most: bytes of a section (RFC 9113 §10.5.1), with 32 for each field. A longer one is read, so that the
            table stays right, and given up.
    """

    __slots__ = ("_table", "_size", "_most_size", "most", "known", "_known_bytes", "_same", "_tails")

    def __init__(self, most: int) -> None:
        self._table: list[Field] = []  # the newest one last
        self._size = 0
        self._most_size = TABLE_BYTES
        self.most = most
        self.known: dict[bytes, Section] = {}
        """Blocks that say the same again; emptied with each change of the table."""
        self._known_bytes = 0
        self._same = False  # whether the block that is read would say the same again
        # What follows the first field that isn't to be indexed, with its size; emptied likewise.
        self._tails: dict[bytes, tuple[Section, int]] = {}

    def read(self, block: bytes) -> Section:
        """The section that a block encodes. Every block must be read, whatever is done with it.

        Raises:
            Fault: it can't be read, so nothing that follows can be; or it is a bomb.
        """
        known = self.known.get(block)
        if known is not None:
            return known
        try:
            return self._read(block)
        except IndexError:
            raise Fault(
                Code.COMPRESSION_ERROR, "a block that is cut off, or an index that isn't there"
            ) from None
        except ValueError as error:
            raise Fault(Code.COMPRESSION_ERROR, str(error)) from None

    def _read(self, block: bytes) -> Section:
        table = self._table
        fields: list[Field] = []
        add = fields.append
        self._same = True
        at = 0
        end = len(block)
        total = 0
        cut = before = 0  # where the tail begins, and the size of what is before
        tail: Section | None = None
        while at < end:
            byte = block[at]
            at += 1
            if byte >= 0x80:  # §6.1
                index = byte & 0x7F
                if index == 0x7F:
                    index, at = integer(block, at, 0x7F)
                one = STATIC[index] if index < 62 else table[61 - index]
                if one is None:
                    raise ValueError("index 0")
            elif byte & 0xE0 == 0x20:  # §6.3
                if total:
                    raise ValueError("a change of the table's size where none may be")
                size = byte & 0x1F
                if size == 0x1F:
                    size, at = integer(block, at, 0x1F)
                if size > TABLE_BYTES:
                    raise ValueError("a table that is larger than it may be")
                self._resize(size)
                continue
            else:  # §6.2
                mask = 0x3F if byte & 0x40 else 0x0F
                index = byte & mask
                if index == mask:
                    index, at = integer(block, at, mask)
                if index:
                    named = STATIC[index] if index < 62 else table[61 - index]
                    name = named[1]  # type: ignore[index]  # None has index 0 only
                else:
                    name, at = self._text(block, at, end)
                # As `_text`, which would take a tenth of the time.
                first = block[at]
                at += 1
                length = first & 0x7F
                if length == 0x7F:
                    length, at = integer(block, at, 0x7F)
                value = block[at : at + length]
                at += length
                if at > end:
                    raise IndexError
                if first >= 0x80:
                    value = _string(value)
                one = field(name, value)
                if mask == 0x3F:
                    self._insert(one)
            total += one[4]
            if total <= self.most:
                add(one)
            elif total > _BOMB * self.most:
                raise Fault(Code.ENHANCE_YOUR_CALM, "a header section out of all proportion")
            if byte < 0x20 and not cut and self._same:
                found = self._tails.get(block[at:])
                if found is not None and total + found[1] <= self.most:
                    tail, size = found
                    fields += tail.fields  # type: ignore[arg-type]  # what is kept has some
                    total += size
                    break
                cut, before, count = at, total, len(fields)
        section = Section(fields if total <= self.most else None, tail)
        if cut and self._same and total <= self.most:
            self._keep_tail(block[cut:], fields[count:], total - before)
        if self._same and total <= self.most:
            size = len(block) + 3 * total + 400  # with what is made of it
            self._known_bytes += size
            if self._known_bytes > _KNOWN_BYTES:
                self.known.clear()
                self._known_bytes = size
            self.known[block] = section
        return section

    def _keep_tail(self, block: bytes, fields: list[Field], total: int) -> None:
        tails = self._tails
        size = len(block) + 3 * total + 400
        if size > _TAILS_BYTES:
            return
        if (len(tails) + 1) * size > _TAILS_BYTES:
            tails.clear()
        tails[block] = Section(fields), total

    @staticmethod
    def _text(block: bytes, at: int, end: int) -> tuple[bytes, int]:
        first = block[at]
        at += 1
        length = first & 0x7F
        if length == 0x7F:
            length, at = integer(block, at, 0x7F)
        text = block[at : at + length]
        at += length
        if at > end:
            raise IndexError
        return (_string(text) if first >= 0x80 else text), at

    def _resize(self, size: int) -> None:
        self._most_size = size
        self._changed()
        self._evict(0)

    def _insert(self, one: Field) -> None:
        self._changed()
        size = one[4]
        self._evict(size)
        if size <= self._most_size:
            self._table.append(one)
            self._size += size

    def _evict(self, coming: int) -> None:
        """Make room (§4.4)."""
        table = self._table
        gone = 0
        while gone < len(table) and self._size + coming > self._most_size:
            self._size -= table[gone][4]
            gone += 1
        if gone:
            del table[:gone]

    def _changed(self) -> None:
        self._same = False
        if self.known:
            self.known.clear()
            self._known_bytes = 0
        if self._tails:
            self._tails.clear()
