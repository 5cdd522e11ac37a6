"""CRC-32C by instruction and by table, against another implementation and against published values."""

from __future__ import annotations

import random

import google_crc32c
import pytest

from multiraft._core import crc32c, crc32c_by_instruction, crc32c_table
from tests.spec import codec

# From RFC 3720 (iSCSI), appendix B.4.
PUBLISHED = [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
]
WAYS = [crc32c, crc32c_table, codec.crc32c]


@pytest.mark.parametrize("way", WAYS, ids=["core", "table", "spec"])
@pytest.mark.parametrize(("data", "expected"), PUBLISHED)
def test_published_values(way, data: bytes, expected: int) -> None:  # type: ignore[no-untyped-def]
    assert way(data) == expected


def test_every_length_and_alignment_agrees_with_another_implementation() -> None:
    data = random.Random(32).randbytes(4000)
    # Lengths around each step of the compiled loops: eight bytes, and three lanes of 256.
    lengths = [*range(70), *range(760, 785), *range(1530, 1545), 2304, 3000]
    for start in range(17):
        for length in lengths:
            piece = data[start : start + length]
            expected = google_crc32c.value(piece)
            # A view keeps the alignment that a slice of bytes would lose.
            assert crc32c(memoryview(data)[start : start + length]) == expected
            assert crc32c_table(piece) == expected


def test_large_data_is_summed_without_the_gil_to_the_same_value() -> None:
    data = random.Random(33).randbytes(1_000_003)
    assert crc32c(data) == crc32c_table(data) == google_crc32c.value(data)


def test_a_sum_can_be_continued() -> None:
    data = random.Random(34).randbytes(100)
    for cut in range(101):
        head, tail = data[:cut], data[cut:]
        assert crc32c(tail, crc32c(head)) == crc32c_table(tail, crc32c_table(head)) == crc32c(data)


def test_any_buffer_of_bytes_is_taken_and_nothing_else() -> None:
    data = bytes(range(100))
    for buffer in (data, bytearray(data), memoryview(data)):
        assert crc32c(buffer) == crc32c_table(buffer) == crc32c(data)
    for wrong in (5, "text", None, memoryview(data)[::2]):
        for way in (crc32c, crc32c_table):
            with pytest.raises((TypeError, BufferError)):
                way(wrong)  # type: ignore[arg-type]


def test_the_instruction_is_used_where_the_machine_says_that_it_has_it() -> None:
    try:
        with open("/proc/cpuinfo") as stream:
            flags = stream.read()
    except FileNotFoundError:
        pytest.skip("no /proc/cpuinfo to compare with")
    if "vendor_id" not in flags:
        pytest.skip("not an x86 machine")
    assert crc32c_by_instruction() == ("sse4_2" in flags)
