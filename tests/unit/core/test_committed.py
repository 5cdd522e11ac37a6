"""Committed runs: what tests put in comes out, and every chunk is let go exactly once."""

from __future__ import annotations

import gc

import pytest

from multiraft import _core
from multiraft._core import ENTRY_BYTES_MAX, RUN_ENTRIES_MAX, CommittedRuns, RunKind
from multiraft.errors import TooLarge


def filled(count: int) -> CommittedRuns:
    runs = CommittedRuns()
    for at in range(count):
        runs.append(at, at + 1, 3, RunKind.RUN_ENTRIES, [b"%d" % at, b"", b"x" * at])
    return runs


def test_what_was_appended_is_there_in_order() -> None:
    runs = CommittedRuns()
    assert len(runs) == 0 and list(runs) == []
    runs.append(7, 101, 3, RunKind.RUN_ENTRIES, [b"a", bytearray(b"bc"), memoryview(b"")])
    runs.append(2**64 - 1, 2**64 - 1, 2**64 - 1, RunKind.RUN_MEMBERSHIP, [b"change"])
    assert list(runs) == [
        (7, 101, 3, 1, [b"a", b"bc", b""]),
        (2**64 - 1, 2**64 - 1, 2**64 - 1, 2, [b"change"]),
    ]
    assert [runs.item(at) for at in range(len(runs))] == list(runs)
    assert [(runs.skip(at), runs.result_base(at)) for at in range(2)] == [(0, 0), (0, 0)]


def test_the_list_grows() -> None:
    runs = filled(1000)
    assert len(runs) == 1000
    assert [item[0] for item in runs] == list(range(1000))
    assert runs.item(999)[4] == [b"999", b"", b"x" * 999]


@pytest.mark.parametrize("at", [-1, 3, 2**40])
def test_there_is_nothing_outside(at: int) -> None:
    runs = filled(3)
    for look in (runs.item, runs.skip, runs.result_base):
        with pytest.raises(IndexError):
            look(at)


def test_clear_lets_go_of_all_that_it_held() -> None:
    before = _core.chunk_bytes()
    runs = filled(100)
    runs.done = 50
    runs.results[7, 3] = ValueError("an answer")
    results = runs.results
    assert _core.chunk_bytes() > before
    runs.clear()
    assert (len(runs), runs.done, runs.results) == (0, 0, {})
    assert results == {} or runs.results is not results, "whoever kept the results keeps them"
    assert _core.chunk_bytes() == before
    runs.clear()
    runs.append(1, 1, 1, RunKind.RUN_ENTRIES, [b"again"])
    assert list(runs) == [(1, 1, 1, 1, [b"again"])]


def test_a_list_that_goes_lets_go_of_all_that_it_held() -> None:
    before = _core.chunk_bytes()
    runs = filled(100)
    assert _core.chunk_bytes() > before
    del runs
    gc.collect()
    assert _core.chunk_bytes() == before


def test_a_list_may_grow_and_be_cleared_by_whoever_walks_it() -> None:
    runs, seen = filled(3), []
    for group, *_ in runs:
        seen.append(group)
        if group < 500:
            runs.append(group + 100, 1, 1, RunKind.RUN_ENTRIES, [b""])
    assert len(seen) == len(runs)
    seen.clear()
    for group, *_ in runs:
        seen.append(group)
        runs.clear()
    assert seen == [0]


def test_what_cannot_be_held_is_not_taken_and_leaks_nothing() -> None:
    before = _core.chunk_bytes()
    runs = CommittedRuns()
    for payloads, error in [
        ([bytes(ENTRY_BYTES_MAX)] * 2, TooLarge),
        ([b""] * (RUN_ENTRIES_MAX + 1), TooLarge),
        ([b"a", 5], TypeError),
        (None, TypeError),
    ]:
        with pytest.raises(error):
            runs.append(1, 1, 1, RunKind.RUN_ENTRIES, payloads)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        runs.append(-1, 1, 1, RunKind.RUN_ENTRIES, [b"a"])
    assert len(runs) == 0
    assert _core.chunk_bytes() == before


def test_nobody_can_make_another_kind_of_list() -> None:
    with pytest.raises(TypeError):
        type("Other", (CommittedRuns,), {})
