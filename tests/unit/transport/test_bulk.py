"""Files between nodes: whole or not at all, over broken connections and damage, beside the frames."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multiraft import disk
from multiraft._core import crc32c
from multiraft.errors import (
    Closed,
    LinkLost,
    PeerProtocolError,
)
from multiraft.ids import NodeId
from multiraft.interfaces import FileMeta
from multiraft.transport.files import IncomingFile
from multiraft.transport.throttle import Throttle
from tests.unit.transport.harness import (
    FAST,
    SMALL_CHUNKS,
    Arun,
    bulk_pair,
    content,
    make_file,
    make_frame,
    poll,
)
from tests.unit.transport.peers import Relay


@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 16 * 1024 + 1, 3_000_000])
def test_a_file_arrives_whole(arun: Arun, tmp_path: Path, size: int) -> None:
    async def main() -> None:
        async with bulk_pair(tmp_path) as (nodes, _, two, directory):
            path, data = make_file(tmp_path, size)
            await nodes.transports[1].send_file(NodeId(2), 77, path, b"group 5 at index 9")
            assert [(node, transfer) for node, transfer, _, _ in two.files] == [(1, 77)]
            _, _, received, meta = two.files[0]
            assert Path(received).parent == directory
            assert content(received) == data
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
            monkeypatch.setattr(disk.os, "fsync", fsync)
            monkeypatch.setattr(disk.os, "replace", rename)
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            # Before it, the folder of files was made.
            assert calls[-4:] == ["sync file", "rename", "sync directory", "told"]
            assert calls.count("rename") == 1

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
            assert content(two.files[0][2]) == data
            assert one.story == [("up", 2)]  # the link saw nothing of it
            await relay.close()

    arun(main())


def test_p59_damage_that_stays_is_an_error_of_the_sender(arun: Arun, tmp_path: Path) -> None:
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
            assert content(two.files[0][2]) == data
            times.clear()
            spoil = 2
            with pytest.raises(PeerProtocolError, match="damaged twice"):
                await nodes.transports[1].send_file(NodeId(2), 2, path)
            assert len(two.files) == 1

    arun(main())


@pytest.mark.slow
def test_a_broken_connection_goes_on_where_it_was(arun: Arun, tmp_path: Path) -> None:
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
            assert content(two.files[0][2]) == data
            await relay.close()

    arun(main())


def test_a_connection_that_always_breaks_is_given_up(arun: Arun, tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_a_stalled_receiver_is_given_up_after_the_idle_time(arun: Arun, tmp_path: Path) -> None:
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


@pytest.mark.slow
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
                await one.until(lambda: one.received_count == rounds, "pong")
                worst = max(worst, loop.time() - begin)
                await asyncio.sleep(0.005)
            await sending
            assert rounds > 10
            assert worst < 1.0  # an election timeout, on a machine that is busy with other things

    arun(main())


@pytest.mark.slow
def test_the_rate_is_kept(arun: Arun, tmp_path: Path) -> None:
    async def main() -> None:
        options = replace(SMALL_CHUNKS, file_bytes_per_s=2_000_000)
        async with bulk_pair(tmp_path, options) as (nodes, _, _two, _directory):
            path, _ = make_file(tmp_path, 800_000)
            loop = asyncio.get_running_loop()
            begin = loop.time()
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert loop.time() - begin > 0.25

    arun(main())


@pytest.mark.slow
def test_a_throttle_saves_up_no_more_than_its_burst(arun: Arun) -> None:
    async def main() -> None:
        throttle = Throttle(100_000, burst_s=0.1)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.15)
        begin = loop.time()
        for _ in range(4):
            await throttle.take(10_000)
        # The first is covered by what was saved up; each of the others waits for the one before it.
        assert loop.time() - begin > 0.18

    arun(main())


def test_unfinished_files_of_an_earlier_life_are_removed(arun: Arun, tmp_path: Path) -> None:
    async def main() -> None:
        directory = tmp_path / "incoming"
        directory.mkdir()
        (directory / "incoming-1-0000000000000001.part").write_bytes(b"left over")
        (directory / "incoming-1-0000000000000002.file").write_bytes(b"the node's own")
        async with bulk_pair(tmp_path) as (nodes, _, two, _):
            path, data = make_file(tmp_path, 20_000)
            await nodes.transports[1].send_file(NodeId(2), 1, path)
            assert content(two.files[0][2]) == data
            names = sorted(item.name for item in directory.iterdir())
            assert names == ["incoming-1-0000000000000001.file", "incoming-1-0000000000000002.file"]

    arun(main())


def test_many_files_at_once_and_the_bounds_on_them(arun: Arun, tmp_path: Path) -> None:
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
                assert content(path) == sent[transfer][1]
            assert len(two.files) == 10

    arun(main())


@pytest.mark.parametrize("closing", [1, 2])
def test_close_in_the_middle_of_a_file(arun: Arun, tmp_path: Path, closing: int) -> None:
    async def main() -> None:
        options = replace(SMALL_CHUNKS, file_bytes_per_s=1_000_000)
        async with bulk_pair(tmp_path, options) as (nodes, _, two, directory):
            path, _ = make_file(tmp_path, 3_000_000)
            sending = asyncio.ensure_future(nodes.transports[1].send_file(NodeId(2), 1, path))
            await poll(
                lambda: directory.exists() and list(directory.iterdir()) != [],
                "a file that arrives",
            )
            async with asyncio.timeout(10):
                await nodes.transports[closing].close()
            with pytest.raises(Closed if closing == 1 else LinkLost):
                await sending
            if closing == 2:
                assert list(directory.iterdir()) == []
            assert two.files == []

    arun(main())
