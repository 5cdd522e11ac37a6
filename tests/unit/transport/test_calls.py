"""Frames between clients and nodes: their golden bytes, and that nothing else is taken for one (pitfall 82)."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.errors import FormatUnsupported, PeerProtocolError, TooLarge
from multiraft.ids import ClusterId, NodeId, StoreId
from multiraft.transport import calls
from multiraft.transport.calls import FrameReader, Welcome
from multiraft.transport.hello import Farewell
from tests.unit.core.test_vectors import VECTORS, dump, load

WELCOME = Welcome(1, ClusterId(0xC1), NodeId(2), StoreId(0x51), 3, 1, 33554432, 1024)

FRAMES: dict[str, tuple[bytes, list[Any]]] = {
    "hello, any cluster": (calls.encode_hello(0), [1, "multiraft", 1, 1, 0]),
    "hello, one cluster": (calls.encode_hello(2**63), [1, "multiraft", 1, 1, 2**63]),
    "welcome": (
        calls.encode_welcome(WELCOME),
        [2, "multiraft", 1, 0xC1, 2, 0x51, 3, 1, 33554432, 1024],
    ),
    "call, put": (
        calls.encode_call(7, 1, 10_000, [b"key", b"value", False]),
        [3, 7, 1, 10_000, [b"key", b"value", False]],
    ),
    "call, put_many": (
        calls.encode_call(8, 5, 1, [calls.pack_many([b"a", b"1", b"b", b""]), True]),
        [3, 8, 5, 1, [b"\1\0\0\0a\1\0\0\0001\1\0\0\0b\0\0\0\0", True]],
    ),
    "call, status": (calls.encode_call(9, 12, 500, []), [3, 9, 12, 500, []]),
    "answer, revision": (calls.encode_answer(7, 1234), [4, 7, 1234]),
    "answer, values": (
        calls.encode_answer(8, calls.pack_many([b"v", None])),
        [4, 8, b"\1\0\0\0v\xff\xff\xff\xff"],
    ),
    "answer, nothing": (calls.encode_answer(9, None), [4, 9, None]),
    "refusal": (calls.encode_refusal(7, b"facts"), [5, 7, b"facts"]),
    "goodbye": (
        calls.encode_goodbye(8, Farewell.CLOSING, "the node closes"),
        [6, 8, 1, "the node closes"],
    ),
}


def framed(items: Any) -> bytes:
    """A frame, made apart from the product."""
    body: bytes = msgpack.packb(items)
    return struct.pack("<II", len(body), google_crc32c.value(body)) + body


def read(data: bytes, bytes_max: int = calls.CALL_BYTES_MAX) -> list[list[Any]]:
    reader = FrameReader()
    reader.bytes_max = bytes_max
    reader.feed(data)
    found = []
    while (one := reader.next()) is not None:
        found.append(one[0])
    return found


def test_the_frames_are_the_golden_ones(golden: Callable[[Path, str], None]) -> None:
    blocks = [
        f"# {title}\n# {items!r}\n{dump(framed(items))}\n" for title, (_, items) in FRAMES.items()
    ]
    golden(VECTORS / "calls.txt", "\n".join(blocks))
    known = load("calls.txt")
    for title, (made, items) in FRAMES.items():
        assert made == known[title], title
        assert read(known[title]) == [items]


def test_frames_come_out_however_they_arrive() -> None:
    stream = b"".join(made for made, _ in FRAMES.values())
    expected = [items for _, items in FRAMES.values()]
    for size in (1, 2, 7, 64, len(stream)):
        reader, found = FrameReader(), []
        for at in range(0, len(stream), size):
            reader.feed(stream[at : at + size])
            while (one := reader.next()) is not None:
                found.append(one[0])
        assert found == expected
        assert len(reader) == 0


def test_p82_no_flipped_bit_and_no_cut_gives_another_frame() -> None:
    for made, items in FRAMES.values():
        for length in range(len(made)):
            assert read(made[:length]) == []
        for bit in range(8 * len(made)):
            damaged = bytearray(made)
            damaged[bit // 8] ^= 1 << bit % 8
            try:
                found = read(bytes(damaged))
            except PeerProtocolError:
                continue
            assert found == [], items  # it waits for more, by a longer length


@pytest.mark.parametrize("length", [0, calls.CALL_BYTES_MAX - 7, 2**31, 2**32 - 1])
def test_p82_a_length_out_of_its_bounds_is_refused_before_it_arrives(length: int) -> None:
    with pytest.raises(PeerProtocolError, match="a frame of"):
        read(struct.pack("<II", length, 0))


def test_p82_before_the_hello_a_frame_is_small() -> None:
    with pytest.raises(PeerProtocolError, match="1024 are the most"):
        read(framed([1, "x" * 2000]), bytes_max=FrameReader().bytes_max)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgpack.packb(None),
        msgpack.packb({1: 2}),
        msgpack.packb([]),
        msgpack.packb(["text", 1]),
        msgpack.packb([True, 1]),
        msgpack.packb([1, 2]) + b"\0",
        msgpack.packb(list(range(100))),
        msgpack.packb([3, msgpack.ExtType(5, b"code")]),
        msgpack.packb([3, msgpack.Timestamp(1, 1)]),
        b"\x91" * 3000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x92\x03\xdb\xff\xff\xff\xff",
        b"\x92\x03\xa2\xff\xfe",
    ],
)
def test_p82_what_is_no_array_with_a_word_is_refused(body: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        calls.decode_body(body)


def test_p82_announced_lengths_take_no_memory() -> None:
    """Nested arrays that each announce as many items as a frame may hold: none is allocated for its announcement."""
    bombs = [b"\xdd\x00\x00\xff\xff" * 60_000, b"\xdc\x00\x20" * 100_000, b"\x92\x03" * 100_000]
    tracemalloc.start()
    try:
        for bomb in bombs:
            with pytest.raises(PeerProtocolError):
                calls.decode_body(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_p82_random_bytes_never_do_more_than_end_a_connection() -> None:
    chance = random.Random(82)
    sound = [made for made, _ in FRAMES.values()]
    for _ in range(20_000):
        data = bytearray(chance.choice(sound))
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        body = bytes(data[calls.HEADER.size :])
        try:
            items = calls.decode_body(body)  # as if the checksum had been right
            for decode in DECODERS.get(items[0], ()):
                decode(items)
        except (PeerProtocolError, FormatUnsupported):
            continue


DECODERS: dict[int, tuple[Callable[[list[Any]], Any], ...]] = {
    1: (calls.decode_hello,),
    2: (calls.decode_welcome,),
    3: (calls.decode_call,),
    4: (calls.decode_answer,),
    5: (calls.decode_answer,),
    6: (calls.decode_goodbye,),
}


@pytest.mark.parametrize(
    "items",
    [
        [1],
        [1, "other", 1, 1, 0],
        [1, "multiraft", 1, 1, -1],
        [1, "multiraft", 1, 1, True],
        [2, "multiraft", 1, 0xC1, 0, 0x51, 3, 1, 33554432, 1024],
        [2, "multiraft", 1, 0xC1, 2, 0x51, 3, 1, 2**40, 1024],
        [2, "multiraft", 1, 0xC1, 2, 0x51, 3, 1, 33554432, 0],
        [3, 0, 1, 100, []],
        [3, 1, 1, 0, []],
        [3, 1, 1, 2**50, []],
        [3, 1, 1, 100, {}],
        [3, 1, 1, 100],
        [4, "1", None],
        [5, 1, "text"],
        [6, 1, 99, "why"],
        [6, 1, 1, b"why"],
    ],
)
def test_p82_a_frame_of_a_wrong_shape_is_refused(items: list[Any]) -> None:
    for decode in DECODERS[items[0]]:
        with pytest.raises(PeerProtocolError):
            decode(items)


def test_another_version_is_said_to_be_one() -> None:
    with pytest.raises(FormatUnsupported, match="2 to 9"):
        calls.decode_hello([1, "multiraft", 2, 9, 0])
    assert calls.decode_hello([1, "multiraft", 0, 9, 5]) == 5
    with pytest.raises(FormatUnsupported, match="version 2"):
        calls.decode_welcome([2, "multiraft", 2, 0xC1, 2, 0x51, 3, 1, 33554432, 1024])


def test_a_reason_is_for_eyes_and_bounded() -> None:
    made = calls.encode_goodbye(0, Farewell.PROTOCOL, "\x1b[2J" + "x" * 5000)
    taken, farewell, reason = calls.decode_goodbye(read(made)[0])
    assert (taken, farewell) == (0, Farewell.PROTOCOL)
    assert reason.startswith("?[2Jxxx") and len(reason) == 512


def test_a_call_that_fits_into_no_frame_is_refused_here() -> None:
    with pytest.raises(TooLarge, match="fit into one frame"):
        calls.encode_call(1, 1, 1, [bytes(calls.CALL_BYTES_MAX)])


@given(st.lists(st.one_of(st.none(), st.binary(max_size=40)), max_size=30))
def test_many_come_out_as_they_went_in(items: list[bytes | None]) -> None:
    packed = calls.pack_many(items)
    assert calls.unpack_many(packed) == items
    if None in items:
        with pytest.raises(PeerProtocolError):
            calls.unpack_whole(packed)
    for at in range(1, len(packed)):
        try:
            assert calls.unpack_many(packed[:at]) == items[: len(calls.unpack_many(packed[:at]))]
        except PeerProtocolError:
            continue


@pytest.mark.parametrize(
    "data", [None, 5, "text", [b"a"], b"\1", b"\2\0\0\0a", b"\xfe\xff\xff\xff"]
)
def test_p82_what_is_not_packed_is_refused(data: object) -> None:
    with pytest.raises(PeerProtocolError):
        calls.unpack_many(data)
