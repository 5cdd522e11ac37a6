"""Routing: a table of ranges against plain bisection, slots against Redis Cluster's rule, physical keys against the format."""

from __future__ import annotations

import binascii
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft._routes import RouteTable, physical_key, slot_of
from multiraft.errors import ConfigError

# Few letters and lengths around eight, where the compiled search turns from numbers to bytes.
keys = st.text("ab\0\xff", max_size=12).map(lambda text: text.encode("latin-1"))


@given(st.sets(keys, max_size=40), st.lists(keys, max_size=40))
def test_a_key_is_found_in_the_range_that_it_lies_in(
    starts: set[bytes], wanted: list[bytes]
) -> None:
    ranges = [(start, at * 7, at + 2**40) for at, start in enumerate(sorted(starts | {b""}))]
    table = RouteTable(ranges)
    assert len(table) == len(ranges)
    borders = [start for start, _, _ in ranges]
    for key in [*wanted, *borders, *(border + b"\0" for border in borders)]:
        _, group, epoch = ranges[bisect_right(borders, key) - 1]
        assert table.find(key) == (group, epoch)


def test_a_table_of_one_range_serves_every_key() -> None:
    table = RouteTable([(b"", 2**64 - 1, 2**64 - 1)])
    for key in (b"", b"\0", b"k", b"\xff" * 5000):
        assert table.find(key) == (2**64 - 1, 2**64 - 1)


def test_a_table_keeps_nothing_of_what_it_was_made_from() -> None:
    ranges = [(b"", 1, 1), (b"m", 2, 1)]
    table = RouteTable(iter(ranges))
    ranges.clear()
    assert table.find(b"z") == (2, 1)


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [(b"a", 1, 1)],
        [(b"", 1, 1), (b"", 2, 1)],
        [(b"", 1, 1), (b"b", 2, 1), (b"a", 3, 1)],
        [(b"", 1, 1), (b"b", 2, 1), (b"b", 3, 1)],
    ],
)
def test_ranges_that_do_not_cut_all_keys_are_refused(ranges: list[tuple[bytes, int, int]]) -> None:
    with pytest.raises(ConfigError):
        RouteTable(ranges)


@pytest.mark.parametrize(
    "ranges", [None, [(b"",)], [("", 1, 1)], [(b"", -1, 1)], [(b"", 1, 2**64)], [(None, 1, 1)]]
)
def test_what_is_no_range_is_refused(ranges: object) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        RouteTable(ranges)  # type: ignore[arg-type]


def reference_slot(key: bytes) -> int:
    """Redis Cluster specification, `HASH_SLOT`."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return binascii.crc_hqx(key, 0) % 16384


# Key, and the part of it that is hashed: the examples of the Redis Cluster specification and the edges of its rule.
TAGS = [
    (b"{user1000}.following", b"user1000"),
    (b"{user1000}.followers", b"user1000"),
    (b"foo{}{bar}", b"foo{}{bar}"),
    (b"foo{{bar}}zap", b"{bar"),
    (b"foo{bar}{zap}", b"bar"),
    (b"foo{bar", b"foo{bar"),
    (b"foo}bar{", b"foo}bar{"),
    (b"}{a}", b"a"),
    (b"{", b"{"),
    (b"{}", b"{}"),
    (b"{a}", b"a"),
    (b"", b""),
]


@pytest.mark.parametrize(("key", "hashed"), TAGS)
def test_the_slot_follows_the_tag_rule(key: bytes, hashed: bytes) -> None:
    assert slot_of(key) == reference_slot(key) == binascii.crc_hqx(hashed, 0) % 16384


def test_published_slots() -> None:
    assert slot_of(b"123456789") == 0x31C3 % 16384
    assert slot_of(b"foo") == 12182
    assert slot_of(b"bar") == 5061
    assert slot_of(b"hello") == 866


@given(st.one_of(st.binary(max_size=100), st.text("{}ab", max_size=12).map(str.encode)))
def test_every_key_has_the_slot_of_the_reference(key: bytes) -> None:
    assert slot_of(key) == reference_slot(key)


@given(st.integers(0, 2**16 - 1), st.binary(max_size=50))
def test_physical_keys_are_those_of_the_format(space: int, key: bytes) -> None:
    head = space.to_bytes(2, "big")
    assert physical_key(space, key, False) == head + key
    assert physical_key(space, key, True) == head + slot_of(key).to_bytes(2, "big") + key


@pytest.mark.parametrize("space", [-1, 2**16])
def test_a_space_that_does_not_fit_is_refused(space: int) -> None:
    with pytest.raises(OverflowError):
        physical_key(space, b"k", False)


@pytest.mark.parametrize("key", [None, "k", bytearray(b"k"), 5])
def test_keys_are_plain_bytes(key: object) -> None:
    table = RouteTable([(b"", 1, 1)])
    for call in (slot_of, table.find, lambda key: physical_key(1, key, True)):
        with pytest.raises(TypeError):
            call(key)  # type: ignore[arg-type]
