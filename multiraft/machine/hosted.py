"""One user's machine on this node, as a value: where it stands, what is queued for it, what is durable of it.

Owned by the loop, changed by ``user.UserMachines`` and ``user_files.UserFiles`` alone. A job on a worker is given what it needs of
it and never looks at it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from multiraft.errors import Quarantined
from multiraft.interfaces import Jobs
from multiraft.machine.running import Piece
from multiraft.machine.states import At, State

QUEUE_ENTRIES_MAX = 4096
QUEUE_BYTES_MAX = 4 * 1024 * 1024
PIECE_ENTRIES_MAX = 1024
ENTRY_BYTES = 32
"""What an entry counts beside its payload."""

Done = Callable[[Any, BaseException | None], None]


class Life(Enum):
    """Where a machine stands."""

    OPENING = "opening"
    RUNNING = "running"
    STOPPED = "stopped"
    """It applies nothing: it failed, or its kind is not registered here."""


@dataclass(slots=True)
class Hosted:
    """One machine. ``at`` is what it has applied, ``state`` what is durable of it on this node."""

    group: int
    name: str
    kind: str
    at: At
    state: State | None = None
    life: Life = Life.OPENING
    cause: BaseException | None = None
    alarm: str = ""
    machine: Any = None
    jobs: Jobs | None = None
    busy: bool = False
    held: bool = False
    """It is busy in that it stands still; no job of it runs."""
    generation: int = 0
    queued_entries: int = 0
    queued_bytes: int = 0
    logged_bytes: int = 0

    pieces: deque[Piece] = field(default_factory=deque)
    reads: deque[tuple[Any, Done]] = field(default_factory=deque)
    answering: list[tuple[Any, Done]] = field(default_factory=list)
    files: deque[tuple[Callable[[], None], Done]] = field(default_factory=deque)
    read_last: bool = False
    saving: bool = False

    @property
    def full(self) -> bool:
        return self.queued_entries >= QUEUE_ENTRIES_MAX or self.queued_bytes >= QUEUE_BYTES_MAX

    @property
    def roomy(self) -> bool:
        return (
            self.queued_entries <= QUEUE_ENTRIES_MAX // 2
            and self.queued_bytes <= QUEUE_BYTES_MAX // 2
        )

    @property
    def queued_index(self) -> int:
        """The last index that is applied or waits to be."""
        return self.pieces[-1].last if self.pieces else self.at.index

    @property
    def refusal(self) -> Quarantined:
        """What callers on this node are told of a machine that does not run here."""
        return Quarantined(
            f"the machine of group {self.name!r} does not run on this node: {self.cause}"
        )

    def push(self, first: int, term: int, kind: int, payloads: list[bytes]) -> None:
        """Entries that are committed wait to be applied, behind all that wait already."""
        for at in range(0, len(payloads), PIECE_ENTRIES_MAX):
            some = payloads[at : at + PIECE_ENTRIES_MAX]
            self.pieces.append(Piece(first + at, term, kind, some))
        self.queued_entries += len(payloads)
        self.queued_bytes += weight(payloads)

    def take(self, entries_max: int) -> Piece:
        """The oldest entries off the queue: the first piece, or the beginning of it."""
        piece = self.pieces.popleft()
        taken, rest = piece.payloads[:entries_max], piece.payloads[entries_max:]
        if rest:
            self.pieces.appendleft(Piece(piece.first + len(taken), piece.term, piece.kind, rest))
            piece = Piece(piece.first, piece.term, piece.kind, taken)
        self.queued_entries -= len(taken)
        size = weight(taken)
        self.queued_bytes -= size
        self.logged_bytes += size
        return piece

    def drop_through(self, index: int) -> None:
        """Forget what is queued up to an index: a snapshot holds it."""
        while self.pieces and self.pieces[0].first <= index:
            self.take(index + 1 - self.pieces[0].first)

    def drop_all(self) -> None:
        """Forget what is queued: it is handed out again if the machine ever goes on."""
        self.pieces.clear()
        self.queued_entries = self.queued_bytes = 0


def weight(payloads: list[bytes]) -> int:
    """What entries count in the limits of a queue and of a log."""
    return sum(map(len, payloads)) + ENTRY_BYTES * len(payloads)
