"""The exceptions to the tidy rules. Each has a reason, covers no more than it says, and goes when it is not needed.

A new entry is a decision that a reviewer sees. An entry that matches nothing any more is itself a violation, so the list
only ever describes what is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tools.tidy.source import Violation


@dataclass(frozen=True, slots=True)
class Allowed:
    """One exception: `name` narrows it to one function or word of the file, `size_max` is as far as it may grow."""

    rule: str
    path: str
    reason: str
    name: str = ""
    size_max: int = 0


RATCHET: tuple[Allowed, ...] = ()


def covers(allowed: Allowed, violation: Violation) -> bool:
    return (
        allowed.rule == violation.rule
        and allowed.path == violation.path
        and allowed.name in ("", violation.name)
        and violation.size <= allowed.size_max
    )


def beyond_ratchet(violations: Iterable[Violation], ratchet: Iterable[Allowed]) -> list[Violation]:
    """What no entry covers, and each entry that covers nothing or gives no reason."""
    found, entries = list(violations), list(ratchet)
    left = [v for v in found if not any(covers(entry, v) for entry in entries)]
    for entry in entries:
        what = f"{entry.rule} {entry.name}".strip()
        if not any(covers(entry, violation) for violation in found):
            left.append(
                Violation(
                    "ratchet",
                    entry.path,
                    0,
                    f"the exception for '{what}' is not needed, or too small",
                )
            )
        if len(entry.reason.split()) < 4:
            left.append(
                Violation("ratchet", entry.path, 0, f"the exception for '{what}' gives no reason")
            )
    return left
