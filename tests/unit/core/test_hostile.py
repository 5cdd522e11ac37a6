"""Hostile bytes: every truncation, every flipped bit, and content that lies under sums that fit.

The compiled checks must find the fault that the spec finds, in memory that ends where the bytes end.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft import _core
from multiraft._core import Fault
from multiraft.errors import LogCorrupt
from tests.spec import codec
from tests.unit.core import cases, strategies
from tests.unit.core.capi import Guarded
from tests.unit.core.judging import (
    BATCH_BYTES,
    DECODERS,
    FRAME_BYTES,
    IDS,
    RUN_BYTES,
    SUBJECTS,
    agree_on_batch,
    agree_on_frame,
    agree_on_run,
    fault_of,
)

# -- every truncation, every flipped bit -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("agree", "data"), SUBJECTS, ids=IDS)
def test_p82_every_truncation_is_refused(memory: Guarded, agree: Any, data: bytes) -> None:
    for length in range(len(data)):
        assert agree(memory, data[:length]) != Fault.FAULT_NONE
        with pytest.raises(LogCorrupt):
            DECODERS[agree](data[:length])


@pytest.mark.parametrize(("agree", "data"), SUBJECTS, ids=IDS)
def test_p82_what_follows_is_left_alone_by_the_checks_and_refused_by_the_doors(
    memory: Guarded, agree: Any, data: bytes
) -> None:
    assert agree(memory, data + b"\0") == Fault.FAULT_NONE
    with pytest.raises(LogCorrupt, match="FAULT_SHAPE"):
        DECODERS[agree](data + b"\0")


def read_whole_batch(data: bytes) -> None:
    for run in _core.decode_batch(data).runs:
        _core.decode_run(run)


def flips(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


@pytest.mark.parametrize("data", RUN_BYTES, ids=list(cases.RUNS))
def test_p82_p91_every_flipped_bit_of_a_run_is_found(memory: Guarded, data: bytes) -> None:
    """No bit is unprotected: the header's lie under head_crc, the body's under body_crc, and both sums are compared."""
    for flipped in flips(data):
        assert agree_on_run(memory, flipped) != Fault.FAULT_NONE
        with pytest.raises(LogCorrupt):
            _core.decode_run(flipped)


@pytest.mark.parametrize("data", BATCH_BYTES, ids=list(cases.BATCHES))
def test_p82_p91_every_flipped_bit_of_a_batch_is_found(memory: Guarded, data: bytes) -> None:
    """No bit is unprotected: header and directory by the batch's own sums, the rest by the sums of its runs."""
    count = codec.BATCH_HEADER.unpack_from(data)[4]
    runs_at = codec.BATCH_HEADER.size + count * codec.DIRECTORY_ITEM.size
    for at, flipped in enumerate(flips(data)):
        own = agree_on_batch(memory, flipped)
        assert (own == Fault.FAULT_NONE) == (at // 8 >= runs_at)
        with pytest.raises(LogCorrupt):
            read_whole_batch(flipped)


@pytest.mark.parametrize("data", FRAME_BYTES, ids=list(cases.FRAMES))
def test_p82_p91_every_flipped_bit_of_a_frame_is_found(memory: Guarded, data: bytes) -> None:
    """No bit is unprotected: one sum covers all but itself and the word after it, which must be zero."""
    for flipped in flips(data):
        assert agree_on_frame(memory, flipped) != Fault.FAULT_NONE


# -- sums that fit, content that does not ------------------------------------------------------------------------------------


def reseal_body(data: bytes) -> bytes:
    """A run whose two sums fit whatever its fields say."""
    fields = codec.RUN_HEADER.unpack_from(data)
    body = data[codec.RUN_HEADER.size :][: fields[6]]
    crc = codec.body_crc(fields[0], fields[1], fields[2], fields[5], fields[8], body)
    return codec.reseal_run(strategies.patched(data, codec.RUN_HEADER, 10, crc))


nasty_16 = st.sampled_from([0, 1, 2, 3, 7, 8, 11, 12, 255, 256, 2**15, 2**16 - 1])
nasty_32 = st.sampled_from(strategies.NASTY_32)
nasty_64 = st.sampled_from([0, 1, 7, 2**63, 2**64 - 2, 2**64 - 1])
NASTY = {"H": nasty_16, "I": nasty_32, "Q": nasty_64}


def nasty_fields(draw: st.DrawFn, data: bytes, layout: Any, at: int = 0) -> bytes:
    """One to three fields of a header replaced by what lies near limits, sizes and the ends of the numbers."""
    for _ in range(draw(st.integers(1, 3))):
        field = draw(st.integers(0, len(layout.format) - 2))
        code = layout.format[1 + field]
        value = draw(st.one_of(NASTY[code], st.integers(0, 2**64 - 1)))
        data = strategies.patched(data, layout, field, value, at)
    return data


@st.composite
def hostile_runs(draw: st.DrawFn) -> bytes:
    data = draw(strategies.encoded_runs())
    choice = draw(st.integers(0, 2))
    if choice == 0:
        return reseal_body(nasty_fields(draw, data, codec.RUN_HEADER))
    body = bytearray(data[codec.RUN_HEADER.size :])
    for _ in range(draw(st.integers(1, 3)) if body else 0):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    data = data[: codec.RUN_HEADER.size] + bytes(body)
    return reseal_body(data) if choice == 1 else data


@st.composite
def hostile_batches(draw: st.DrawFn) -> bytes:
    data = codec.encode_batch(draw(strategies.batches))
    count = codec.BATCH_HEADER.unpack_from(data)[4]
    if count and draw(st.booleans()):
        item = draw(st.integers(0, count - 1))
        at = codec.BATCH_HEADER.size + item * codec.DIRECTORY_ITEM.size
        return codec.reseal_batch(nasty_fields(draw, data, codec.DIRECTORY_ITEM, at))
    return codec.reseal_batch(nasty_fields(draw, data, codec.BATCH_HEADER))


@st.composite
def hostile_frames(draw: st.DrawFn) -> bytes:
    frame = draw(strategies.frames())
    data = codec.encode_frame(frame)
    choice = draw(st.integers(0, 2)) if frame.messages else 0
    if choice == 0:
        return codec.reseal_frame(nasty_fields(draw, data, codec.FRAME_HEADER))
    which = draw(st.integers(0, len(frame.messages) - 1))
    at = codec.FRAME_HEADER.size + sum(len(codec.encode_message(m)) for m in frame.messages[:which])
    data = nasty_fields(draw, data, codec.MESSAGE_HEADER, at)
    inside = at + codec.MESSAGE_HEADER.size
    if choice == 2 and len(data) - inside >= codec.RUN_HEADER.size:
        data = nasty_fields(draw, data, codec.RUN_HEADER, inside)
        data = data[:inside] + codec.reseal_run(data[inside:])
    return codec.reseal_frame(data)


@given(data=hostile_runs())
def test_p82_hostile_runs_are_judged_as_the_spec_does(memory: Guarded, data: bytes) -> None:
    agree_on_run(memory, data)


@given(data=hostile_batches())
def test_p82_hostile_batches_are_judged_as_the_spec_does(memory: Guarded, data: bytes) -> None:
    if agree_on_batch(memory, data) == Fault.FAULT_NONE:
        decoded = fault_of(lambda data: codec.decode_batch(data) and None, data)
        with pytest.raises(LogCorrupt) if decoded else nullcontext():
            _core.decode_batch(data)


@given(data=hostile_frames())
def test_p82_hostile_frames_are_judged_as_the_spec_does(memory: Guarded, data: bytes) -> None:
    agree_on_frame(memory, data)


@given(data=st.binary(max_size=300))
def test_p82_any_bytes_are_judged_as_the_spec_does(memory: Guarded, data: bytes) -> None:
    for agree, decode in DECODERS.items():
        agree(memory, data)
        with pytest.raises(LogCorrupt):
            decode(data)


@pytest.mark.slow
def test_p82_many_inputs_that_begin_soundly_and_go_on_damaged(memory: Guarded) -> None:
    """Two hundred thousand judgements: vectors with a random end, vectors cut and joined, vectors with wrong bytes."""
    chance = random.Random(82)
    vectors = RUN_BYTES + BATCH_BYTES + FRAME_BYTES
    inside = [codec.encode_run(cases.REWRITTEN), *cases.BATCHES["two groups"].runs]
    sound = tuple(vectors + inside)
    for _ in range(66_667):
        data = chance.choice(vectors)
        cut = chance.randrange(len(data))
        choice = chance.randrange(3)
        if choice == 0:
            data = data[:cut] + chance.randbytes(chance.randrange(80))
        elif choice == 1:
            other = chance.choice(vectors)
            data = data[:cut] + other[chance.randrange(len(other)) :]
        else:
            damaged = bytearray(data)
            for _ in range(chance.randrange(1, 4)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            data = bytes(damaged)
        if data.startswith(sound):
            continue  # what was cut off was put back, or a run was cut out whole
        assert memory.run_check(data) and memory.frame_check(data), data.hex()
        if memory.batch_check(data) == Fault.FAULT_NONE:  # the damage is in a run
            with pytest.raises(LogCorrupt):
                read_whole_batch(data)


@pytest.mark.parametrize("limit", [64, 1024, 2**20])
def test_p82_a_length_over_the_callers_limit_is_refused_before_anything_is_read(
    memory: Guarded, limit: int
) -> None:
    """Only the header is there; a check that believed its length would run into the guard page."""
    for length in (limit + 1, 2**25, 2**25 + 1, 2**32 - 1):
        head = strategies.patched(FRAME_BYTES[0], codec.FRAME_HEADER, 1, length)[:64]
        assert memory.frame_check(head, limit) == Fault.FAULT_LIMIT
    assert memory.frame_check(FRAME_BYTES[0], 64) == Fault.FAULT_NONE


@pytest.mark.parametrize("frame", FRAME_BYTES)
def test_p82_a_damaged_header_is_no_reason_to_wait_for_more(memory: Guarded, frame: bytes) -> None:
    """Only ``crc`` may be wrong unseen while the rest of a frame is on its way."""
    for bit in range(64 * 8):
        damaged = bytearray(frame[:64])
        damaged[bit // 8] ^= 1 << bit % 8
        fault = agree_on_frame(memory, bytes(damaged))
        assert fault not in (Fault.FAULT_SHORT, Fault.FAULT_NONE) or bit // 8 in range(56, 60), bit
