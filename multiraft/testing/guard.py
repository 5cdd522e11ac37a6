"""A guard against state machines that are not deterministic: ``guarded(MyMachine)`` applies every command twice and compares.

The second time on a shadow: a fresh machine that was given a snapshot of the first, taken just before. So a clock, a random
number, the order of a set, and a snapshot that forgets something all show as a difference, with the command that made it. It
costs four snapshots a command: it is for tests. It cannot see what two objects in one process share, such as the hash of a string.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import msgpack

from multiraft.errors import CommandError, ConfigError
from multiraft.interfaces import StateMachine

M = TypeVar("M", bound=StateMachine)

SHOWN_BYTES_MAX = 120


class NotDeterministic(AssertionError):
    """Two machines in the same state made something different of the same command."""


def guarded(machine: type[M]) -> type[M]:
    """A class that does what ``machine`` does, and raises NotDeterministic where a second machine would do otherwise.

    For classes without arguments that keep their state in memory. Raises ConfigError for one on its own disk.
    """
    if getattr(machine, "on_disk", False):
        raise ConfigError(f"{machine.__name__} keeps its own disk: a guard can copy memory alone")

    def apply(self: M, command: bytes, index: int, term: int) -> Any:
        before = _snapshot(self)
        shadow = machine()
        shadow.restore(iter([before] if before else []))
        copied = _snapshot(shadow)
        if copied != before:
            raise NotDeterministic(
                f"{machine.__name__} before command {_shown(command)} at {index}: a machine that was restored from its snapshot "
                f"has another snapshot: {_difference(before, copied)}"
            )
        mine = _answer(machine, self, command, index, term)
        other = _answer(machine, shadow, command, index, term)
        _compare(machine.__name__, command, index, mine, other)
        after, shadow_after = _snapshot(self), _snapshot(shadow)
        if after != shadow_after:
            raise NotDeterministic(
                f"{machine.__name__} applied command {_shown(command)} at {index} twice to the same state and had two states "
                f"after it: {_difference(after, shadow_after)}"
            )
        _close(shadow)
        if isinstance(mine, BaseException):
            raise mine
        return mine

    made = type(f"Guarded{machine.__name__}", (machine,), {"apply": apply})
    return cast(type[M], made)


def _answer(machine: Any, one: Any, command: bytes, index: int, term: int) -> Any:
    """What it says, or what it raises."""
    try:
        return machine.apply(one, command, index, term)
    except Exception as error:  # compared, then raised again
        return error


def _compare(name: str, command: bytes, index: int, mine: Any, other: Any) -> None:
    if _plain(mine) != _plain(other):
        raise NotDeterministic(
            f"{name} applied command {_shown(command)} at {index} twice to the same state and answered {mine!r} and {other!r}"
        )


def _plain(answer: Any) -> object:
    """An answer as it would travel; of an error its class and words."""
    if isinstance(answer, Exception):
        kind = CommandError if isinstance(answer, CommandError) else type(answer)
        return kind.__name__, str(answer)
    try:
        return msgpack.packb(answer)
    except (TypeError, ValueError, OverflowError):
        return repr(answer)  # no plain value: its caller gets InvalidResult


def _snapshot(machine: StateMachine) -> bytes:
    chunks: Iterable[bytes] = machine.snapshot()
    return b"".join(chunks)


def _difference(one: bytes, other: bytes) -> str:
    """Both, from a little before where they part."""
    at = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
    start = max(0, at - 16)
    return f"from byte {at} on {_shown(one[start:])} and {_shown(other[start:])}"


def _shown(data: bytes) -> str:
    return repr(data[:SHOWN_BYTES_MAX]) + ("..." if len(data) > SHOWN_BYTES_MAX else "")


def _close(machine: StateMachine) -> None:
    close = getattr(machine, "close", None)
    if close is not None:
        close()
