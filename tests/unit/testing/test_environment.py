"""The simulated environment against LMDB itself: whatever the stores can see of one is the same of both."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.testing.pair import Pair

KEYS = st.one_of(
    st.integers(0, 40).map(lambda number: b"%02d" % number),
    st.binary(min_size=1, max_size=3),
    st.sampled_from([b"", b"\xff" * 511, b"\0", b"k" * 512]),
)
VALUES = st.one_of(
    st.binary(max_size=8),
    st.integers(0, 3).map(lambda pages: b"v" * (pages * 1500)),
)
DATABASE = st.integers(0, 1)
SLOT = st.integers(0, 2)

STEPS = st.one_of(
    st.tuples(st.just("begin")),
    st.tuples(st.just("end"), st.booleans()),
    st.tuples(st.just("at"), DATABASE),
    st.tuples(st.just("put"), DATABASE, KEYS, VALUES, st.booleans(), st.booleans()),
    st.tuples(st.just("delete"), DATABASE, KEYS),
    st.tuples(st.just("get"), DATABASE, KEYS),
    st.tuples(st.just("count"), DATABASE),
    st.tuples(st.just("move"), st.sampled_from(["first", "last", "next", "prev", "key", "delete"])),
    st.tuples(st.just("move"), st.just("set_range"), KEYS),
    st.tuples(
        st.just("put_many"),
        st.lists(st.tuples(KEYS.filter(lambda key: 0 < len(key) < 512), VALUES), max_size=6),
    ),
    st.tuples(st.just("walk"), st.sampled_from(["iternext", "iterprev"]), st.integers(0, 9)),
    st.tuples(st.just("read"), SLOT),
    st.tuples(st.just("look"), SLOT, DATABASE, KEYS.filter(lambda key: len(key) < 512)),
    st.tuples(st.just("forget"), SLOT),
    st.tuples(st.just("grow")),
    st.tuples(st.just("reopen")),
)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(STEPS, max_size=60))
def test_the_simulated_environment_shows_what_lmdb_shows(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder))
        try:
            pair.step("begin")
            pair.step("at", 0)
            for step in steps:
                pair.step(*step)
            pair.step("end", True)
            pair.step("all")
        finally:
            pair.close()
