"""What a worker does with one user's machine: bring it up, apply some entries, answer reads. Plain functions that may block.

A machine is somebody else's code: whatever it raises is caught here and handed back as a value, so that the one who submitted
the job decides what it means. A function here touches the machine and what it was given, never what the loop owns. The machine
of a group is only ever used by one job at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multiraft.errors import CommandError, FormatUnsupported, StorageError
from multiraft.interfaces import Disk, StateMachine
from multiraft.machine.plain import plain_error, plain_result
from multiraft.machine.snapshot import Kind, check_snapshot, read_chunks
from multiraft.machine.states import At, State, States, decode_note, write_state

COMMAND_VERSION = 1
"""The first byte of every command of a user's group in the log; an empty entry is a leader's own."""

COMMAND_BYTES_MAX = 8 * 1024 * 1024 - 4096
"""A command fits into one entry of the log, with room for what will stand before it."""

APPLY_NS_MAX = 5_000_000
"""A job goes on with further entries for so long; then others get the worker."""

Factory = Callable[..., StateMachine]


@dataclass(frozen=True, slots=True)
class Piece:
    """Adjacent entries of one group under one term, to be applied. ``kind`` is a ``_core.RunKind``."""

    first: int
    term: int
    kind: int
    payloads: list[bytes]

    @property
    def last(self) -> int:
        return self.first + len(self.payloads) - 1


@dataclass(slots=True)
class Applied:
    """What became of some pieces: ``done`` entries were applied, with their results where somebody wants them.

    ``told_index`` is that of the last command among them, 0 where there was none. ``error`` is what the machine raised at the
    entry after those, which is not an answer.
    """

    done: int = 0
    told_index: int = 0
    results: list[Any] | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A machine that was brought up, and the index of the last command that it holds: it may be past its ``state``."""

    machine: Any
    told_index: int
    state: State | None


def encode_command(command: bytes) -> bytes:
    """A user's command as it stands in the log."""
    return b"\x01" + command


def unreadable_by_users(command: bytes) -> FormatUnsupported | None:
    """Why an entry that another node asks for cannot be one of a user's group: it would stop every replica of it."""
    if command[:1] == b"\x01":
        return None
    return FormatUnsupported(f"a command of version {command[:1]!r} for a machine of a user")


def on_disk(factory: Factory) -> bool:
    """Does this kind of machine keep its own disk?"""
    return bool(getattr(factory, "on_disk", False))


def on_loop(factory: Factory) -> bool:
    """Does it ask for the loop, since it is tiny?"""
    return bool(getattr(factory, "on_loop", False))


def bring_up(
    factory: Factory, group: int, machine: str, state: State | None, states: States, old: Any
) -> Running:
    """Make a machine and give it what is durable of it. Raises whatever is wrong with it."""
    if old is not None:
        close_machine(old)
    theirs, told_index = decode_note(state.info) if state is not None else (machine, 0)
    if theirs != machine and state is not None:
        raise StorageError(f"{state.path.name} holds a machine of kind {theirs!r}, not {machine!r}")
    if on_disk(factory):
        return _bring_up_own(factory, group, machine, state, told_index, states)
    made = factory()
    if state is not None:
        if check_snapshot(states.disk, state.path).kind != Kind.BYTES:
            raise StorageError(
                f"{state.path.name} is of a machine that kept its own disk; {machine!r} does not"
            )
        made.restore(read_chunks(states.disk, state.path))
    return Running(made, told_index, state)


def _bring_up_own(
    factory: Factory,
    group: int,
    machine: str,
    state: State | None,
    told_index: int,
    states: States,
) -> Running:
    directory = states.own(group)
    states.disk.make_directory(directory)
    made: Any = factory(directory)
    if state is not None and check_snapshot(states.disk, state.path).kind == Kind.BYTES:
        if made.applied_index() < told_index:  # received, and not taken over yet - or not wholly
            made.restore(read_chunks(states.disk, state.path))
            made.sync()
        _require_told(made, told_index)
        info = state.info
        at = At(info.index, info.term, info.membership, told_index)
        state = write_state(states.disk, state.path, Kind.APPLIED, group, machine, at)
    _require_told(made, told_index)
    return Running(made, made.applied_index(), state)


def _require_told(machine: Any, told_index: int) -> None:
    if machine.applied_index() < told_index:
        raise StorageError(
            f"the machine's own disk holds commands up to {machine.applied_index()}, but the log begins after {told_index}"
        )


def close_machine(machine: Any) -> None:
    """Let a machine give up what it holds, where it says how."""
    close = getattr(machine, "close", None)
    if close is not None:
        close()


def apply_pieces(
    machine: Any,
    pieces: Sequence[Piece],
    holds_index: int,
    wanted: bool,
    ns_max: int,
    now_ns: Callable[[], int],
) -> Applied:
    """Apply entries in order until they are all, the time is up, or the machine fails."""
    until_ns = now_ns() + ns_max
    outcome = Applied(results=[] if wanted else None)
    for piece in pieces:
        for offset, payload in enumerate(piece.payloads):
            result = None
            try:
                index = piece.first + offset
                if payload and index > holds_index:
                    result = _apply_one(machine, payload, index, piece.term)
                    outcome.told_index = index
            except Exception as error:
                outcome.error = error  # not an answer: the replica is quarantined
                return outcome
            if outcome.results is not None:
                outcome.results.append(result)
            outcome.done += 1
            if now_ns() >= until_ns:
                return outcome
    return outcome


def _apply_one(machine: Any, payload: bytes, index: int, term: int) -> Any:
    if payload[0] != COMMAND_VERSION:
        raise FormatUnsupported(
            f"entry {index} is a command of version {payload[0]}; this version reads {COMMAND_VERSION}"
        )
    try:
        return plain_result(machine.apply(payload[1:], index, term))
    except CommandError as error:
        return plain_error(error)


def answer_reads(machine: Any, queries: Sequence[Any]) -> list[tuple[Any, BaseException | None]]:
    """(answer, error) of each query. What a read raises is its caller's, and says nothing of the machine."""
    answers: list[tuple[Any, BaseException | None]] = []
    for query in queries:
        try:
            answers.append((machine.read(query), None))
        except Exception as error:
            answers.append((None, error))
    return answers


def save_machine(
    disk: Disk, machine: Any, kept: bool, path: Path, group: int, kind: str, at: At
) -> State:
    """Make durable what the machine has applied: its whole state, or where its own disk stands."""
    if not kept:
        return write_state(disk, path, Kind.BYTES, group, kind, at, machine.snapshot())
    machine.sync()
    index = machine.applied_index()
    if index != at.told_index:
        raise StorageError(
            f"after sync() the machine says that it holds commands up to {index}; it was given {at.told_index}"
        )
    return write_state(disk, path, Kind.APPLIED, group, kind, at)
