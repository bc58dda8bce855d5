"""HPACK: the examples of RFC 7541, against the hpack library, and whole blocks that are looked up."""

from __future__ import annotations

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from pylb.http2 import encode, huffman
from pylb.http2.codes import Code, Fault
from pylb.http2.decode import Decoder
from pylb.http2.fields import PAIRS

Header = tuple[bytes, bytes]
_encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


def read(decoder: Decoder, block: bytes) -> list[Header]:
    fields = decoder.read(block).fields
    assert fields is not None
    return [(name, value) for _, name, value, _, _ in fields]


def hexed(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def headers(text: str) -> list[Header]:
    pairs = [line.strip().rsplit(" = ", 1) for line in text.strip().splitlines()]
    return [(name.encode(), value.encode()) for name, value in pairs]


def test_the_static_table() -> None:
    assert PAIRS[1:] == [(name, value) for name, value in HeaderTable.STATIC_TABLE]


@given(st.binary(max_size=80))
def test_the_huffman_code(text: bytes) -> None:
    coded = huffman.encode(text)
    assert coded == _encoder.encode(text)
    assert huffman.decode(coded) == text


_USUAL = st.text("0123456789abcdefghijklmnopqrstuvwxyz=;/-_.%{`<|\\", max_size=60).map(str.encode)


@given(st.one_of(_USUAL, st.binary(max_size=60)), st.binary(max_size=3), st.integers(0, 300))
def test_the_huffman_code_is_decoded_alike_by_tables_and_by_zlib(text: bytes, more: bytes, bit: int) -> None:
    coded = bytearray(huffman.encode(text) + more)
    if bit < 8 * len(coded):
        coded[bit // 8] ^= 1 << bit % 8
    for one in (bytes(coded), bytes(coded) + b"\xff", bytes(coded[:-1])):
        try:
            read = huffman.by_tables(one)
        except ValueError:
            read = None
        assert huffman.by_zlib(one) in (read, None)


def test_zlib_decodes_usual_strings() -> None:
    for size in range(1, 60):
        text = (b"/a?session=eyJhbGciOiJIUzI1NiJ9." * 2)[:size]
        coded = huffman.encode(text)
        assert huffman.by_zlib(coded) == text or coded[-1] == 0xFF


@pytest.mark.parametrize("bad", ["ff", "00", "1c64ff", "1c641dffff", "ffffffff", "ffffffffff"])
def test_bad_huffman_strings(bad: str) -> None:
    """Padding of a byte or more, with zeros, and EOS (§5.2)."""
    with pytest.raises(ValueError, match="string"):
        huffman.decode(bytes.fromhex(bad))


# RFC 7541, appendix C: blocks of one connection one after the other, and what they say.
FIRST = ":method = GET\n:scheme = http\n:path = /\n:authority = www.example.com"
SECOND = FIRST + "\ncache-control = no-cache"
THIRD = FIRST.replace("http\n:path = /", "https\n:path = /index.html") + "\ncustom-key = custom-value"
REQUESTS = [FIRST, SECOND, THIRD]
ONE = (
    ":status = 302\ncache-control = private\ndate = Mon, 21 Oct 2013 20:13:21 GMT\n"
    "location = https://www.example.com"
)
TWO = ONE.replace("302", "307")
THREE = (
    ":status = 200\ncache-control = private\ndate = Mon, 21 Oct 2013 20:13:22 GMT\n"
    "location = https://www.example.com\ncontent-encoding = gzip\n"
    "set-cookie = foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
)
EXAMPLES = {
    "C.2.1": (["400a637573746f6d2d6b65790d637573746f6d2d686561646572"], ["custom-key = custom-header"]),
    "C.2.2": (["040c2f73616d706c652f70617468"], [":path = /sample/path"]),
    "C.2.3": (["100870617373776f726406736563726574"], ["password = secret"]),
    "C.2.4": (["82"], [":method = GET"]),
    "C.3": (
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        REQUESTS,
    ),
    "C.4": (
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
        REQUESTS,
    ),
    "C.5": (
        [
            "3fe101 4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a3231"
            "20474d54"
            "6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a"
            "4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
        ],
        [ONE, TWO, THREE],
    ),
    "C.6": (
        [
            "3fe101 488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c7"
            "8f0b97c8"
            "e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5"
            "af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ],
        [ONE, TWO, THREE],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_rfc(name: str) -> None:
    """Those of responses with their table of 256 bytes, said at the beginning."""
    decoder = Decoder(1 << 16)
    blocks, said = EXAMPLES[name]
    for block, text in zip(blocks, said, strict=True):
        assert read(decoder, hexed(block)) == headers(text)


names = st.sampled_from([b":path", b"cookie", b"x-a", b"x-b", b"accept", b"authorization", b"date"])
sections = st.lists(st.tuples(names, st.binary(max_size=40)), max_size=8)


@given(st.lists(st.tuples(sections, st.one_of(st.none(), st.integers(0, 4096)), st.booleans()), max_size=12))
def test_what_the_library_encodes(blocks: list[tuple[list[Header], int | None, bool]]) -> None:
    """With insertions, evictions and changes of the table's size."""
    encoder = hpack.Encoder()
    decoder = Decoder(1 << 20)
    for fields, size, coded in blocks:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(fields, huffman=coded)
        assert read(decoder, block) == fields
        assert read(decoder, encoder.encode(fields)) == fields


@given(sections)
def test_what_the_library_decodes(fields: list[Header]) -> None:
    block = b"".join([encode.field(name, value) for name, value in fields])
    got = hpack.Decoder().decode(block, raw=True)
    assert [(name, value) for name, value in got] == fields


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_the_library_reads_them(block: bytes) -> None:
    decoder, library = Decoder(1 << 20), hpack.Decoder()
    try:
        theirs = [(bytes(name), bytes(value)) for name, value in library.decode(block, raw=True)]
    except Exception:
        theirs = None
    try:
        ours: list[Header] | None = read(decoder, block)
    except Fault as fault:
        assert fault.code is Code.COMPRESSION_ERROR
        ours = None
    if theirs is not None or ours is None:
        assert ours == theirs
    # Otherwise the library is the stricter one: an index 0 as a name's, a longer integer.


# Blocks that are looked up whole


def test_a_block_is_looked_up_where_it_says_the_same() -> None:
    decoder = Decoder(1 << 16)
    block = b"\x82\x86\x84\x01\x01a"
    assert decoder.read(block) is decoder.read(block)


def test_a_block_that_inserts_is_not_looked_up() -> None:
    decoder = Decoder(1 << 16)
    block = b"\x40\x01a\x01b"
    for _ in range(3):
        assert read(decoder, block) == [(b"a", b"b")]
    assert read(decoder, b"\xc0") == [(b"a", b"b")]  # the third one


def test_an_insertion_changes_what_an_index_means() -> None:
    decoder = Decoder(1 << 16)
    read(decoder, b"\x40\x01a\x011")
    assert read(decoder, b"\xbe") == read(decoder, b"\xbe") == [(b"a", b"1")]
    read(decoder, b"\x40\x01a\x012")
    assert read(decoder, b"\xbe") == [(b"a", b"2")]


def test_size_to_4096_to_0_to_4096_insert_indexed() -> None:
    """Where "the table's entries are the same" would look up the wrong section."""
    decoder = Decoder(1 << 16)
    update = b"\x3f\xe1\x1f"
    block = update + b"\x40\x01a\x011"
    assert read(decoder, block) == [(b"a", b"1")]
    assert read(decoder, b"\xbe") == [(b"a", b"1")]
    assert read(decoder, b"\x20" + update) == []
    with pytest.raises(Fault):
        decoder.read(b"\xbe")
    decoder = Decoder(1 << 16)
    read(decoder, block)
    read(decoder, b"\xbe")
    read(decoder, b"\x20" + update + b"\x40\x01a\x012")
    assert read(decoder, b"\xbe") == [(b"a", b"2")]


def test_a_block_with_a_change_of_the_size_is_not_looked_up() -> None:
    decoder = Decoder(1 << 16)
    for _ in range(2):
        read(decoder, b"\x40\x01a\x01b")
        assert read(decoder, b"\x20\x82") == [(b":method", b"GET")]
        with pytest.raises(Fault):
            decoder.read(b"\xbe")
        read(decoder, b"\x3f\xe1\x1f")


def test_what_is_kept_is_bounded_in_bytes() -> None:
    decoder = Decoder(1 << 16)
    for number in range(3000):
        read(decoder, b"\x00\x01a\x7f\x49" + b"%0200d" % number)
        assert sum(map(len, decoder.known)) <= 24576
    assert decoder.known


# Limits


def test_a_section_that_is_too_long_is_given_up_and_the_table_stays_right() -> None:
    decoder = Decoder(100)
    assert (
        decoder.read(b"\x40\x01a\x01b" + b"\x00\x01x\x14" + b"y" * 20 + b"\x00\x01x\x14" + b"y" * 20).fields
        is None
    )
    assert read(decoder, b"\xbe") == [(b"a", b"b")]


def test_a_bomb_ends_the_connection() -> None:
    decoder = Decoder(16384)
    with pytest.raises(Fault) as caught:
        decoder.read(b"\x40\x01a\x7f\x81\x1e" + b"v" * 4000 + b"\xbe" * 12000)
    assert caught.value.code is Code.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "block",
    [
        "80",
        "be",
        "ff80808080808001",
        "40",
        "4001",
        "400161",
        "40016105",
        "3fe21f",
        "8220",
        "7f",
        "0085ff",
    ],
)
def test_what_can_not_be_read(block: str) -> None:
    with pytest.raises(Fault) as caught:
        Decoder(1 << 16).read(hexed(block))
    assert caught.value.code is Code.COMPRESSION_ERROR


def test_credentials_and_short_cookies_are_never_indexed() -> None:
    for name, value, secret in (
        (b"authorization", b"Basic x", True),
        (b"cookie", b"a=1", True),
        (b"cookie", b"a=" + b"x" * 30, False),
        (b"accept", b"x", False),
    ):
        block = encode.field(name, value)
        assert bool(block[0] & 0x10) is secret
        assert block[0] < 0x20
