"""What judges a directory that was left behind by a victim: with what the victim had noted, it opens everything and looks.

``judge(life, folder, notes)`` raises AssertionError where something acknowledged is missing, something is there that nobody asked
for, a revision fell, the log is not sound, or service does not go on. What the product refuses it lets through as the error
that it is: whether that may be is for the test to say. Run in a child, since a damaged file may end the process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import traceback
from collections import defaultdict
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from multiraft import Node
from multiraft.disk import RealDisk
from multiraft.errors import LogCorrupt, MultiRaftError, Quarantined
from multiraft.log.inspect import verify
from multiraft.machine.snapshot import check_snapshot
from tests.crash.nursery import Notebook
from tests.crash.victim import (
    LOG,
    LOG_SEED,
    STATE,
    STATE_SEED,
    STATE_STEPS,
    Refused,
    Three,
    large,
    node_config,
    run,
    running,
    small_logs,
    three,
)
from tests.unit.log.harness import Feeder, created, open_inline, read_entries
from tests.unit.log.model import Model
from tests.unit.machine.harness import (
    DESCRIPTOR,
    GROUP,
    PREFIX,
    apply_all,
    entries_of,
    open_with_shard,
    scan_all,
)
from tests.unit.machine.test_crash import states, steps
from tests.unit.node.machines import Counter

Notes = list[list[Any]]
NEW_GROUP = 99
_models: dict[str, Any] = {}


def highest(notes: Notes, kind: str, what: str) -> int:
    return max((each[2] for each in notes if each[:2] == [kind, what]), default=0)


def require_sound(path: Path) -> None:
    """Damage that no answer needed to meet, in entries that are applied long since, is found by looking for it."""
    if found := verify(path):
        raise LogCorrupt(f"{len(found)} findings: {found[0].message}")


# -- the stores by themselves -----------------------------------------------------------------------------------------------


def log_after(sequence: int) -> Any:
    """The model after so many batches: (what ``groups`` says, group -> its entries)."""
    if "log" not in _models:
        model, found = Model(LOG_SEED), []
        for _ in range(200):
            groups = sorted(model.groups.items())
            found.append(
                (
                    {group: each.log() for group, each in groups},
                    {group: dict(each.entries) for group, each in groups},
                )
            )
            model.batch()
        _models["log"] = found
    return _models["log"][sequence]


def log(folder: Path, notes: Notes) -> None:
    acknowledged, asked = highest(notes, "did", "synced"), highest(notes, "try", "batch")
    store = open_inline(folder / "log", LOG)
    try:
        sequence = store.synced_sequence
        assert acknowledged <= sequence <= asked, (acknowledged, sequence, asked)
        logs, entries = log_after(sequence)
        assert {each.group: each for each in store.groups()} == logs
        for group, expected in entries.items():
            assert read_entries(store, group, logs[group].base.index + 1) == expected
        feeder = Feeder(store)
        feeder.append(created(NEW_GROUP))
        assert store.synced_sequence == sequence + 1
    finally:
        store.close()
    require_sound(folder / "log")


def state(folder: Path, notes: Notes) -> None:
    if "state" not in _models:
        entries = steps(STATE_SEED, STATE_STEPS)
        _models["state"] = entries, states(entries)
    entries, models = _models["state"]
    file = folder / "file"
    if highest(notes, "did", "file") or file.exists():
        check_snapshot(RealDisk(), file)
    for name in ("one", "two"):
        store = open_with_shard(folder / name, STATE)
        try:
            index = store.shard(GROUP).applied_index
            acknowledged, asked = highest(notes, "did", name), highest(notes, "try", name)
            assert acknowledged <= index <= asked, (name, acknowledged, index, asked)
            found = scan_all(store)
            assert found == entries_of(models[index], DESCRIPTOR.start, DESCRIPTOR.end), name
            some = [step.encode() for step in entries[index : index + 5]]
            if some:
                apply_all(store, some, index + 1)
                store.freeze(GROUP)
                store.flush(GROUP)
                assert store.shard(GROUP).flushed_index == index + len(some)
        finally:
            store.close()


def grown(folder: Path, notes: Notes) -> None:
    acknowledged, asked = highest(notes, "did", "synced"), highest(notes, "try", "one")
    store = open_inline(folder / "log", LOG)
    try:
        assert acknowledged <= store.synced_sequence <= asked + 1
        if store.synced_sequence:
            found = read_entries(store, 1, 1)
            assert [entry[2] for entry in found.values()] == [
                large(index) for index in range(1, store.synced_sequence)
            ]
    finally:
        store.close()
    state_store = open_with_shard(folder / "one", STATE)
    try:
        index = state_store.shard(GROUP).applied_index
        assert highest(notes, "did", "one") <= index <= asked
        assert {key: value for key, _, value in scan_all(state_store)} == {
            PREFIX + b"%d" % at: large(at) for at in range(1, index + 1)
        }
    finally:
        state_store.close()


# -- nodes ------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Key:
    """What may be found under one key, whose writer did one thing after the other."""

    tried: list[str | None] = dataclasses.field(default_factory=list)
    """Newest acknowledged, then whatever was asked for since."""
    revision: int = 0
    """Of the newest that was acknowledged."""


def keys_of(notes: Notes) -> tuple[dict[str, Key], int, int]:
    """(what every key may hold, count acknowledged, count asked for)"""
    keys: dict[str, Key] = defaultdict(lambda: Key([None]))
    counted = asked = 0
    for kind, key, value, *revision in (each for each in notes if each[0] in ("try", "did")):
        if key == "hits":
            asked += kind == "try"
            counted = max(counted, *revision) if revision else counted
        elif kind == "try":
            keys[key].tried.append(value)
        else:
            keys[key].tried = [value]
            assert revision[0] > keys[key].revision, "a revision fell"
            keys[key].revision = revision[0]
    return keys, counted, asked


async def serves(node: Any, notes: Notes) -> None:
    """Everything that was acknowledged is there, nothing else is, and service goes on."""
    keys, counted, asked = keys_of(notes)
    found = {key.decode(): value.decode() async for key, value in node.store.scan()}
    assert set(found) <= set(keys), set(found) - set(keys)
    for key, expected in keys.items():
        assert found.get(key) in expected.tried, (key, found.get(key), expected)
        entry = await node.store.get_entry(key.encode())
        if entry is not None:
            assert entry.revision >= expected.revision or expected.tried[0] is None
        assert await node.store.put(key.encode(), b"after") > expected.revision
        assert await node.store.get(key.encode()) == b"after"
    hits = await node.create_group("hits", Counter)
    total = await hits.read()
    assert counted <= total <= asked, (counted, total, asked)
    assert len(await hits.read("applied")) == total, "a command was skipped or applied twice"
    assert await hits.propose(b"1") == total + 1


def node(folder: Path, notes: Notes) -> None:
    small_logs()

    async def main() -> None:
        async with running(lambda *_: None, node_config(folder)) as one:  # type: ignore[arg-type]
            await serves(one, notes)

    run(main())
    require_sound(folder / "log")


async def agree(cluster: Three) -> None:
    """All replicas that run hold the same, once they have all applied the same."""
    nodes = list(cluster.nodes.values())
    groups = range(nodes[0].group("hits").id + 1)
    await cluster.until(
        lambda: all(len({node.multi.indexes(group)[3] for node in nodes}) == 1 for group in groups)
    )
    scans = [[pair async for pair in node.store.scan(stale=True)] for node in nodes]
    assert all(scan == scans[0] for scan in scans), "the replicas differ"
    totals = [await node.group("hits").read("applied", stale=True) for node in nodes]
    assert all(total == totals[0] for total in totals), totals


def trio(folder: Path, notes: Notes) -> None:
    async def main() -> None:
        async with three(folder, 1, 2, 3) as cluster:
            await serves(cluster.nodes[1], notes)
            await agree(cluster)

    run(main())
    for number in (1, 2, 3):
        require_sound(folder / f"n{number}" / "log")


def minority(folder: Path, notes: Notes) -> None:
    """Whatever the third node's files hold: the others serve, and it holds the same or ends."""
    refused: list[BaseException] = []

    async def main() -> None:
        async with three(folder, 1, 2) as cluster:
            third = None
            try:
                await cluster.start(3)
                third = cluster.nodes.pop(3)
            except (MultiRaftError, OSError) as error:
                cluster.nodes.pop(3)
                refused.append(error)
            await serves(cluster.nodes[1], notes)
            if third is not None:
                cluster.nodes[3] = third
                await together(cluster, third)

    async def together(cluster: Three, third: Node) -> None:
        def quarantined() -> list[str]:
            return [one.quarantined for one in third.status().machines if one.quarantined]

        async def stopped() -> None:
            """The one machine whose state is damaged stops, and says so; all else goes on."""
            await cluster.until(lambda: bool(quarantined()))
            raise Quarantined(quarantined()[0])

        agreed = asyncio.ensure_future(agree(cluster))
        ended = asyncio.ensure_future(first_of(third.closed(), stopped()))
        await asyncio.wait({ended, agreed}, return_when=asyncio.FIRST_COMPLETED)
        agreeing = agreed.done() and agreed.exception() is None
        error = ended.exception() if ended.done() else None
        for task in (ended, agreed):
            task.cancel()
        await asyncio.gather(ended, agreed, return_exceptions=True)
        if not agreeing:
            assert error is not None, "it neither agrees nor ends"
            refused.append(error)

    run(main())
    if refused:
        raise Refused from refused[0]


async def first_of(*calls: Coroutine[Any, Any, None]) -> None:
    """Raise what the first of them raises, and end the others."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def pair(folder: Path, notes: Notes) -> None:
    """The first two alone."""

    async def main() -> None:
        async with three(folder, 1, 2) as cluster:
            await serves(cluster.nodes[1], notes)
            await agree(cluster)

    run(main())


# -- as a job ---------------------------------------------------------------------------------------------------------------


LIVES = {
    "log": log,
    "state": state,
    "node": node,
    "trio": trio,
    "grown": grown,
    "minority": minority,
    "pair": pair,
}


def judge(note: Notebook, life: str, folder: str, notes: str) -> None:
    """As a job: notes ``["sound"]``, ``["refused", error, message]`` or ``["wrong", message]``."""
    said = [json.loads(line) for line in Path(notes).read_text().splitlines()]
    note(*verdict(life, Path(folder), said))


def verdict(life: str, folder: Path, said: Notes) -> tuple[str, ...]:
    try:
        LIVES[life](folder, said)
    except AssertionError as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "wrong", str(error)[:2000], f"{where.filename}:{where.lineno}: {where.line}"
    except (MultiRaftError, OSError, Refused) as error:
        error = error.__cause__ or error if isinstance(error, Refused) else error
        return "refused", type(error).__name__, str(error)[:500]
    return ("sound",)
