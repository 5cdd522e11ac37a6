"""One embedded node: what each call of the store promises, over the whole stack and a real disk."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import multiraft
from multiraft import (
    Absent,
    BatchError,
    Closed,
    Config,
    ConfigError,
    DeadlineExceeded,
    Delete,
    DeleteRange,
    Entry,
    InvalidCommand,
    Node,
    OutcomeUnknown,
    PreconditionFailed,
    Present,
    Put,
    RevisionIs,
    TooLarge,
    ValueIs,
)
from multiraft.errors import DirectoryInUse, LogCorrupt, SyncFailed
from multiraft.transport.address import free_addresses

Run = Callable[[Coroutine[Any, Any, None]], None]

KINDS: dict[str, dict[str, Any]] = {
    "one": {},
    "hash": {"shards": 8},
    "borders": {"borders": (b"k3", b"k6")},
    "cold": {"cold_reads": "thread"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_does_what_it_says(arun: Run, tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        async with multiraft.open(tmp_path, **KINDS[kind]) as db:
            first = await db.put(b"k1", b"a")
            second = await db.put(b"k1", b"b")
            assert 0 < first < second
            assert await db.get(b"k1") == b"b"
            assert await db.get_entry(b"k1") == Entry(b"b", second)
            assert await db.get(b"k2") is None
            assert await db.get_entry(b"k2") is None
            assert await db.delete(b"k1") > second
            assert await db.get(b"k1") is None
            items = [(b"k%d" % n, b"v%d" % n) for n in (5, 1, 9, 3, 7)]
            revisions = await db.put_many(items)
            assert len(revisions) == 5 and all(revision > 0 for revision in revisions)
            assert await db.get_many([b"k9", b"k0", b"k5"]) == [b"v9", None, b"v5"]
            assert [pair async for pair in db.scan()] == sorted(items)
            assert [pair async for pair in db.scan(reverse=True)] == sorted(items, reverse=True)
            assert [key async for key, _ in db.scan(start=b"k3", end=b"k9")] == [
                b"k3",
                b"k5",
                b"k7",
            ]
            assert [key async for key, _ in db.scan(prefix=b"k", limit=2)] == [b"k1", b"k3"]
            assert [key async for key, _ in db.scan(start=b"k4", limit=2, reverse=True)] == [
                b"k9",
                b"k7",
            ]
            assert [key async for key, _ in db.scan(prefix=b"x")] == []

    arun(main())


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_there_after_a_restart(arun: Run, tmp_path: Path, kind: str) -> None:
    async def main() -> None:
        items = [(b"key-%04d" % n, b"v" * (n % 50)) for n in range(700)]
        async with multiraft.open(tmp_path, **KINDS[kind]) as db:
            revisions = await db.put_many(items)
            await db.delete(b"key-0003")
        for _ in range(2):
            async with multiraft.open(tmp_path, **KINDS[kind]) as db:
                found = [pair async for pair in db.scan()]
                assert found == [item for item in items if item[0] != b"key-0003"]
                entry = await db.get_entry(b"key-0005")
                assert entry is not None and entry.revision == revisions[5]

    arun(main())


def test_a_batch_happens_whole_or_not_at_all(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with multiraft.open(tmp_path) as db:
            revision = await db.batch([Put(b"a", b"1"), Put(b"b", b"2")], conditions=[Absent(b"a")])
            with pytest.raises(PreconditionFailed) as failed:
                await db.batch([Put(b"a", b"9"), Delete(b"b")], conditions=[Absent(b"a")])
            assert (failed.value.key, failed.value.revision) == (b"a", revision)
            assert await db.get_many([b"a", b"b"]) == [b"1", b"2"]
            await db.batch(
                [Delete(b"b"), DeleteRange(b"x", b"z")],
                conditions=[Present(b"b"), ValueIs(b"a", b"1")],
            )
            assert await db.get(b"b") is None
            again = await db.compare_and_set(b"a", b"3", revision=revision)
            with pytest.raises(PreconditionFailed):
                await db.compare_and_set(b"a", b"4", revision=revision)
            assert await db.compare_and_set(b"a", b"5", expected=b"3") > again
            await db.batch([Put(b"c", b"1")], conditions=[RevisionIs(b"c", 0)])
            with pytest.raises(InvalidCommand):
                db.batch([])
            with pytest.raises(InvalidCommand):
                db.compare_and_set(b"a", b"4")

    arun(main())


@pytest.mark.parametrize("timeout", [math.inf, 1e12])
def test_a_call_may_be_given_for_ever(arun: Run, tmp_path: Path, timeout: float) -> None:
    """Such a number of seconds once became a deadline that was over at once."""

    async def main() -> None:
        async with multiraft.open(tmp_path) as db:
            assert db._writes.deadline(timeout) > db._writes.deadline(1e6)
            assert await db.put(b"a", b"1", timeout=timeout) > 0
            assert await db.get(b"a", timeout=timeout) == b"1"

    arun(main())


def test_a_scan_of_a_node_that_knows_no_shards_yet_finds_no_end(arun: Run, tmp_path: Path) -> None:
    """As any other call is: nothing found, and nobody asked, are not the same."""

    async def main() -> None:
        addresses = dict(enumerate(free_addresses(3), 1))
        config = Config(data_dir=str(tmp_path), node_id=1, listen=addresses[1], nodes=addresses)
        async with Node(config) as node:
            assert not node.routing.shards, "the others are not there: nobody made a cluster yet"
            with pytest.raises(DeadlineExceeded):
                [pair async for pair in node.store.scan(timeout=0.1)]

    arun(main())


@pytest.mark.parametrize("shards", [None, 4])
def test_bounds_and_keys_that_are_not_bytes_are_refused(
    arun: Run, tmp_path: Path, shards: int | None
) -> None:
    class Bytes(bytes):
        """Which could be anything."""

    async def main() -> None:
        settings = {} if shards is None else {"shards": shards}
        async with multiraft.open(tmp_path, **settings) as db:
            for given in ({"prefix": "a"}, {"start": bytearray(b"a")}, {"end": 5}):
                with pytest.raises(InvalidCommand):
                    [pair async for pair in db.scan(**given)]  # type: ignore[arg-type]
            for call in (db.get, db.get_entry, db.delete):
                with pytest.raises(InvalidCommand):
                    call(Bytes(b"a"))

    arun(main())


def test_a_range_is_deleted_at_once(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with multiraft.open(tmp_path) as db:
            await db.put_many([(b"%03d" % n, b"x") for n in range(100)])
            await db.delete_range(b"010", b"090")
            assert len([key async for key, _ in db.scan()]) == 20
            await db.put(b"050", b"new")
            assert [key async for key, _ in db.scan(start=b"009", end=b"091")] == [
                b"009",
                b"050",
                b"090",
            ]
        async with multiraft.open(tmp_path) as db:
            assert len([key async for key, _ in db.scan()]) == 21

    arun(main())


def test_what_cannot_be_is_refused_at_once(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with multiraft.open(tmp_path, shards=8, value_bytes_max=1000) as db:
            for key in (b"", "text", None, 7):
                with pytest.raises(InvalidCommand):
                    db.put(key, b"x")  # type: ignore[arg-type]
            with pytest.raises(TooLarge):
                db.put(b"k" * 481, b"x")
            assert await db.put(b"k" * 480, b"x")
            with pytest.raises(TooLarge):
                db.put(b"k", b"x" * 1001)
            with pytest.raises(InvalidCommand, match="bytes"):
                db.put(b"k", "text")  # type: ignore[arg-type]
            with pytest.raises(InvalidCommand, match="hash"):
                db.delete_range(b"a", b"b")
            far = [Put(b"%d" % n, b"x") for n in range(20)]
            with pytest.raises(InvalidCommand, match="two shards"):
                db.batch(far)
            assert await db.batch([Put(b"{tag}%d" % n, b"x") for n in range(20)])
            assert [pair async for pair in db.scan()] == sorted(
                [(b"k" * 480, b"x"), *((b"{tag}%d" % n, b"x") for n in range(20))]
            )

    arun(main())


def test_a_range_over_two_shards_is_refused(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with multiraft.open(tmp_path, borders=(b"m",)) as db:
            with pytest.raises(InvalidCommand, match="two shards"):
                db.delete_range(b"a", b"z")
            await db.delete_range(b"a", b"m")

    arun(main())


def test_p79_a_deadline_says_that_the_outcome_is_unknown(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path))) as node:
            hold = asyncio.Event()
            append = node.log.append
            held: list[bytes] = []
            node.log.append = held.append  # type: ignore[method-assign, assignment]
            ticket = node.store.put(b"k", b"v", timeout=0.1)
            with pytest.raises(DeadlineExceeded) as late:
                await ticket
            assert isinstance(late.value, OutcomeUnknown) and isinstance(late.value, TimeoutError)
            assert await node.store.get(b"k", stale=True) is None
            node.log.append = append  # type: ignore[method-assign]
            for batch in held:
                append(batch)
            assert await node.store.get(b"k", timeout=5) is None or not hold.is_set()
            while await node.store.get(b"k") is None:
                await asyncio.sleep(0)
            assert await node.store.get(b"k") == b"v", "it did happen after all"

    arun(main())


def test_p03_no_put_is_answered_before_its_batch_is_synced(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path))) as node:
            synced = node.log.on_synced
            waiting: list[int] = []
            node.log.on_synced = waiting.append
            ticket = node.store.put(b"k", b"v")
            while not waiting:
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not ticket.done()
            assert await node.store.get(b"k", stale=True) is None
            node.log.on_synced = synced
            synced(waiting[-1])
            assert await ticket > 0

    arun(main())


def test_p100_cancelling_gives_up_the_wait_and_nothing_else(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with multiraft.open(tmp_path) as db:
            given_up = db.put(b"a", b"1")
            kept = db.put(b"b", b"2")
            waiting = asyncio.ensure_future(asyncio.shield(kept))
            given_up.cancel()
            assert await kept > 0 and await waiting > 0
            assert await db.get(b"a") == b"1", "its command went its way"

    arun(main())


def test_p11_an_error_of_the_disk_ends_the_node_and_answers_everybody(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        node = Node(Config(data_dir=str(tmp_path)))
        await node.start()
        await node.store.put(b"kept", b"1")
        node.log.append = lambda batch: None  # type: ignore[method-assign]
        ticket = node.store.put(b"lost", b"1")
        await asyncio.sleep(0)
        node.failed(SyncFailed("the disk said no"))
        for stale in (False, True):
            with pytest.raises(Closed):
                node.store.get(b"kept", stale=stale)
        with pytest.raises(OutcomeUnknown) as unknown:
            await ticket
        assert isinstance(unknown.value.__cause__, SyncFailed)
        with pytest.raises(SyncFailed):
            await node.closed()
        with pytest.raises(Closed):
            node.store.put(b"k", b"v")
        await node.aclose()
        async with multiraft.open(tmp_path) as db:
            assert [pair async for pair in db.scan()] == [(b"kept", b"1")]

    arun(main())


def test_a_closed_store_says_so(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with multiraft.open(tmp_path) as db:
            await db.put(b"k", b"v")
        with pytest.raises(Closed):
            db.put(b"k", b"v")
        for stale in (False, True):
            with pytest.raises(Closed):
                db.get(b"k", stale=stale)

    arun(main())


def test_closing_finishes_what_is_on_its_way(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        node = Node(Config(data_dir=str(tmp_path), shards=4))
        await node.start()
        tickets = [node.store.put(b"%d" % n, b"x") for n in range(50)]
        await asyncio.gather(node.aclose(), node.aclose())
        assert all([await ticket for ticket in tickets])
        async with multiraft.open(tmp_path, shards=4) as db:
            assert len([pair async for pair in db.scan()]) == 50

    arun(main())


def test_p93_what_a_closing_node_cannot_finish_is_unknown(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        node = Node(Config(data_dir=str(tmp_path)))
        await node.start()
        node.log.append = lambda batch: None  # type: ignore[method-assign]
        ticket = node.store.put(b"k", b"v")
        leaving = asyncio.ensure_future(node.aclose())
        await asyncio.sleep(0)
        with pytest.raises(Closed):
            node.store.put(b"late", b"v")
        leaving.cancel()  # gives up waiting for the end, and does not stop it
        with pytest.raises(OutcomeUnknown):
            await ticket
        await node.closed()

    arun(main())


def test_a_directory_has_one_owner(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with multiraft.open(tmp_path) as db:
            with pytest.raises(DirectoryInUse):
                async with multiraft.open(tmp_path):
                    pass
            assert await db.put(b"k", b"v")

    arun(main())


def test_p102_another_configuration_is_refused_on_the_same_data(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with multiraft.open(tmp_path, shards=4) as db:
            await db.put(b"k", b"v")
        for other in ({"shards": 8}, {}, {"borders": (b"m",)}):
            with pytest.raises(ConfigError, match="made with"):
                async with multiraft.open(tmp_path, **other):
                    pass
        async with multiraft.open(tmp_path, shards=4) as db:
            assert await db.get(b"k") == b"v"

    arun(main())


def test_put_many_says_for_each_key_what_happened(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path), shards=4)) as node:
            node.log.append = lambda batch: None  # type: ignore[method-assign]
            with pytest.raises(BatchError) as failed:
                await node.store.put_many([(b"%d" % n, b"x") for n in range(9)], timeout=0.1)
            assert len(failed.value.outcomes) == 9
            assert all(isinstance(one, DeadlineExceeded) for one in failed.value.outcomes)
            node.failed(SyncFailed("stop here"))
            with pytest.raises(SyncFailed):
                await node.closed()

    arun(main())


@pytest.mark.loops("uvloop")
def test_p86_memtables_are_flushed_and_logs_compacted_while_writes_go_on(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        config = Config(
            data_dir=str(tmp_path),
            shards=2,
            memtable_bytes_max=100_000,
            memtables_bytes_max=400_000,
        )
        async with Node(config) as node:
            for round in range(12):
                await asyncio.gather(
                    *(node.store.put(b"%05d" % n, b"%d" % round * 20) for n in range(1500)),
                    return_exceptions=False,
                )
            while not node.keeper.idle():
                await asyncio.sleep(0)
            assert node.keeper.flushes >= 2
            assert any(node.multi.indexes(group)[0] > 0 for group in (1, 2)), "no log was compacted"
        async with Node(config) as node:
            found = [value async for _, value in node.store.scan()]
            assert found == [b"11" * 20] * 1500

    arun(main())


def test_a_node_shows_what_it_does(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path), shards=4)) as node:
            await node.store.put(b"k", b"v")
            status = node.status()
            assert (status.node, status.shards, status.groups, status.led, status.leaderless) == (
                1,
                4,
                5,
                5,
                0,
            )
            assert status.cluster_id and status.store_id and status.boot_count == 1
            assert status.proposed >= 2 and status.applied_entries >= 7
            assert status.waiting_calls == status.waiting_reads == status.apply_lag_entries == 0
            assert status.elections == 5 and status.quarantined == {} and not status.scarce
            assert status.sync_ns.count and 0 < status.sync_ns.p50 <= status.sync_ns.max
            assert status.batch_sizes.count == status.batches
            assert status.batch_sizes.total == status.batch_bytes
            assert status.turn_ns.count == status.turns and status.turn_ns_max == status.turn_ns.max
            assert status.apply_turn_ns.count and status.apply_turn_ns.total == status.apply_ns
            assert 0 < status.apply_lag_ns.count <= status.apply_turn_ns.count
            assert status.apply_lag_ns.max < 60 * 10**9
            assert status.log_queue_bytes == status.link_queue_bytes == 0
            assert 0 < status.log_used_bytes < status.log_map_bytes
            assert 0 < status.state_used_bytes < status.state_map_bytes
            assert f"sync_ns            {status.sync_ns}" in str(status)

    arun(main())


def test_p90_a_log_that_ends_before_the_state_is_refused_as_damaged(
    arun: Run, tmp_path: Path
) -> None:
    """An older copy of the log beside the state of today: what the state holds beyond it is gone from the log."""

    async def main() -> None:
        config = Config(data_dir=str(tmp_path / "node"), memtable_age_s=0.05)
        async with Node(config) as node:
            await node.store.put(b"k", b"old")
        shutil.copytree(tmp_path / "node" / "log", tmp_path / "copy")
        async with Node(config) as node:
            await node.store.put(b"k", b"new")
            flushes = node.keeper.flushes
            while node.keeper.flushes == flushes:
                await asyncio.sleep(0.01)
        shutil.rmtree(tmp_path / "node" / "log")
        (tmp_path / "copy").rename(tmp_path / "node" / "log")
        with pytest.raises(LogCorrupt, match="its log ends at"):
            await Node(config).start()

    arun(main())
