"""The compiled codec against the spec, on what is sound: both make the same bytes and take them back to the same values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from multiraft import _batch, _core, _frames
from multiraft._core import Fault, RunKind
from multiraft.errors import InvariantViolation, LogCorrupt, TooLarge
from tests.spec import codec
from tests.unit.core import cases, strategies
from tests.unit.core.capi import Guarded
from tests.unit.core.judging import BATCH_BYTES, FRAME_BYTES, RUN_BYTES

# -- what is sound ------------------------------------------------------------------------------------------------------


@given(strategies.runs())
def test_runs_are_the_same_both_ways(run: codec.Run) -> None:
    data = codec.encode_run(run)
    assert _core.encode_run(**run._asdict()) == data
    assert _core.decode_run(data) == codec.decode_run(data) == run


@given(strategies.batches)
def test_batches_are_the_same_both_ways(batch: codec.Batch) -> None:
    data = codec.encode_batch(batch)
    assert _batch.encode_batch(**batch._asdict()) == data
    assert _core.decode_batch(data) == codec.decode_batch(data) == batch


@given(strategies.frames())
def test_frames_are_the_same_both_ways(frame: codec.Frame) -> None:
    data = codec.encode_frame(frame)
    parts = [_frames.encode_message(**message._asdict()) for message in frame.messages]
    assert parts == [codec.encode_message(message) for message in frame.messages]
    link = cases.link_of(frame)
    made = _frames.encode_frame(parts + [frame.body] * bool(frame.body), kind=frame.kind, **link)
    assert made == data
    assert _frames.decode_frame(data) == codec.decode_frame(data) == frame


def test_the_largest_entry_and_the_most_entries_are_taken() -> None:
    largest = bytes(_core.ENTRY_BYTES_MAX)
    run = _core.encode_run(group=1, first=1, term=1, entries=[largest])
    assert _core.decode_run(run).entries == (largest,)
    wrapped = _core.encode_run(
        group=1, first=1, term=1, kind=RunKind.RUN_REWRITE, entries=[bytes(8) + run]
    )
    assert _core.decode_run(wrapped).entries == (bytes(8) + run,)
    many = _core.encode_run(group=1, first=1, term=1, entries=[b""] * _core.RUN_ENTRIES_MAX)
    assert len(_core.decode_run(many).entries) == _core.RUN_ENTRIES_MAX


@pytest.mark.parametrize(
    "entries",
    [
        [bytes(_core.ENTRY_BYTES_MAX + 1)],
        [bytes(_core.ENTRY_BYTES_MAX)] * 2,
        [b""] * (_core.RUN_ENTRIES_MAX + 1),
    ],
    ids=["entry", "body", "count"],
)
def test_what_is_over_a_limit_is_not_made(entries: list[bytes]) -> None:
    with pytest.raises(TooLarge):
        _core.encode_run(group=1, first=1, term=1, entries=entries)


@pytest.mark.parametrize(
    "wrong",
    [
        {"entries": []},
        {"entries": [b"x"], "first": 0},
        {"entries": [b"x", b"y"], "first": 2**64 - 1},
        {"entries": [b"x"], "kind": 0},
        {"entries": [b"x"], "kind": 12},
        {"entries": [b"x"], "kind": RunKind.RUN_TRUNCATE},
        {"entries": [b"x", b"y"], "kind": RunKind.RUN_BASE},
        {"entries": [], "kind": RunKind.RUN_HARD_STATE},
    ],
    ids=str,
)
def test_what_no_reader_would_take_is_not_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvariantViolation):
        _core.encode_run(**{"group": 1, "first": 1, "term": 1, **wrong})


# -- one group is never taken for another ----------------------------------------------------------------------------------


def test_p62_a_run_under_another_groups_name_is_refused_in_a_batch() -> None:
    batch = codec.encode_batch(cases.BATCHES["two groups"])
    for item, field in [(1, 0), (2, 0), (0, 1), (3, 1)]:
        at = codec.BATCH_HEADER.size + item * codec.DIRECTORY_ITEM.size
        value = 9 if field == 0 else RunKind.RUN_BASE
        swapped = codec.reseal_batch(
            strategies.patched(batch, codec.DIRECTORY_ITEM, field, value, at)
        )
        assert _core.check_batch(swapped) == Fault.FAULT_NONE
        with pytest.raises(LogCorrupt, match="FAULT_SHAPE"):
            _core.decode_batch(swapped)


def test_p62_a_run_relabelled_for_another_group_fails_its_own_sum(memory: Guarded) -> None:
    """Whoever rewrites a header for a copy cannot carry entries over to another group, index or term."""
    run = codec.encode_run(cases.RUNS["entries"])
    for field in (0, 1, 2):  # group, first, term
        relabelled = codec.reseal_run(strategies.patched(run, codec.RUN_HEADER, field, 999))
        assert memory.run_check(relabelled, check_body=False) == Fault.FAULT_NONE
        assert memory.run_check(relabelled) == Fault.FAULT_CHECKSUM
    for field in (3, 4, 7):  # prev_term, commit, from_replica: these may differ between copies
        assert not memory.run_check(
            codec.reseal_run(strategies.patched(run, codec.RUN_HEADER, field, 999))
        )


def test_p62_a_message_never_carries_a_run_of_another_group(memory: Guarded) -> None:
    message = cases.MESSAGES["append with a run"]
    for group in (6, 8, 2**64 - 1):
        frame = codec.encode_frame(codec.Frame(1, messages=(message._replace(group=group),)))
        assert memory.frame_check(frame) == Fault.FAULT_SHAPE
        with pytest.raises(InvariantViolation):
            _frames.encode_message(**message._replace(group=group)._asdict())


@pytest.mark.parametrize("kind", [*strategies.RECORD_KINDS, RunKind.RUN_TRUNCATE])
def test_a_record_about_a_replica_is_never_taken_from_a_peer(
    memory: Guarded, kind: RunKind
) -> None:
    entries = () if kind == RunKind.RUN_TRUNCATE else (b"forged",)
    run = codec.encode_run(codec.Run(7, 1, 1, 0, 0, 1, kind, entries))
    message = cases.MESSAGES["append with a run"]._replace(body=run)
    frame = codec.encode_frame(codec.Frame(1, messages=(message,)))
    assert memory.frame_check(frame) == Fault.FAULT_KIND


# -- the doors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", [_core.decode_run, _core.decode_batch, _frames.decode_frame])
def test_the_doors_take_any_buffer_and_nothing_else(decode: Callable[[Any], Any]) -> None:
    for wrong in (None, 7, "text"):
        with pytest.raises(TypeError):
            decode(wrong)
    data = {
        _core.decode_run: RUN_BYTES[0],
        _core.decode_batch: BATCH_BYTES[1],
        _frames.decode_frame: FRAME_BYTES[1],
    }[decode]
    assert decode(bytearray(data)) == decode(memoryview(data)) == decode(data)


def test_frames_and_messages_over_the_limit_are_not_made() -> None:
    with pytest.raises(TooLarge):
        _frames.encode_message(kind=14, body=bytes(_core.FRAME_BYTES_MAX - 64 - 72 + 1))
    part = bytes(_core.FRAME_BYTES_MAX // 2 + 1)
    with pytest.raises(TooLarge):
        _frames.encode_frame([part, part], kind=3)


@pytest.mark.parametrize(
    "wrong", [{"kind": 0}, {"kind": 17}, {"kind": 1, "flags": 8}, {"kind": 1, "flags": 4}], ids=str
)
def test_a_message_that_no_peer_would_take_is_not_made(wrong: dict[str, int]) -> None:
    with pytest.raises(InvariantViolation):
        _frames.encode_message(**wrong)


def test_only_messages_are_counted() -> None:
    hello = codec.encode_frame(cases.FRAMES["hello"])
    counted = codec.reseal_frame(strategies.patched(hello, codec.FRAME_HEADER, 4, 1))
    assert _core.check_frame(counted) == Fault.FAULT_SHAPE
