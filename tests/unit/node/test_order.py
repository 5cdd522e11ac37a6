"""The state never gets ahead of the log: before it is written, a commit index that covers it is synced there.

Architecture, section 7: "before a state transaction with applied index A commits, the log environment has synced the entries
through A, a commit index >= A". What is synced is read here from the batches that the log was given, as a start would read it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from multiraft import Node
from multiraft._core import RunKind, decode_batch, decode_run
from multiraft.machine import user_files

from .machines import Counter, DiskCounter, LoopCounter
from .test_machine_faults import until
from .test_machines import alone

Run = Callable[[Coroutine[Any, Any, None]], None]

pytestmark = pytest.mark.loops("uvloop")

ENTRIES = (RunKind.RUN_ENTRIES, RunKind.RUN_MEMBERSHIP)


class Synced:
    """What of each group stands in the log at some moment, as far as it is synced."""

    def __init__(self, node: Node) -> None:
        self._log = node.log
        self._batches: dict[int, list[tuple[int, int, int]]] = {}
        append = node.log.append

        def noted(batch: bytes) -> None:
            decoded = decode_batch(batch)
            runs = [decode_run(run) for run in decoded.runs]
            self._batches[decoded.sequence] = [
                (
                    run.group,
                    run.commit,
                    run.first + len(run.entries) - 1 if run.kind in ENTRIES else 0,
                )
                for run in runs
            ]
            append(batch)

        node.log.append = noted  # type: ignore[method-assign]

    def of(self, group: int) -> tuple[int, int]:
        """The commit index and the last index of a group."""
        synced = self._log.synced_sequence
        runs = [
            (commit, last)
            for sequence, runs in list(self._batches.items())
            for one, commit, last in runs
            if one == group and sequence <= synced
        ]
        return max((commit for commit, _ in runs), default=0), max(
            (last for _, last in runs), default=0
        )


def test_p86_a_commit_index_is_synced_before_a_memtable_that_it_covers_is_flushed(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with alone(tmp_path, shards=1) as node:
            synced = Synced(node)
            flush, seen = node.machine.flush, []
            (shard,) = node.placing.map.shards  # type: ignore[union-attr]

            def flushed(group: int, done: Any = None) -> None:
                record = node.machine.shard(group).frozen_record
                if record is not None and group == shard.group:
                    seen.append((record.applied_index, *synced.of(group)))
                flush(group, done)

            node.machine.flush = flushed  # type: ignore[method-assign]
            for n in range(20):
                await node.store.put(b"k", b"%d" % n)
                flushes = node.keeper.flushes
                node.keeper.freeze(shard.group)
                await until(lambda flushes=flushes: node.keeper.flushes > flushes)  # type: ignore[misc]
            assert len(seen) >= 15
            for applied_index, commit_index, last_index in seen:
                assert commit_index >= applied_index
                assert last_index >= applied_index

    arun(main())


@pytest.mark.parametrize("kind", [Counter, DiskCounter, LoopCounter])
def test_p86_a_commit_index_is_synced_before_a_machine_that_it_covers_is_saved(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """What it applies between the wish to save it and its turn: see tests/unit/machine/test_user_saves.py."""

    async def main() -> None:
        async with alone(tmp_path, kind) as node:
            group = await node.create_group("hits", kind)
            synced, seen = Synced(node), []
            for name in ("save_machine", "write_state"):
                write = getattr(user_files, name)

                def written(*given: Any, write: Any = write) -> Any:
                    at = inspect.signature(write).bind(*given).arguments["at"]
                    seen.append((at.index, *synced.of(group.id)))
                    return write(*given)

                monkeypatch.setattr(user_files, name, written)
            for n in range(20):
                saves = node.users.hosting.saves
                wait = [group.propose(b"1") for _ in range(n)]
                assert await group.propose(b"1") > 0
                node.users.hosting.save(group.id)
                await until(lambda saves=saves: node.users.hosting.saves > saves)  # type: ignore[misc]
                for one in wait:
                    await one
            assert len(seen) >= 15
            for applied_index, commit_index, last_index in seen:
                assert commit_index >= applied_index
                assert last_index >= applied_index

    arun(main())
