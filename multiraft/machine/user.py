"""State machines of users, hosted: each gets its group's committed entries in order, on a worker, from a bounded queue.

``UserMachines`` knows all of a node. Everything here is called on the loop and returns at once; a machine's own code runs
in jobs (``running``), one at a time for each machine, on a few workers that all share (``pool``): a machine that is slow takes one
of them and delays nobody else, until as many are slow as there are workers. What happens is told to ``HostEvents``.

Invariants: entries are applied in the order in which they were queued, each once for one life of the machine; a membership takes
effect after all entries before it and before any after it; after a machine has failed nothing is applied to it. The state that is
durable (``states``) never holds more than was applied, so never more than the log has synced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from multiraft._core import CommittedRuns, RunKind
from multiraft.errors import (
    ConfigError,
    InvariantViolation,
    MultiRaftError,
    Overloaded,
    Quarantined,
)
from multiraft.machine.hosted import Done, Hosted, Life
from multiraft.machine.pool import LoopJobs, Pool
from multiraft.machine.running import (
    APPLY_NS_MAX,
    Applied,
    Factory,
    Piece,
    Running,
    answer_reads,
    apply_pieces,
    bring_up,
    close_machine,
    on_disk,
    on_loop,
)
from multiraft.machine.states import At, State, States

logger = logging.getLogger("multiraft.machine")

JOB_ENTRIES_MAX = 256
JOB_READS_MAX = 64
LOOP_NS_MAX = 1_000_000
READS_MAX = 10_000

Answers = list[tuple[Any, BaseException | None]]


class HostEvents(Protocol):
    """What the machines tell. Called on the loop, never from inside a call to ``UserMachines`` but where it says so."""

    def machine_wanted(self, group: int) -> bool:
        """Does anybody here wait for a result? Asked for each job."""

    def machine_applied(
        self, group: int, term: int, first: int, count: int, results: list[Any] | None
    ) -> None: ...

    def machine_membership(self, group: int, index: int, payload: bytes) -> bytes:
        """A membership entry takes effect; the encoded membership from there on. May come from inside ``queue``."""

    def machine_opened(self, group: int) -> None: ...

    def machine_stopped(self, group: int, cause: BaseException) -> None: ...


class UserMachines:
    """All machines of users on a node. ``pool`` runs their code, ``schedule`` what asked for the loop."""

    def __init__(
        self,
        states: States,
        found: dict[int, State],
        pool: Pool,
        schedule: Callable[[Callable[[], None]], object],
        now_ns: Callable[[], int],
    ) -> None:
        self.states = states
        self._now_ns = now_ns
        self._found = found
        self._pool = pool
        self._loop_jobs = LoopJobs(schedule)
        self._factories: dict[str, Factory] = {}
        self._hosted: dict[int, Hosted] = {}
        self._stopped = False
        self.events: HostEvents

    def __contains__(self, group: int) -> bool:
        return group in self._hosted

    def __getitem__(self, group: int) -> Hosted:
        return self._hosted[group]

    def all(self) -> list[Hosted]:
        """Every machine, by ascending group."""
        return [self._hosted[group] for group in sorted(self._hosted)]

    def found(self, group: int) -> State | None:
        """What the disk held of a group when the node started."""
        return self._found.get(group)

    def stop(self, error: MultiRaftError) -> None:
        """Start no further job, since the workers are about to be closed; who waits for one gets ``error``."""
        self._stopped = True
        for hosted in self.all():
            self._refuse(hosted, error)
        self._pool.stop()
        self._loop_jobs.stop()

    def close(self) -> None:
        """Let every machine give up what it holds. Blocks; only after all workers ended, or were given up."""
        for hosted in self.all():
            if hosted.busy and not hosted.held and hosted.jobs is self._pool:
                logger.error(
                    "the machine of group %d (%s) did not come back from its last call; it is left behind",
                    hosted.group,
                    hosted.name,
                )
                continue
            machine, hosted.machine = hosted.machine, None
            try:
                if machine is not None:
                    close_machine(machine)
            except Exception:
                logger.exception("closing the machine of group %d failed", hosted.group)

    # -- kinds and groups ---------------------------------------------------------------------------------------------------

    def register(self, kind: str, factory: Factory) -> None:
        """Say how machines of a kind are made. Those that waited for it are brought up."""
        if on_disk(factory) and on_loop(factory):
            raise ConfigError(
                f"machines = {kind!r}: one that keeps its own disk cannot ask for the loop"
            )
        self._factories[kind] = factory
        for hosted in self.all():
            if hosted.kind == kind and hosted.life is Life.STOPPED and hosted.machine is None:
                self._open(hosted)

    def factory(self, kind: str) -> Factory:
        """How machines of a registered kind are made."""
        return self._factories[kind]

    def kind_of(self, machine: str | Factory) -> str | None:
        """The name under which a kind is registered here; None where it is not."""
        if isinstance(machine, str):
            return machine if machine in self._factories else None
        return next((k for k, factory in self._factories.items() if factory is machine), None)

    def begin(self, group: int, name: str, kind: str, at: At) -> None:
        """Host the machine of a group from here on; ``at`` is where its state, or its empty beginning, stands."""
        state = self._found.pop(group, None)
        hosted = self._hosted[group] = Hosted(group, name, kind, at, state)
        self._open(hosted)

    def _open(self, hosted: Hosted) -> None:
        factory = self._factories.get(hosted.kind)
        hosted.life, hosted.cause = Life.OPENING, None
        if factory is None:
            self.fail(
                hosted,
                Quarantined(
                    f"the kind {hosted.kind!r} of group {hosted.name!r} is not registered on this node"
                ),
            )
            return
        hosted.jobs = self._loop_jobs if on_loop(factory) else self._pool
        self._pump(hosted)

    def fail(self, hosted: Hosted, cause: BaseException) -> None:
        """It applies nothing from here on; what was queued is handed out again if it ever goes on."""
        hosted.life, hosted.cause = Life.STOPPED, cause
        hosted.generation += 1
        hosted.saving = False
        hosted.drop_all()
        self._refuse(hosted, hosted.refusal)
        self.events.machine_stopped(hosted.group, cause)

    @staticmethod
    def _refuse(hosted: Hosted, error: MultiRaftError) -> None:
        """Answer everybody who waits for the machine, and is not applied by a job just now."""
        waiting = [done for _, done in hosted.reads] + [done for _, done in hosted.files]
        waiting += [done for _, done in hosted.answering]
        hosted.reads.clear()
        hosted.files.clear()
        hosted.answering = []
        for done in waiting:
            done(None, error)

    # -- what comes in --------------------------------------------------------------------------------------------------------

    def queue(self, runs: CommittedRuns) -> set[int]:
        """Take committed runs; the groups that they belong to."""
        groups = set()
        for group, first, term, kind, payloads in runs:
            hosted = self._hosted.get(group)
            if hosted is None or hosted.life is Life.STOPPED:
                continue  # handed out again when it goes on
            if first != hosted.queued_index + 1:
                raise InvariantViolation(
                    f"group {group}: {first} would be applied after {hosted.queued_index}"
                )
            hosted.push(first, term, kind, payloads)
            groups.add(group)
        for group in groups:
            self._pump(self._hosted[group])
        return groups

    def read(self, group: int, query: Any, done: Done) -> None:
        """Answer a query from what is applied by now, or a little later; then ``done(answer, error)``."""
        hosted = self._hosted[group]
        if hosted.life is Life.STOPPED:
            done(None, hosted.refusal)
        elif len(hosted.reads) >= READS_MAX:
            done(None, Overloaded(f"{READS_MAX} reads wait for the machine of {hosted.name!r}"))
        else:
            hosted.reads.append((query, done))
            self._pump(hosted)

    def enqueue(self, hosted: Hosted, start: Callable[[], None], done: Done) -> None:
        """Call ``start`` when nothing of the machine runs: it begins a job with ``run``. ``done`` hears if it cannot be."""
        if hosted.life is Life.STOPPED:
            done(None, hosted.refusal)
        else:
            hosted.files.append((start, done))
            self._pump(hosted)

    def hold(
        self, hosted: Hosted, then: Callable[[], None], lost: Callable[[], None]
    ) -> Callable[[], None]:
        """Let a machine stand still until what comes back is called; then ``then()``, or ``lost()`` if it failed or changed."""
        generation = hosted.generation
        hosted.busy = hosted.held = True

        def go_on() -> None:
            hosted.busy = hosted.held = False
            if not self._stopped:
                (then if generation == hosted.generation else lost)()
                self._pump(hosted)

        return go_on

    def replaced(self, hosted: Hosted, at: At, state: State) -> None:
        """A snapshot took the place of the machine's state: it is brought up anew from there, whatever it was before."""
        hosted.generation += 1
        hosted.at, hosted.state = at, state
        hosted.drop_through(at.index)
        hosted.reads.extendleft(reversed(hosted.answering))  # asked of what is gone: ask again
        hosted.answering = []
        hosted.logged_bytes, hosted.saving, hosted.alarm = 0, False, ""
        self._open(hosted)

    # -- the next job -----------------------------------------------------------------------------------------------------------

    def _pump(self, hosted: Hosted) -> None:
        """Start what is next for a machine, unless something runs."""
        while not hosted.busy and not self._stopped and hosted.life is not Life.STOPPED:
            if hosted.life is Life.OPENING:
                self._bring_up(hosted)
            elif hosted.files:
                hosted.files.popleft()[0]()
            elif hosted.reads and not (hosted.read_last and hosted.pieces):
                self._answer(hosted)
            elif hosted.pieces and hosted.pieces[0].kind == RunKind.RUN_MEMBERSHIP:
                self._change(hosted, hosted.pieces[0])
            elif hosted.pieces:
                self._apply(hosted)
            else:
                return

    def run(
        self,
        hosted: Hosted,
        job: Callable[[], Any],
        done: Done,
        lost: Callable[[], None] | None = None,
    ) -> None:
        """One job of a machine: nothing else of it runs meanwhile. ``lost()`` in place of ``done`` if it failed or was replaced."""
        generation = hosted.generation
        hosted.busy = True

        def ended(result: Any, error: BaseException | None) -> None:
            hosted.busy = False
            if self._stopped or generation != hosted.generation:
                if isinstance(result, Running):
                    hosted.machine = result.machine  # whoever comes next closes it
                elif lost is not None and not self._stopped:
                    lost()
            else:
                done(result, error)
            self._pump(hosted)

        (hosted.jobs or self._pool).submit(job, ended)

    def _bring_up(self, hosted: Hosted) -> None:
        factory, old = self._factories[hosted.kind], hosted.machine
        group, kind, state, states = hosted.group, hosted.kind, hosted.state, self.states
        hosted.machine = None

        def done(running: Running | None, error: BaseException | None) -> None:
            if running is None:
                self.fail(hosted, error or InvariantViolation("a machine came to nothing"))
                return
            hosted.machine, hosted.state = running.machine, running.state
            hosted.at = replace(hosted.at, told_index=running.told_index)
            hosted.life = Life.RUNNING
            self.events.machine_opened(group)

        self.run(hosted, lambda: bring_up(factory, group, kind, state, states, old), done)

    def _change(self, hosted: Hosted, piece: Piece) -> None:
        """A membership takes effect, on the loop, in its place."""
        hosted.take(len(piece.payloads))
        membership = hosted.at.membership
        for offset, payload in enumerate(piece.payloads):
            membership = self.events.machine_membership(hosted.group, piece.first + offset, payload)
        hosted.at = At(piece.last, piece.term, membership, hosted.at.told_index)
        self.events.machine_applied(
            hosted.group, piece.term, piece.first, len(piece.payloads), None
        )

    def _apply(self, hosted: Hosted) -> None:
        machine, holds_index = hosted.machine, hosted.at.told_index
        wanted = self.events.machine_wanted(hosted.group)
        ns_max = LOOP_NS_MAX if hosted.jobs is self._loop_jobs else APPLY_NS_MAX
        pieces, count = [], 0
        for piece in hosted.pieces:
            if piece.kind == RunKind.RUN_MEMBERSHIP or count >= JOB_ENTRIES_MAX:
                break
            pieces.append(piece)
            count += len(piece.payloads)
        hosted.read_last = False

        def done(applied: Applied | None, error: BaseException | None) -> None:
            if applied is None:
                self.fail(hosted, error or InvariantViolation("an apply came to nothing"))
                return
            self._advance(hosted, applied)
            if applied.error is not None:
                self.fail(hosted, applied.error)

        def job() -> Applied:
            return apply_pieces(machine, pieces, holds_index, wanted, ns_max, self._now_ns)

        self.run(hosted, job, done)

    def _advance(self, hosted: Hosted, applied: Applied) -> None:
        """Take what was applied off the queue, and tell of it piece by piece."""
        told_index = max(hosted.at.told_index, applied.told_index)
        left, start = applied.done, 0
        while left:
            piece = hosted.take(left)
            count = len(piece.payloads)
            hosted.at = At(piece.last, piece.term, hosted.at.membership, told_index)
            results = applied.results
            some = results[start : start + count] if results is not None else None
            self.events.machine_applied(hosted.group, piece.term, piece.first, count, some)
            left -= count
            start += count

    def _answer(self, hosted: Hosted) -> None:
        some = [hosted.reads.popleft() for _ in range(min(len(hosted.reads), JOB_READS_MAX))]
        machine, queries = hosted.machine, [query for query, _ in some]
        hosted.answering = some
        hosted.read_last = True

        def done(answers: Answers | None, error: BaseException | None) -> None:
            asked, hosted.answering = hosted.answering, []
            for at, (_, told) in enumerate(asked):
                told(*answers[at] if answers is not None else (None, error))

        self.run(hosted, lambda: answer_reads(machine, queries), done)
