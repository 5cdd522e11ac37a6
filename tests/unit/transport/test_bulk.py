"""Files between nodes: whole or not at all, over broken connections and damage, beside the frames."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.transport.harness import (
    Arun,
    FAST,
    Cluster,
    Raw,
    Recorder,
    Relay,
    cluster,
    hello_of,
    make_frame,
    poll,
    seal,
)

from multiraft._core import crc32c
from multiraft.errors import (
    Closed,
    LinkLost,
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
from multiraft.interfaces import FileMeta
from multiraft.transport import files
from multiraft.transport.bulk import BulkMessage, Op, Status, decode_bulk, encode_bulk
from multiraft.transport.files import IncomingFile
from multiraft.transport.hello import Purpose, Step, encode_hello
from multiraft.transport.throttle import Throttle
from multiraft.worker import InlineWorker

SMALL_CHUNKS = replace(FAST, chunk_bytes=16 * 1024, file_bytes_per_s=2**40)


@asynccontextmanager
async def bulk_pair(
    tmp_path: Path, options: Any = SMALL_CHUNKS
) -> AsyncIterator[tuple[Cluster, Recorder, Recorder, Path]]:
    """Nodes 1 and 2; node 1 knows the address of node 2, which takes files into the directory."""
    async with cluster(options) as nodes:
        one, two = Recorder(1), Recorder(2)
        await nodes.add(one)
        directory = tmp_path / "incoming"
        await nodes.add(two, directory=str(directory))
        nodes.join(1, 2)
        await one.until_up(2)
        yield nodes, one, two, directory


def make_file(tmp_path: Path, size: int, seed: int = 1) -> tuple[str, bytes]:
    data = random.Random(seed).randbytes(size)
    path = tmp_path / f"snapshot-{size}-{seed}"
    path.write_bytes(data)
    return str(path), data


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 3_000_000])
def test_a_file_arrives_whole(arun: Arun, tmp_path: Path, size: int) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, directory):
            path, data = make_file(tmp_path, size)
            await nodes.transports[1].send_file(NodeId(2), 77, path, b"group 5 at index 9")
            assert [(node, transfer) for node, transfer, _, _ in two.files] == [(1, 77)]
            _, _, received, meta = two.files[0]
            assert Path(received).parent == directory
            assert Path(received).read_bytes() == data
            assert meta == FileMeta(size, crc32c(data), b"group 5 at index 9")
            assert sorted(item.name for item in directory.iterdir()) == [Path(received).name]

    arun(main())


def test_file_and_directory_are_synced_before_anybody_is_told(
    arun: Arun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """p21: order of the calls: data synced, renamed, directory synced, told."""
    calls: list[str] = []
    real = {"fsync": os.fsync, "replace": os.replace}

    def fsync(descriptor: int) -> None:
        calls.append(
            "sync directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync file"
        )
        real["fsync"](descriptor)

    def rename(source: Path, target: Path) -> None:
        calls.append("rename")
        real["replace"](source, target)

    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, _directory):
            path, _ = make_file(tmp_path, 50_000)
            told = two.file_received

            def file_received(*arguments: Any) -> None:
                calls.append("told")
                told(*arguments)

            two.file_received = file_received  # type: ignore[method-assign]
            monkeypatch.setattr(files.os, "fsync", fsync)
            monkeypatch.setattr(files.os, "replace", rename)
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert calls == ["sync file", "rename", "sync directory", "told"]

    arun(main())


def test_p59_damage_in_the_middle_is_sent_again(arun: Arun, tmp_path: Path) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, one, two, _):
            relay = Relay(nodes.addresses[2])
            nodes.transports[1].set_address(NodeId(2), await relay.open())
            path, data = make_file(tmp_path, 2_000_000)
            damaged = 0

            def mangle(part: bytes) -> bytes:
                nonlocal damaged
                if relay.forwarded > 1_000_000 and not damaged:
                    damaged = relay.forwarded
                    return bytes([part[0] ^ 1]) + part[1:]
                return part

            relay.mangle = mangle
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert damaged
            assert relay.connections == 2
            assert relay.forwarded < 1.7 * len(data)  # the good part was not sent twice
            assert Path(two.files[0][2]).read_bytes() == data
            assert one.story == [("up", 2)]  # the link saw nothing of it
            await relay.close()

    arun(main())


def test_p59_damage_that_stays_is_an_error_of_the_sender(
    arun: Arun, tmp_path: Path
) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, directory):
            relay = Relay(nodes.addresses[2])
            nodes.transports[1].set_address(NodeId(2), await relay.open())
            path, _ = make_file(tmp_path, 400_000)
            # The hello and the offer pass; of the chunks one bit in a thousand bytes is wrong.
            relay.mangle = lambda part: (
                part if len(part) < 500 else part[:900] + bytes([part[900] ^ 8]) + part[901:]
            )
            with pytest.raises(PeerProtocolError, match="damaged twice"):
                await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert relay.connections == 2
            assert two.files == []
            assert [item for item in directory.iterdir() if item.suffix == ".file"] == []
            await relay.close()

    arun(main())


def test_p59_a_file_that_does_not_match_its_whole_checksum_begins_anew(
    arun: Arun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage that no chunk's checksum sees, as by a disk: found at the end, sent again from the start, once."""

    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, _directory):
            path, data = make_file(tmp_path, 200_000)
            finish = IncomingFile.finish
            times = []

            def spoiled(self: IncomingFile) -> str:
                times.append(1)
                if len(times) <= spoil:
                    self._running_crc ^= 1
                return finish(self)

            monkeypatch.setattr(IncomingFile, "finish", spoiled)
            spoil = 1
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert len(times) == 2
            assert Path(two.files[0][2]).read_bytes() == data
            times.clear()
            spoil = 2
            with pytest.raises(PeerProtocolError, match="damaged twice"):
                await nodes.transports[1].send_file(NodeId(2), 2, path)
            assert len(two.files) == 1

    arun(main())


def test_a_broken_connection_goes_on_where_it_was(
    arun: Arun, tmp_path: Path
) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, _):
            relay = Relay(nodes.addresses[2])
            nodes.transports[1].set_address(NodeId(2), await relay.open())
            path, data = make_file(tmp_path, 4_000_000)
            cuts = [600_000, 1_400_000, 2_200_000, 3_000_000]

            def mangle(part: bytes) -> bytes:
                if cuts and relay.forwarded > cuts[0]:
                    cuts.pop(0)
                    relay.cut()
                return part

            relay.mangle = mangle
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert cuts == []
            assert relay.connections == 5
            assert relay.forwarded < 1.6 * len(data)
            assert Path(two.files[0][2]).read_bytes() == data
            await relay.close()

    arun(main())


def test_a_connection_that_always_breaks_is_given_up(
    arun: Arun, tmp_path: Path
) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, _):
            relay = Relay(nodes.addresses[2])
            nodes.transports[1].set_address(NodeId(2), await relay.open())
            path, _ = make_file(tmp_path, 100_000)

            def mangle(part: bytes) -> bytes:
                relay.cut()
                return part

            relay.mangle = mangle
            with pytest.raises(LinkLost):
                await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert relay.connections == FAST.file_tries_max
            assert two.files == []
            await relay.close()

    arun(main())


def test_a_stalled_receiver_is_given_up_after_the_idle_time(
    arun: Arun, tmp_path: Path
) -> None:
    async def main() -> None:
        options = replace(SMALL_CHUNKS, file_idle_s=0.2, file_tries_max=1)
        async with bulk_pair(tmp_path, options) as (nodes, _, two, _):
            relay = Relay(nodes.addresses[2])
            nodes.transports[1].set_address(NodeId(2), await relay.open())
            path, _ = make_file(tmp_path, 30_000_000)

            def mangle(part: bytes) -> bytes:
                if relay.forwarded > 200_000:
                    relay.running.clear()
                return part

            relay.mangle = mangle
            with pytest.raises(LinkLost):
                await nodes.transports[1].send_file(NodeId(2), 1, path)
            # The receiver, too, sees that nothing moves, and frees its place.
            await poll(lambda: not nodes.transports[2]._inbox._arrivals, "no arrival")
            relay.running.set()
            await relay.close()
            assert two.files == []

    arun(main())


def test_p77_a_file_does_not_hold_up_frames(arun: Arun, tmp_path: Path) -> None:
    async def main() -> None:
        options = replace(FAST, file_bytes_per_s=100_000_000)
        async with bulk_pair(tmp_path, options) as (nodes, one, two, _):
            path, _ = make_file(tmp_path, 30_000_000)
            sending = asyncio.ensure_future(nodes.transports[1].send_file(NodeId(2), 1, path))
            loop = asyncio.get_running_loop()
            two.on_frame = lambda node, view: (
                nodes.transports[2].send(NodeId(1), make_frame(b"pong")) and None
            )
            worst, rounds = 0.0, 0
            while not sending.done():
                begin = loop.time()
                assert nodes.transports[1].send(NodeId(2), make_frame(b"ping"))
                rounds += 1
                await one.until(lambda: one.received_count == rounds, "pong")  # noqa: B023
                worst = max(worst, loop.time() - begin)
                await asyncio.sleep(0.005)
            await sending
            assert rounds > 10
            assert worst < 0.25  # a whole election timeout is four times that

    arun(main())


def test_the_rate_is_kept(arun: Arun, tmp_path: Path) -> None:
    async def main() -> None:
        options = replace(SMALL_CHUNKS, file_bytes_per_s=2_000_000)
        async with bulk_pair(tmp_path, options) as (nodes, _, _two, _directory):
            path, _ = make_file(tmp_path, 800_000)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert 0.25 < loop.time() - begin < 3

    arun(main())


def test_a_throttle_saves_up_no_more_than_its_burst(arun: Arun) -> None:
    async def main() -> None:
        throttle = Throttle(100_000, burst_s=0.1)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.15)
        begin = loop.time()
        for _ in range(4):
            await throttle.take(10_000)
        # The first is covered by what was saved up; each of the others waits for the one before it.
        assert 0.18 < loop.time() - begin < 1

    arun(main())


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

            monkeypatch.setattr(files.os, "pwrite", pwrite)
            with pytest.raises(NoSpace):
                await nodes.transports[1].send_file(NodeId(2), 1, path)
            await poll(lambda: list(directory.iterdir()) == [], "an empty directory")
            monkeypatch.setattr(files.os, "pwrite", real)
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert len(two.files) == 1

    arun(main())


def test_a_file_that_changes_while_it_is_sent_is_an_error(
    arun: Arun, tmp_path: Path
) -> None:
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


def test_unfinished_files_of_an_earlier_life_are_removed(
    arun: Arun, tmp_path: Path
) -> None:
    async def main() -> None:
        directory = tmp_path / "incoming"
        directory.mkdir()
        (directory / "incoming-1-0000000000000001.part").write_bytes(b"left over")
        (directory / "incoming-1-0000000000000002.file").write_bytes(b"the node's own")
        async with bulk_pair(tmp_path) as (nodes, _, two, _):
            path, data = make_file(tmp_path, 20_000)
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert Path(two.files[0][2]).read_bytes() == data
            names = sorted(item.name for item in directory.iterdir())
            assert names == ["incoming-1-0000000000000001.file", "incoming-1-0000000000000002.file"]

    arun(main())


def test_many_files_at_once_and_the_bounds_on_them(
    arun: Arun, tmp_path: Path
) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, _):
            sent = {number: make_file(tmp_path, 300_000, seed=number) for number in range(10)}
            most = 0

            def watch(path: str) -> None:
                nonlocal most
                most = max(most, len(nodes.transports[2]._inbox._arrivals))

            two.on_frame = lambda node, view: None
            told = two.file_received

            def file_received(node: NodeId, transfer: int, path: str, meta: FileMeta) -> None:
                watch(path)
                told(node, transfer, path, meta)

            two.file_received = file_received  # type: ignore[method-assign]
            await asyncio.gather(
                *(
                    nodes.transports[1].send_file(NodeId(2), number, path)
                    for number, (path, _) in sent.items()
                )
            )
            assert 1 <= most <= FAST.outgoing_max
            for _, transfer, path, _ in two.files:
                assert Path(path).read_bytes() == sent[transfer][1]
            assert len(two.files) == 10

    arun(main())


@pytest.mark.parametrize("closing", [1, 2])
def test_close_in_the_middle_of_a_file(
    arun: Arun, tmp_path: Path, closing: int
) -> None:
    async def main() -> None:
        options = replace(SMALL_CHUNKS, file_bytes_per_s=1_000_000)
        async with bulk_pair(tmp_path, options) as (nodes, _, two, directory):
            path, _ = make_file(tmp_path, 3_000_000)
            sending = asyncio.ensure_future(nodes.transports[1].send_file(NodeId(2), 1, path))
            await poll(
                lambda: directory.exists() and list(directory.iterdir()) != [],
                "a file that arrives",
            )
            async with asyncio.timeout(3):
                await nodes.transports[closing].close()
            with pytest.raises(Closed if closing == 1 else LinkLost):
                await sending
            if closing == 2:
                assert list(directory.iterdir()) == []
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
            assert Path(two.files[0][2]).read_bytes() == data

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


def test_a_slow_disk_makes_the_sender_wait_and_bounds_memory(
    arun: Arun, tmp_path: Path
) -> None:
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
            assert Path(two.files[0][2]).read_bytes() == data

    arun(main())
