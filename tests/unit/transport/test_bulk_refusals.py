"""Files that are not taken, and senders that break the rules."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multiraft import disk
from multiraft._core import crc32c
from multiraft.errors import (
    MultiRaftError,
    NoSpace,
    Overloaded,
    PeerProtocolError,
    Rejected,
    Retryable,
    TooLarge,
    WrongCluster,
    WrongStore,
)
from multiraft.ids import NodeId
from multiraft.transport.bulk import BulkMessage, Op, Status, decode_bulk, encode_bulk
from multiraft.transport.hello import Purpose, Step, encode_hello
from multiraft.worker import InlineWorker
from tests.unit.transport.harness import (
    FAST,
    SMALL_CHUNKS,
    Arun,
    Recorder,
    bulk_pair,
    cluster,
    content,
    hello_of,
    make_file,
    poll,
    seal,
)
from tests.unit.transport.peers import Raw

# -- refusals --------------------------------------------------------------------------------------------------------------


def test_what_a_receiver_refuses(arun: Arun, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(replace(SMALL_CHUNKS, file_bytes_max=1000)) as nodes:
            one, two, three = Recorder(1), Recorder(2), Recorder(3)
            sender = await nodes.add(one)
            await nodes.add(two, directory=str(tmp_path / "incoming"))
            await nodes.add(three)
            nodes.join(1, 2)
            nodes.join(1, 3)
            large, _ = make_file(tmp_path, 1001)
            small, _ = make_file(tmp_path, 1000)
            with pytest.raises(TooLarge):
                await sender.send_file(NodeId(2), 1, large)
            with pytest.raises(TooLarge):
                await sender.send_file(NodeId(2), 1, small, bytes(70_000))
            with pytest.raises(MultiRaftError, match="takes no files"):
                await sender.send_file(NodeId(3), 1, small)
            with pytest.raises(Retryable, match="no address"):
                await sender.send_file(NodeId(4), 1, small)
            with pytest.raises(FileNotFoundError):
                await sender.send_file(NodeId(2), 1, str(tmp_path / "none"))
            two.refuse = lambda hello: WrongStore("another store")
            with pytest.raises(WrongStore):
                await sender.send_file(NodeId(2), 1, small)
            two.refuse = lambda hello: None
            one.own = hello_of(1, cluster_id=5)
            with pytest.raises(WrongCluster):
                await sender.send_file(NodeId(2), 1, small)
            one.own = hello_of(1)
            assert two.files == []
            await sender.send_file(NodeId(2), 1, small)
            assert len(two.files) == 1

    arun(main())


def test_a_busy_receiver_says_so(arun: Arun, tmp_path: Path) -> None:
    async def main() -> None:
        async with bulk_pair(
            tmp_path, replace(SMALL_CHUNKS, incoming_max=1, file_bytes_per_s=50_000)
        ) as (
            nodes,
            _,
            two,
            _directory,
        ):
            path, _ = make_file(tmp_path, 500_000)
            slow = asyncio.ensure_future(nodes.transports[1].send_file(NodeId(2), 1, path))
            await poll(lambda: len(nodes.transports[2]._inbox._arrivals) == 1, "one arrival")
            with pytest.raises(Overloaded):
                await nodes.transports[1].send_file(NodeId(2), 2, path)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            await poll(lambda: not nodes.transports[2]._inbox._arrivals, "no arrival")
            assert two.files == []

    arun(main())


def test_a_full_disk_is_told_and_leaves_nothing(
    arun: Arun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, directory):
            path, _ = make_file(tmp_path, 500_000)
            real = os.pwrite

            def pwrite(descriptor: int, data: Any, offset: int) -> int:
                if offset > 200_000:
                    raise OSError(28, "No space left on device")
                return real(descriptor, data, offset)

            monkeypatch.setattr(disk.os, "pwrite", pwrite)
            with pytest.raises(NoSpace):
                await nodes.transports[1].send_file(NodeId(2), 1, path)
            await poll(lambda: list(directory.iterdir()) == [], "an empty directory")
            monkeypatch.setattr(disk.os, "pwrite", real)
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert len(two.files) == 1

    arun(main())


def test_a_node_that_fails_on_a_file_has_not_taken_it(
    arun: Arun, tmp_path: Path, loop_problems: list[dict[str, Any]]
) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, _directory):
            path, _ = make_file(tmp_path, 50_000)

            def file_received(*arguments: Any) -> None:
                raise ZeroDivisionError("a bug")

            two.file_received = file_received  # type: ignore[method-assign]
            with pytest.raises(Retryable, match="a bug"):
                await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert [type(problem["exception"]) for problem in loop_problems] == [ZeroDivisionError]
            loop_problems.clear()

    arun(main())


def test_a_file_that_changes_while_it_is_sent_is_an_error(arun: Arun, tmp_path: Path) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path, replace(SMALL_CHUNKS, file_bytes_per_s=1_000_000)) as (
            nodes,
            _,
            two,
            _,
        ):
            path, _ = make_file(tmp_path, 600_000)
            sending = asyncio.ensure_future(nodes.transports[1].send_file(NodeId(2), 1, path))
            await poll(lambda: len(nodes.transports[2]._inbox._arrivals) == 1, "one arrival")
            os.truncate(path, 300_000)
            with pytest.raises(Rejected, match="changed"):
                await sending
            assert two.files == []

    arun(main())


# -- a hostile sender --------------------------------------------------------------------------------------------------------


def bulk_offer(step: Step, sequence: int) -> bytes:
    return seal(
        encode_hello(hello_of(9), step, Purpose.BULK),
        source=9,
        target=2,
        epoch=1,
        sequence=sequence,
    )


async def stranger(address: str) -> Raw:
    raw = await Raw.dial(address)
    await raw.say(bulk_offer(Step.OFFER, 1))
    await raw.frame()
    await raw.say(bulk_offer(Step.CONFIRM, 2))
    return raw


def say(message: BulkMessage, sequence: int) -> bytes:
    return seal(encode_bulk(message), source=9, target=2, epoch=1, sequence=sequence)


@pytest.mark.parametrize(
    "messages",
    [
        [BulkMessage(Op.CHUNK, 1, data=b"x")],
        [BulkMessage(Op.DONE, 1)],
        [BulkMessage(Op.BEGIN, 1, total=10, data=bytes(70_000))],
        [BulkMessage(Op.BEGIN, 1, total=10), BulkMessage(Op.BEGIN, 1, total=10)],
        [
            BulkMessage(Op.BEGIN, 1, total=10),
            None,
            BulkMessage(Op.CHUNK, 1, offset=5, data=b"x", crc=crc32c(b"x")),
        ],
        [
            BulkMessage(Op.BEGIN, 1, total=10),
            None,
            BulkMessage(Op.CHUNK, 2, data=b"x", crc=crc32c(b"x")),
        ],
        [
            BulkMessage(Op.BEGIN, 1, total=3),
            None,
            BulkMessage(Op.CHUNK, 1, data=b"xxxx", crc=crc32c(b"xxxx")),
        ],
        [BulkMessage(Op.BEGIN, 1, total=3), None, BulkMessage(Op.CHUNK, 1, data=b"")],
        [BulkMessage(Op.BEGIN, 1, total=3), None, BulkMessage(Op.CHUNK, 1, data=b"xxx", crc=1)],
    ],
    ids=[
        "no begin",
        "done",
        "long note",
        "two begins",
        "a gap",
        "another transfer",
        "too much",
        "empty",
        "damaged",
    ],
)
def test_p82_a_sender_that_breaks_the_rules_loses_its_connection(
    arun: Arun, tmp_path: Path, messages: list[BulkMessage | None]
) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, one, two, directory):
            raw = await stranger(nodes.addresses[2])
            sequence = 2
            for message in messages:
                if message is None:
                    answer = decode_bulk(memoryview(await raw.frame()))
                    assert answer.op is Op.READY and answer.offset == 0
                    continue
                sequence += 1
                await raw.say(say(message, sequence))
            await raw.rest()
            raw.close()
            await poll(lambda: not nodes.transports[2]._inbox._arrivals, "no arrival")
            assert two.files == []
            assert one.story == [("up", 2)]
            if directory.exists():
                assert all(item.suffix == ".part" for item in directory.iterdir())
            path, data = make_file(tmp_path, 1000)
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert content(two.files[0][2]) == data

    arun(main())


def test_p59_a_damaged_chunk_is_told_before_the_file_is_whole(arun: Arun, tmp_path: Path) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, _directory):
            raw = await stranger(nodes.addresses[2])
            await raw.say(say(BulkMessage(Op.BEGIN, 1, total=100), 3))
            assert decode_bulk(memoryview(await raw.frame())).op is Op.READY
            await raw.say(say(BulkMessage(Op.CHUNK, 1, data=b"xxx", crc=1), 4))
            answer = decode_bulk(memoryview(await raw.frame()))
            assert (answer.op, answer.status) == (Op.DONE, Status.DAMAGED)
            raw.close()
            assert two.files == []

    arun(main())


def test_broken_off_files_are_few(arun: Arun, tmp_path: Path) -> None:
    """A sender that begins one file after another and finishes none fills neither disk nor table."""

    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, _two, directory):
            for transfer in range(40):
                raw = await stranger(nodes.addresses[2])
                await raw.say(say(BulkMessage(Op.BEGIN, transfer, total=10), 3))
                assert decode_bulk(memoryview(await raw.frame())).op is Op.READY
                await raw.say(
                    say(BulkMessage(Op.CHUNK, transfer, data=b"12345", crc=crc32c(b"12345")), 4)
                )
                raw.close()
                await poll(lambda: not nodes.transports[2]._inbox._arrivals, "no arrival")
            limit = 2 * FAST.incoming_max
            assert len(nodes.transports[2]._inbox._files) <= limit
            await poll(lambda: len(list(directory.iterdir())) <= limit, "few files")

    arun(main())


def test_bulk_messages_survive_encoding() -> None:
    for message in (
        BulkMessage(Op.BEGIN, 2**64 - 1, total=2**40, crc=2**32 - 1, data=b"note"),
        BulkMessage(Op.DONE, 1, status=Status.NO_SPACE, data=b"full"),
        BulkMessage(Op.CHUNK, 3, offset=2**40, data=bytes(1024 * 1024)),
    ):
        assert decode_bulk(memoryview(encode_bulk(message))) == message
    with pytest.raises(PeerProtocolError):
        decode_bulk(memoryview(encode_bulk(BulkMessage(Op.CHUNK, 3, data=bytes(1024 * 1024 + 1)))))
    with pytest.raises(PeerProtocolError):
        decode_bulk(memoryview(encode_bulk(BulkMessage(Op.CHUNK, 3, data=b"abc")))[:-1])
    with pytest.raises(PeerProtocolError):
        decode_bulk(memoryview(encode_bulk(BulkMessage(9, 3))))  # type: ignore[arg-type]


class HeldJobs:
    """A worker that begins nothing until it is told to."""

    def __init__(self) -> None:
        self.held = False
        self._waiting: list[
            tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]
        ] = []
        self._inline = InlineWorker()

    def submit(
        self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        self._waiting.append((job, done))
        if not self.held:
            self.release()

    def release(self) -> None:
        self.held = False
        waiting, self._waiting = self._waiting, []
        for job, done in waiting:
            self._inline.submit(job, done)

    def close(self) -> None:
        self.release()


@pytest.mark.slow
def test_a_slow_disk_makes_the_sender_wait_and_bounds_memory(arun: Arun, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(replace(SMALL_CHUNKS, chunk_bytes=512 * 1024)) as nodes:
            one, two, jobs = Recorder(1), Recorder(2), HeldJobs()
            await nodes.add(one)
            await nodes.add(two, directory=str(tmp_path / "incoming"), jobs=jobs)
            nodes.join(1, 2)
            path, data = make_file(tmp_path, 40_000_000)
            sending = asyncio.ensure_future(nodes.transports[1].send_file(NodeId(2), 1, path))
            await poll(lambda: bool(nodes.transports[2]._inbox._files), "a file that arrives")
            arrival = next(iter(nodes.transports[2]._inbox._arrivals.values()))
            await poll(lambda: arrival._moved >= 3, "chunks")
            jobs.held = True
            await poll(
                lambda: arrival._waiting_bytes > 4 * 1024 * 1024, "chunks that wait for the disk"
            )
            moved = -1
            while moved != arrival._moved:  # until nothing comes any more
                moved = arrival._moved
                await asyncio.sleep(0.05)
            assert arrival._waiting_bytes < 6 * 1024 * 1024
            assert not sending.done()
            jobs.release()
            await sending
            assert content(two.files[0][2]) == data

    arun(main())
