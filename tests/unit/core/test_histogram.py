"""Histograms against the list of what was recorded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.histogram import BUCKETS, Distribution, Histogram

VALUES = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 100), max_size=60)


def recorded(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(VALUES)
def test_a_quantile_is_above_the_truth_and_below_twice_it(values: list[int]) -> None:
    seen = recorded(values).seen()
    assert seen.count == len(values) and seen.total == sum(values)
    assert seen.max == max(values, default=0)
    ordered = sorted(values)
    for share in (0.0, 0.5, 0.9, 0.99, 1.0):
        if not ordered:
            assert seen.quantile(share) == 0
            continue
        at = max(0, -int(-share * len(ordered) // 1) - 1)
        true = ordered[at]
        assert true <= seen.quantile(share) <= max(2 * true - 1, true)


@given(VALUES, VALUES)
def test_a_difference_is_what_came_between(before: list[int], after: list[int]) -> None:
    histogram = recorded(before)
    earlier = histogram.seen()
    for value in after:
        histogram.record(value)
    between = histogram.seen().since(earlier)
    assert between.counts == recorded(after).seen().counts and between.total == sum(after)
    assert between.max >= max(after, default=0)


@pytest.mark.parametrize(
    ("value", "bucket"), [(-5, 0), (0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (2**70, BUCKETS - 1)]
)
def test_what_is_out_of_range_counts_as_the_nearest(value: int, bucket: int) -> None:
    assert recorded([value]).seen().counts[bucket] == 1


def test_it_reads_well() -> None:
    assert str(recorded([1, 2, 100]).seen()) == "3 times, p50 3, p99 100, max 100"
    assert str(Distribution()) == "0 times, p50 0, p99 0, max 0"
    assert recorded([1, 2]).seen().mean == 1.5 and Distribution().mean == 0.0
