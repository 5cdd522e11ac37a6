"""What to delete from the log and what to copy first: planned on the loop, carried out by the log worker.

A plan is made from the index alone and holds for every batch that was appended before it was made; the worker carries it out
in the same transaction as those batches, or not at all. Nothing here changes the index.

- Batches that nobody needs are deleted oldest first, in a flush that happens anyway. Freed pages are used again, so the file
  stops growing; it never shrinks.
- Where little of the oldest batches is alive, that little is copied into a rewritten batch in the same transaction.
- Rewritten batches that nobody needs are deleted; those with cut runs in them are rewritten before the batch that cut them goes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from multiraft._core import BATCH_SEAL_BYTES
from multiraft.errors import LogCorrupt
from multiraft.ids import StoreId
from multiraft.log.carrying import (
    carried_bytes,
    carried_from,
    copy_run,
    hard_state_run,
    seal_rewritten,
)
from multiraft.log.environment import LogEnvironment
from multiraft.log.index import LogIndex
from multiraft.log.lookup import figures, log_bytes, place_key, place_name
from multiraft.log.moving import (
    COMMIT,
    dead_rewritten,
    dropped,
    hard_state,
    live_runs,
    moved,
    oldest_cutter,
    rewritten_batches,
    rewritten_place,
    sparse_rewritten,
    stale_rewritten,
    window,
)
from multiraft.log.schema import BATCHES, MIB, REWRITTEN, LiveRun, LogSettings

_POSITION_LAST = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What one transaction deletes and copies."""

    delete: range
    """First-hand batches, by sequence."""
    delete_rewritten: tuple[int, ...]
    runs: tuple[LiveRun, ...]
    """What must be copied from them."""
    number: int
    """Of the first rewritten batch that is made."""
    since: int
    """Sequence of the first batch that the plan does not know."""
    hard_states: dict[int, tuple[int, int, int, int, int, int]] = field(default_factory=dict)
    """Of the groups whose commit index is recorded nowhere else: see ``moving.hard_state``."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What the worker made of a plan."""

    batches: tuple[tuple[int, bytes], ...] = ()
    runs: tuple[tuple[LiveRun, int, int, int], ...] = ()
    """(run, its new place, offset, bytes)"""


def make_plan(index: LogIndex, synced_sequence: int, settings: LogSettings) -> Plan | None:
    """What the next transaction should delete, or None. Costs next to nothing where there is nothing to do."""
    first = figures(index).first_sequence
    through = _choose(index, synced_sequence, first, settings)
    moving, through = _rewritten_to_move(index, through, settings)
    dead = dead_rewritten(index)
    if through < first and not moving and not dead:
        return None
    runs = live_runs(index, through, moving)
    return Plan(
        delete=range(first, through + 1),
        delete_rewritten=tuple(sorted({*moving, *dead})),
        runs=tuple(runs),
        number=index.last_rewritten + 1,
        since=index.last_sequence + 1,
        hard_states={run.group: hard_state(index, run.group) for run in runs if run.part == COMMIT},
    )


def _choose(index: LogIndex, synced_sequence: int, first: int, settings: LogSettings) -> int:
    """The newest first-hand batch to delete, below ``first`` for none. Never the newest of all: it says where we are."""
    last = max(synced_sequence - 1, 0)
    pressed = log_bytes(index) * 2 > settings.budget_bytes
    enough = 1 if pressed else settings.dead_batches_min
    through, count = window(index, last, settings.dead_batches_max, 0.0, 0)
    if count < enough and (
        pressed or synced_sequence % max(1, settings.dead_batches_min // 4) == 0
    ):
        through, count = window(
            index,
            last,
            settings.dead_batches_max,
            settings.rewrite_share,
            settings.rewrite_bytes_max,
        )
        enough = min(settings.dead_batches_min, 8) if pressed else settings.dead_batches_min
    return through if count >= enough else first - 1


def _rewritten_to_move(
    index: LogIndex, through: int, settings: LogSettings
) -> tuple[set[int], int]:
    """(rewritten batches to copy from, the newest first-hand batch that may go then)."""
    stale = stale_rewritten(index, through)
    if not stale:
        return set(sparse_rewritten(index, MIB, settings.rewrite_bytes_max)), through
    costs = {number: cost for number, _, _, cost in rewritten_batches(index)}
    totals = itertools.accumulate(costs[number] for number in stale)
    moving = {
        number
        for number, total in zip(stale, totals, strict=True)
        if total <= settings.rewrite_bytes_max
    }
    moving = moving or {stale[0]}
    cutter = oldest_cutter(index, set(stale) - moving)
    return moving, min(through, cutter - 1) if cutter else through


def copy_live(environment: LogEnvironment, plan: Plan, store_id: StoreId) -> Copied:
    """Read what the plan copies, checked, and pack it into rewritten batches. Raises LogCorrupt for damage."""
    if not plan.runs:
        return Copied()
    carried: list[tuple[LiveRun, bytes, int, int]] = []
    with environment.view() as view:
        for place, runs in itertools.groupby(
            sorted(plan.runs, key=_by_place), key=lambda run: run.place
        ):
            is_rewritten, key = place_key(place)
            batch = view.get(REWRITTEN if is_rewritten else BATCHES, key)
            if batch is None:
                raise LogCorrupt(f"{place_name(place)} is gone")
            for run in runs:
                carried.append(_carry(run, batch, plan, is_rewritten=is_rewritten))
            del batch
    return _pack(carried, plan.number, store_id)


def _by_place(run: LiveRun) -> tuple[int, int]:
    return run.place, run.offset


def _carry(
    run: LiveRun, batch: memoryview, plan: Plan, *, is_rewritten: bool
) -> tuple[LiveRun, bytes, int, int]:
    """(run, its bytes, the sequence and position that it counts as written at)."""
    if run.part == COMMIT:
        data = hard_state_run(run.group, *plan.hard_states[run.group])
        return run, data, plan.delete.stop - 1, _POSITION_LAST
    data = copy_run(batch, run.offset, run.bytes, run.group, run.first, run.entries)
    sequence, position = (
        carried_from(batch, run.offset) if is_rewritten else (run.place, run.offset)
    )
    return run, data, sequence, position


def _pack(carried: list[tuple[LiveRun, bytes, int, int]], number: int, store_id: StoreId) -> Copied:
    batches: list[tuple[int, bytes]] = []
    runs: list[tuple[LiveRun, int, int, int]] = []
    while carried:
        totals = itertools.accumulate(carried_bytes(data) for _, data, _, _ in carried)
        count = max(1, sum(1 for total in totals if total <= BATCH_SEAL_BYTES))
        chosen, carried = carried[:count], carried[count:]
        batch, offsets = seal_rewritten(number, store_id, [item[1:] for item in chosen])
        batches.append((number, batch))
        for (run, data, _, _), offset in zip(chosen, offsets, strict=True):
            runs.append((run, rewritten_place(number), offset, len(data)))
        number += 1
    return Copied(tuple(batches), tuple(runs))


def account(index: LogIndex, plan: Plan, copied: Copied) -> None:
    """The plan's transaction is on disk: let the index know."""
    moved(
        index, copied.runs, [(number, len(batch)) for number, batch in copied.batches], plan.since
    )
    dropped(index, plan.delete.stop - 1, plan.delete_rewritten)
