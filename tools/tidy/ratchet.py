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


RATCHET: tuple[Allowed, ...] = (
    Allowed(
        "file-length",
        "multiraft/machine/kv.py",
        "the face of the state store in one page; flushes part from it when spaces come",
        size_max=430,
    ),
    Allowed(
        "function-length",
        "multiraft/machine/pages.pyx",
        "one merge of two ordered streams, whose state would only be handed around",
        name="merge_page",
        size_max=56,
    ),
    Allowed(
        "function-length",
        "multiraft/raft/log.pyx",
        "joins and cuts runs in one loop, whose state would only be handed around",
        name="log_copy_run",
        size_max=60,
    ),
    Allowed(
        "function-length",
        "tests/unit/log/test_room.py",
        "one story of a disk that fills, told in order",
        name="test_p13_a_full_disk_is_seen_before_a_commit_meets_it",
        size_max=52,
    ),
)


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
