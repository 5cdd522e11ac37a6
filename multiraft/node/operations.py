"""What a batch is made of: operations that it does, and conditions that must hold for it to do them.

Plain values. A batch is done whole or not at all, within one shard; its conditions are judged when it is applied, against the
state that all commands before it made.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Put:
    """Write one key."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one key; it need not be there."""

    key: bytes


@dataclass(frozen=True, slots=True)
class DeleteRange:
    """Delete every key from ``start`` up to, not including, ``end``. Only in a space whose keys are kept in order."""

    start: bytes
    end: bytes


@dataclass(frozen=True, slots=True)
class ValueIs:
    """The key is there and has this value."""

    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class RevisionIs:
    """The key was last written at this revision; 0 means that it is not there."""

    key: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Absent:
    """The key is not there."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Present:
    """The key is there, whatever its value."""

    key: bytes


Operation = Put | Delete | DeleteRange
Condition = ValueIs | RevisionIs | Absent | Present


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and the revision that wrote it."""

    value: bytes
    revision: int
