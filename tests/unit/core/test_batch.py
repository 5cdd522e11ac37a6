"""The batch builder: which runs go into which batch, what stays in memory for how long, and who may write where."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft import _batch, _core
from multiraft._batch import BatchBuilder
from multiraft._core import BATCH_RUNS_MAX, BATCH_SEAL_BYTES, RUN_BYTES_MAX, RunKind
from multiraft.errors import InvariantViolation, TooLarge
from tests.spec import codec
from tests.unit.core import capi, strategies


def run_of(group: int, size: int, first: int = 1) -> bytes:
    """A run of one entry, `size` bytes long with its header."""
    payload = bytes([group % 251]) * (size - codec.RUN_HEADER.size - 4)
    return _core.encode_run(group=group, first=first, term=1, entries=[payload])


def sealed(runs: list[bytes], sequence: int = 1, store_id: int = 5) -> list[bytes]:
    builder = BatchBuilder()
    for run in runs:
        builder.add_run(run)
    assert builder.pending_runs == len(runs)
    assert builder.pending_bytes == sum(map(len, runs))
    return builder.seal(sequence, store_id)


def expected(runs: list[bytes], sequence: int = 1, store_id: int = 5) -> list[bytes]:
    return [
        codec.encode_batch(codec.Batch(sequence + at, store_id, tuple(batch)))
        for at, batch in enumerate(codec.split_runs(runs))
    ]


@given(st.lists(strategies.encoded_runs(), max_size=8), st.integers(1, 2**64 - 40))
def test_batches_are_those_of_the_spec(runs: list[bytes], sequence: int) -> None:
    assert sealed(runs, sequence) == expected(runs, sequence)


SIZES = st.one_of(
    st.integers(68, 9000),
    st.sampled_from([BATCH_SEAL_BYTES + d for d in (-1, 0, 1)]),
    st.sampled_from([BATCH_SEAL_BYTES // 2, BATCH_SEAL_BYTES * 2, 4096, 4097]),
)


@given(st.lists(SIZES, max_size=12))
def test_batches_of_large_runs_are_those_of_the_spec(sizes: list[int]) -> None:
    runs = [run_of(at, size) for at, size in enumerate(sizes)]
    batches = sealed(runs)
    assert [_core.decode_batch(batch).runs for batch in batches] == [
        tuple(batch) for batch in codec.split_runs(runs)
    ]


@pytest.mark.slow
def test_a_batch_holds_no_more_runs_than_the_format_allows() -> None:
    """65,536 of the smallest runs are far over the sealing size, so only the count of the door can be shown to hold."""
    smallest = _core.encode_run(group=1, first=1, term=1, kind=RunKind.RUN_TRUNCATE)
    batches = sealed([smallest] * (BATCH_RUNS_MAX + 1))
    counts = [len(_core.decode_batch(batch).runs) for batch in batches]
    assert sum(counts) == BATCH_RUNS_MAX + 1
    assert max(counts) == BATCH_SEAL_BYTES // len(smallest)
    with pytest.raises(TooLarge):
        _batch.encode_batch([smallest] * (BATCH_RUNS_MAX + 1), sequence=1, store_id=1)


def test_one_batch_of_more_than_its_limit_is_not_made() -> None:
    half = run_of(1, 9 * 2**20 - 2**20 + 60)
    with pytest.raises(TooLarge):
        _batch.encode_batch([half, half, half], sequence=1, store_id=1)
    assert _core.decode_batch(_batch.encode_batch([half, half], sequence=1, store_id=1)).runs


def test_p62_what_many_groups_wrote_in_turn_comes_back_under_their_own_names() -> None:
    """Runs of many groups interleave over several chunks and batches, some begun and given up; none is attributed wrongly."""
    chance, builder = random.Random(62), BatchBuilder()
    door = capi.BuilderDoor(builder)
    written: dict[int, list[bytes]] = {}
    for step in range(3000):
        group = chance.randrange(1, 200)
        payload = struct.pack("<QI", group, step) + chance.randbytes(chance.randrange(300))
        run = _core.encode_run(group=group, first=step + 1, term=1, entries=[payload])
        if chance.random() < 0.2:  # a run that its writer gives up half-way
            address, _ = door.begin_run(chance.randrange(5000))
            capi.write(address, b"\xee" * 64)
        builder.add_run(run)
        written.setdefault(group, []).append(payload)
    found: dict[int, list[bytes]] = {}
    batches = builder.seal(1, 9)
    assert len(batches) > 1
    for batch in batches:
        for data in _core.decode_batch(batch).runs:
            run = _core.decode_run(data)
            found.setdefault(run.group, []).extend(run.entries)
    assert found == written
    assert all(struct.unpack_from("<Q", p)[0] == g for g, each in found.items() for p in each)


def test_sequences_go_on_from_batch_to_batch_and_start_at_one() -> None:
    runs = [run_of(at, BATCH_SEAL_BYTES) for at in range(3)]
    decoded = [_core.decode_batch(batch) for batch in sealed(runs, 41, 77)]
    assert [(batch.sequence, batch.store_id) for batch in decoded] == [(41, 77), (42, 77), (43, 77)]
    builder = BatchBuilder()
    builder.add_run(runs[0])
    for refused in (
        lambda: builder.seal(0, 1),
        lambda: _batch.encode_batch([], sequence=0, store_id=1),
    ):
        with pytest.raises(InvariantViolation):
            refused()
    assert builder.pending_runs == 1, "what could not be sealed is kept"


def test_an_empty_builder_seals_nothing_and_can_be_used_again() -> None:
    builder = BatchBuilder()
    assert builder.seal(1, 1) == []
    for _ in range(3):
        builder.add_run(run_of(1, 100))
        assert len(builder.seal(1, 1)) == 1
        assert (builder.pending_runs, builder.pending_bytes) == (0, 0)


def test_a_run_that_is_not_sound_is_not_taken() -> None:
    builder, run = BatchBuilder(), run_of(1, 100)
    for wrong in (run[:-1], run + b"\0", run[:70] + b"\xff" + run[71:], b""):
        with pytest.raises(InvariantViolation):
            builder.add_run(wrong)
        with pytest.raises(InvariantViolation):
            _batch.encode_batch([run, wrong], sequence=1, store_id=1)
    assert builder.pending_runs == 0
    for other in (bytearray(run), None, 5):
        with pytest.raises(TypeError):
            builder.add_run(other)  # type: ignore[arg-type]


# -- memory -------------------------------------------------------------------------------------------------------------


def test_chunks_are_let_go_when_sealed_and_when_the_builder_goes() -> None:
    before = _core.chunk_bytes()
    builder = BatchBuilder()
    builder.add_run(run_of(1, 1000))
    assert _core.chunk_bytes() > before
    builder.seal(1, 1)
    assert _core.chunk_bytes() == before
    builder.add_run(run_of(1, 1000))
    del builder
    assert _core.chunk_bytes() == before


def test_a_small_run_pins_a_small_chunk_and_a_full_batch_little_more_than_itself() -> None:
    before = _core.chunk_bytes()
    builder = BatchBuilder()
    builder.add_run(run_of(1, 100))
    assert _core.chunk_bytes() - before <= 4096
    for at in range(BATCH_SEAL_BYTES // 1000 - 1):
        builder.add_run(run_of(at, 1000))
    assert _core.chunk_bytes() - before <= 2 * BATCH_SEAL_BYTES


def test_who_takes_a_reference_keeps_the_bytes_and_their_place() -> None:
    before = _core.chunk_bytes()
    builder = BatchBuilder()
    door, run = capi.BuilderDoor(builder), run_of(3, 500)
    address, chunk = door.begin_run(500 - codec.RUN_HEADER.size)
    capi.write(address, run)
    door.end_run(address)
    capi.chunk_take(chunk)
    for at in range(2000):  # enough to make the builder go on to other chunks
        builder.add_run(run_of(at, 300))
    builder.seal(1, 1)
    del builder, door
    assert capi.read(address, len(run)) == run
    assert chunk.contents.references == 1
    assert _core.chunk_bytes() == before + chunk.contents.capacity
    capi.chunk_drop(chunk)
    assert _core.chunk_bytes() == before


# -- what compiled callers owe ---------------------------------------------------------------------------------------------


def test_a_run_counts_when_it_is_ended_and_may_be_shorter_than_it_was_begun() -> None:
    builder = BatchBuilder()
    door, run = capi.BuilderDoor(builder), run_of(3, 500)
    address, chunk = door.begin_run(RUN_BYTES_MAX // 2)
    assert (builder.pending_runs, chunk.contents.runs, chunk.contents.size) == (0, 0, 0)
    capi.write(address, run[:60] + bytes(4) + run[64:])  # the header's sum is the builder's to make
    door.end_run(address)
    assert (builder.pending_runs, chunk.contents.runs, chunk.contents.size) == (1, 1, 500)
    assert _core.decode_batch(builder.seal(1, 1)[0]).runs == (run,)


def test_a_run_that_was_given_up_leaves_no_trace() -> None:
    builder = BatchBuilder()
    door = capi.BuilderDoor(builder)
    first, _ = door.begin_run(100)
    capi.write(first, b"\xee" * 164)
    assert builder.seal(1, 1) == []
    for size in (5000, 100, 300_000):
        address, _ = door.begin_run(size)
        capi.write(address, b"\xee" * 64)
    builder.add_run(run_of(8, 200))
    assert builder.seal(1, 5) == expected([run_of(8, 200)])


def test_only_the_run_just_begun_can_be_ended_and_only_once_and_not_longer() -> None:
    builder = BatchBuilder()
    door, run = capi.BuilderDoor(builder), run_of(3, 500)
    address, _ = door.begin_run(500 - codec.RUN_HEADER.size - 1)
    capi.write(address, run[: codec.RUN_HEADER.size])
    with pytest.raises(InvariantViolation):
        door.end_run(address)  # one byte longer than it was to be
    address, _ = door.begin_run(500)
    capi.write(address, run)
    with pytest.raises(InvariantViolation):
        door.end_run(address + 8)
    door.end_run(address)
    with pytest.raises(InvariantViolation):
        door.end_run(address)
    assert builder.seal(1, 5) == expected([run])


def test_a_run_over_the_limit_is_not_begun() -> None:
    builder = BatchBuilder()
    door = capi.BuilderDoor(builder)
    with pytest.raises(TooLarge):
        door.begin_run(RUN_BYTES_MAX + 1)
    assert builder.seal(1, 1) == []
