# On the path of a put.
"""Distributions of sizes and times in a fixed number of buckets: one a power of two, so that a record is one addition.

A ``Histogram`` belongs to the thread that records into it, and grows no larger however much it sees. A ``Distribution`` is what
it held at a moment: a plain value to read, print and subtract. Quantiles are as fine as the buckets: the answer is the
upper end of the bucket, never below the truth and less than twice it. This module knows no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

BUCKETS = 65
"""One for zero, and one for each length in bits of a number of 64."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often values of each size were recorded since the start, or between two moments (``since``)."""

    counts: tuple[int, ...] = (0,) * BUCKETS
    """How many values had this many bits: bucket 0 holds zeros, bucket n the values from 2**(n-1) to 2**n - 1."""
    total: int = 0
    """Their sum."""
    max: int = 0
    """The largest ever recorded; of a difference, a bound of it."""

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def p50(self) -> int:
        return self.quantile(0.50)

    @property
    def p99(self) -> int:
        return self.quantile(0.99)

    def quantile(self, share: float) -> int:
        """A value that this share of all does not exceed, rounded up to the end of its bucket; 0 where there is none."""
        left = share * self.count
        for bits, held in enumerate(self.counts):
            left -= held
            if held and left <= 0:
                return min((1 << bits) - 1, self.max)
        return self.max

    def since(self, earlier: Distribution) -> Distribution:
        """What was recorded after ``earlier``, a former state of the same."""
        counts = tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        highest = max((bits for bits, held in enumerate(counts) if held), default=0)
        largest = min(self.max, (1 << highest) - 1)
        return Distribution(counts, self.total - earlier.total, largest)

    def __str__(self) -> str:
        return f"{self.count} times, p50 {self.p50}, p99 {self.p99}, max {self.max}"


class Histogram:
    """Counts values as they come."""

    __slots__ = ("_counts", "_total", "max")

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._total = 0
        self.max = 0

    def record(self, value: int) -> None:
        """One value, from 0 up to 2**64 - 1; what is below or above counts as the nearest of these."""
        if value > self.max:
            self.max = value
        elif value < 0:
            value = 0
        self._total += value
        self._counts[min(value.bit_length(), BUCKETS - 1)] += 1

    def seen(self) -> Distribution:
        """Everything recorded so far."""
        return Distribution(tuple(self._counts), self._total, self.max)
