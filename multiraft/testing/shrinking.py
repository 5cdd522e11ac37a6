"""Make a failing run smaller: the fewest faults that still make it fail, then the shortest.

Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 2002) over the list of
faults, then one by one. Each try is a fresh run of the seed with other faults, so a smaller list is another story with the same
end. A smaller list counts where it fails in the same way: what is found must be what was looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from multiraft.testing.corpus import Report, Task, with_faults
from multiraft.testing.nemesis import Fault
from multiraft.testing.simulation import shorter

SECONDS_AFTER = 1.0
"""How long a run made shorter goes on after its last fault, at least."""
DETAILS = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(\.\d+)?|\([^)]*\)|\{[^}]*\}")

Faults = tuple[Fault, ...]


def kind_of(reason: str) -> str:
    """A reason without names and numbers: what two failures of one cause have in common."""
    return DETAILS.sub("#", reason)[:80]


@dataclass(slots=True)
class Shrinking:
    """The making smaller of one task. ``attempt`` runs one; ``told`` hears after each try how many faults are left."""

    task: Task
    """Its faults are the smallest list so far."""
    reason: str
    attempt: Callable[[Task], Report]
    told: Callable[[int, int], None] = lambda tries, left: None
    tries: int = 0
    others: dict[str, Task] = field(default_factory=dict)
    """Other failures that were met on the way, by their kind, with the smallest task of each."""
    _seen: dict[Task, bool] = field(default_factory=dict)

    @property
    def faults(self) -> Faults:
        return self.task.faults or ()

    def shrink(self) -> None:
        """Leave out whatever can be."""
        if self.faults and self._take(()):
            return
        self._halves()
        self._one_by_one()

    def shorten(self) -> None:
        """Let what is left last as short as can be, and the run end soon after the last of it."""
        for position, fault in enumerate(self.faults):
            for_ms = fault.for_ms
            while for_ms > 1:
                for_ms //= 2
                made = replace(self.faults[position], for_ms=for_ms)
                changed = (*self.faults[:position], made, *self.faults[position + 1 :])
                if not self._take(changed):
                    break
        ends = [(fault.at_ms + fault.for_ms) / 1000 for fault in self.faults]
        seconds = max(ends, default=0.0) + SECONDS_AFTER
        while seconds < self.task.settings.seconds:
            if self._fails(replace(self.task, settings=shorter(self.task.settings, seconds))):
                break
            seconds *= 2

    def _halves(self) -> None:
        parts = 2
        while len(self.faults) >= 2:
            faults = self.faults
            cuts = [round(len(faults) * part / parts) for part in range(parts + 1)]
            chunks = [faults[low:high] for low, high in pairwise(cuts)]
            if any(self._take(chunk) for chunk in chunks):
                parts = 2
            elif parts > 2 and any(
                self._take(faults[:low] + faults[high:]) for low, high in pairwise(cuts)
            ):
                parts = max(parts - 1, 2)
            elif parts < len(faults):
                parts = min(len(faults), parts * 2)
            else:
                return

    def _one_by_one(self) -> None:
        position = 0
        while position < len(self.faults):
            if not self._take(self.faults[:position] + self.faults[position + 1 :]):
                position += 1
            else:
                position = 0

    def _take(self, faults: Faults) -> bool:
        return self._fails(with_faults(self.task, faults))

    def _fails(self, task: Task) -> bool:
        """Does it fail in the same way? If so, it is the task from here on."""
        known = self._seen.get(task)
        if known is not None:
            return known
        report = self.attempt(task)
        self.tries += 1
        same = bool(report.reason) and kind_of(report.reason) == kind_of(self.reason)
        self._seen[task] = same
        if same:
            self.task, self.reason = task, report.reason
        elif report.reason:
            smallest = self.others.get(kind_of(report.reason), task)
            if len(task.faults or ()) <= len(smallest.faults or ()):
                self.others[kind_of(report.reason)] = task
        self.told(self.tries, len(self.faults))
        return same
