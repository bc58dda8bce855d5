"""The ends of blocks that are kept: they say the same as when they are read, and only as long as they do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pylb.http.errors import Refused
from pylb.http2 import encode
from pylb.http2.decode import Decoder, Section
from pylb.http2.fields import field
from pylb.http2.heads import request_head, usual_head

PATH = b"\x04\x02/a"  # a literal that isn't indexed: :path /a
OTHER = b"\x04\x02/b"
REST = b"\x82\x87\x41\x01h\x7a\x01b"  # GET, https; :authority h is added to the table, and so is user-agent b
SEEN = b"\x82\x87\xbf\xbe"  # the same by the table


def said(section: Section) -> list[tuple[bytes, bytes]]:
    assert section.fields is not None
    return [(name, value) for _, name, value, _, _ in section.fields]


def test_a_tail_is_known_whatever_the_path() -> None:
    decoder = Decoder(1 << 16)
    first = decoder.read(PATH + REST)
    assert first.tail is None
    assert decoder.read(PATH + SEEN).tail is None
    third = decoder.read(OTHER + SEEN)
    assert third.tail is not None
    assert said(third) == [(b":path", b"/b"), *said(first)[1:]]
    assert usual_head(third) == b"GET /b HTTP/1.1\r\nHost: h\r\nuser-agent: b\r\n\r\n"


def test_a_tail_is_not_known_after_an_insertion_or_a_change_of_the_size() -> None:
    for change in (b"\x40\x01x\x01y", b"\x20\x3f\xe1\x1f" + REST[2:]):
        decoder = Decoder(1 << 16)
        decoder.read(PATH + REST)
        decoder.read(PATH + SEEN)
        decoder.read(change)
        assert decoder.read(OTHER + SEEN[:2]).tail is None


def test_a_section_that_its_tail_makes_too_long_is_given_up() -> None:
    size = len(b":path/a") + 32 + len(b":methodGET") + 32
    decoder = Decoder(size)
    assert decoder.read(PATH + b"\x82").fields is not None
    assert decoder.read(OTHER + b"\x82").fields is not None
    assert decoder.read(b"\x04\x03/ab" + b"\x82").fields is None


_NAMES = [b":method", b":path", b":scheme", b":authority", b":status", b"cookie", b"te", b"host", b"x", b"X"]
_VALUES = [b"", b"GET", b"CONNECT", b"/", b"/a b", b"https", b"h", b"trailers", b"a\nb"]
_FIELDS = st.lists(st.tuples(st.sampled_from(_NAMES), st.sampled_from(_VALUES)), max_size=4)
_USUAL = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"h")]


@given(_FIELDS, st.permutations(_USUAL), _FIELDS, _FIELDS)
def test_a_head_with_a_known_tail_is_the_same(
    before: list[tuple[bytes, bytes]],
    usual: list[tuple[bytes, bytes]],
    behind: list[tuple[bytes, bytes]],
    other: list[tuple[bytes, bytes]],
) -> None:
    decoder = Decoder(1 << 16)
    for start in (before, other, [], before[:1]):
        for path in (b"/a", b"/b", b"/c d"):
            fields = [*start, (b":path", path), *usual, *behind]
            section = decoder.read(b"".join([encode.field(name, value) for name, value in fields]))
            assert said(section) == fields
            found = usual_head(section)
            if found is not None:
                try:
                    made = request_head([field(name, value) for name, value in fields], True)
                except Refused:
                    made = None
                assert found == made
