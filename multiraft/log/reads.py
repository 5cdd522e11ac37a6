"""Reading runs back: looked up on the loop, read and checked by the reader worker, tried again where the log moved meanwhile.

Compaction may move or delete a batch between the look-up and the read. That shows as a batch that is not there; the index knows
better once the log worker's news has arrived, so the read waits for that and is looked up again. Where the index still names
the same place, the batch is really gone, and that is damage. While the map grows no read runs at all.

Invariant: ``done`` of every fetch is called exactly once, on the loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import lmdb

from multiraft.errors import Closed, LogCorrupt
from multiraft.ids import GroupId
from multiraft.interfaces import Jobs
from multiraft.log.carrying import copy_run
from multiraft.log.environment import LogEnvironment, wrapped
from multiraft.log.index import LogIndex
from multiraft.log.lookup import find_runs, place_key, place_name
from multiraft.log.schema import BATCHES, FETCH_BYTES_MAX, REWRITTEN, Piece

Fetched = Callable[[list[bytes] | None, BaseException | None], None]


class BatchMissing(Exception):
    """A batch that the index named is not in the database (any more)."""

    def __init__(self, piece: Piece):
        super().__init__(piece)
        self.piece = piece


@dataclass(frozen=True, slots=True)
class Request:
    """One fetch under way."""

    group: GroupId
    first: int
    bytes_max: int
    done: Fetched


def read_pieces(
    environment: LogEnvironment, pieces: list[Piece], unsynced: Mapping[int, bytes]
) -> list[bytes]:
    """The runs, each checked. ``unsynced`` are batches that need not be on the disk yet, by sequence."""
    runs: list[bytes] = []
    try:
        with environment.view() as view:
            for piece in pieces:
                batch: bytes | memoryview | None = unsynced.get(piece.place)
                if batch is None:
                    is_rewritten, key = place_key(piece.place)
                    batch = view.get(REWRITTEN if is_rewritten else BATCHES, key)
                if batch is None:
                    raise BatchMissing(piece)
                runs.append(
                    copy_run(
                        batch, piece.offset, piece.bytes, piece.group, piece.first, piece.entries
                    )
                )
                del batch
    except lmdb.Error as error:
        raise wrapped(
            error, f"group {pieces[0].group}: entries from {pieces[0].first} cannot be read"
        ) from error
    return runs


class Reads:
    """All fetches of one store. Lives on the loop."""

    def __init__(
        self,
        environment: LogEnvironment,
        index: LogIndex,
        jobs: Jobs,
        unsynced: Mapping[int, bytes],
        *,
        writing: Callable[[], bool],
        quiet: Callable[[], None],
    ):
        self._environment = environment
        self._index = index
        self._jobs = jobs
        self._unsynced = unsynced
        self._writing = writing
        self._quiet = quiet
        self._waiting: deque[Request] = deque()
        self._closed = False
        self.in_flight = 0
        self.paused = False
        """While set, nothing is read: the map is about to grow."""

    def fetch(self, request: Request) -> None:
        if self._closed:
            request.done(None, Closed("the log store is closed"))
        elif self.paused:
            self._waiting.append(request)
        else:
            self._start(request)

    def _start(self, request: Request) -> None:
        bytes_max = min(max(request.bytes_max, 0), FETCH_BYTES_MAX)
        pieces = find_runs(self._index, request.group, request.first, bytes_max)
        memory = {
            piece.place: self._unsynced[piece.place]
            for piece in pieces
            if piece.place in self._unsynced
        }
        self.run(
            lambda: read_pieces(self._environment, pieces, memory) if pieces else [],
            lambda runs, error: self._read(request, runs, error),
        )

    def run(
        self,
        job: Callable[[], list[bytes]],
        done: Callable[[list[bytes] | None, BaseException | None], None],
    ) -> None:
        """Run a job that reads; the map does not grow meanwhile."""

        def finished(result: list[bytes] | None, error: BaseException | None) -> None:
            self.in_flight -= 1
            try:
                done(result, error)
            finally:
                if self.in_flight == 0:
                    self._quiet()

        self.in_flight += 1
        self._jobs.submit(job, finished)

    def _read(
        self, request: Request, runs: list[bytes] | None, error: BaseException | None
    ) -> None:
        if not isinstance(error, BatchMissing):
            request.done(runs, error)
        elif self._closed:
            request.done(None, Closed("the log store is closed"))
        elif self._writing():
            self._waiting.append(request)  # what moved it will tell us
        elif error.piece in find_runs(
            self._index, request.group, error.piece.first, error.piece.bytes
        ):
            request.done(None, self._gone(error.piece))
        else:
            self.fetch(request)

    @staticmethod
    def _gone(piece: Piece) -> LogCorrupt:
        first, last = piece.first, piece.first + piece.entries - 1
        return LogCorrupt(
            f"group {piece.group}: entries {first} to {last} should be in {place_name(piece.place)}, which is not there",
            damage={piece.group: (first, last)},
        )

    def resume(self) -> None:
        """The log worker's news arrived: look again for what was not found, unless the map is about to grow."""
        if self.paused:
            return
        for _ in range(len(self._waiting)):
            self.fetch(self._waiting.popleft())

    def close(self) -> None:
        """Nothing more is read; what waits is told so. What runs is finished by closing its worker."""
        self._closed = True
        while self._waiting:
            self._waiting.popleft().done(None, Closed("the log store is closed"))
