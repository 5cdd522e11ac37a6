"""How a node ends: each way with its exit code and one clear line, and nothing acknowledged lost by it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from multiraft.cli.exits import Exit
from multiraft.cli.processes import NodeProcess
from multiraft.errors import MultiRaftError
from tests.cluster.serving import NODES, WAIT_S, Run, Served, ending, served

pytestmark = [pytest.mark.cluster, pytest.mark.loops("uvloop")]

KEYS = 200


# -- a directory that is not the one -------------------------------------------------------------------------------------


def test_p10_a_wiped_directory_ends_with_10(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as cluster:
            await cluster.start()
            await cluster.ready()
            await cluster.write(KEYS)
            await cluster.stop(3)
            shutil.rmtree(cluster.directory(3))
            await cluster.start(3)
            code, line = await ending(cluster.nodes[3])
            assert code == Exit.OTHER_CLUSTER and "wiped or swapped" in line
            await cluster.read(KEYS, via=(1, 2))
            await cluster.write(KEYS, name=b"later", via=(2, 1))

    arun(main())


def test_p90_an_older_copy_ends_with_10(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as cluster:
            await cluster.start()
            await cluster.ready()
            await cluster.stop(3)
            shutil.copytree(cluster.directory(3), tmp_path / "copy")
            await cluster.start(3)
            await cluster.ready(3)
            await cluster.write(KEYS)
            await cluster.stop(3)
            shutil.move(cluster.directory(3), tmp_path / "right")
            shutil.move(tmp_path / "copy", cluster.directory(3))
            await cluster.start(3)
            code, line = await ending(cluster.nodes[3])
            assert code == Exit.OTHER_CLUSTER and "older copy" in line
            await cluster.read(KEYS, via=(1, 2))
            shutil.rmtree(cluster.directory(3))
            shutil.move(tmp_path / "right", cluster.directory(3))  # the right one is taken back
            await cluster.start(3)
            await cluster.ready(3)
            await cluster.read(KEYS, via=(3,))

    arun(main())


def test_p84_another_clusters_data_ends_with_10_and_ends_nobody_else(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with served(tmp_path / "a") as one:
            await one.start()
            await one.ready()
            await one.write(KEYS, name=b"a")
            await one.stop()
            async with served(tmp_path / "b", like=one) as two:
                await two.start()
                await two.ready()
                await two.write(KEYS, name=b"b")
                await two.stop(3)
                stranger = two.nodes[3] = two.process(3, directory=one.directory(3))
                await stranger.start()
                code, line = await ending(stranger)
                assert code == Exit.OTHER_CLUSTER and "cluster" in line
                await two.read(KEYS, name=b"b", via=(1, 2))
                assert two.nodes[1].running and two.nodes[2].running
                await two.stop(1, 2)
            await one.start()
            await one.ready()
            await one.read(KEYS, name=b"a", via=(3,))

    arun(main())


def test_a_node_of_another_cluster_among_two_that_start_ends_alone(
    arun: Run, tmp_path: Path
) -> None:
    """All three start at the same moment, so nobody knows yet whose cluster is whose."""

    async def main() -> None:
        async with served(tmp_path / "a") as one, served(tmp_path / "b", like=one) as two:
            for cluster in (one, two):
                await cluster.start()
                await cluster.ready()
                await cluster.write(KEYS)
                for process in cluster.nodes.values():
                    await process.kill()
            two.nodes[3] = two.process(3, directory=one.directory(3))
            await two.start()
            code, _ = await ending(two.nodes[3])
            assert code == Exit.OTHER_CLUSTER
            await two.read(KEYS, via=(1, 2))
            assert two.nodes[1].running and two.nodes[2].running

    arun(main())


def test_another_nodes_directory_ends_with_10(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as cluster:
            await cluster.start()
            await cluster.ready()
            await cluster.write(KEYS)
            await cluster.stop(1, 3)
            swapped = cluster.nodes[3] = cluster.process(3, directory=cluster.directory(1))
            await swapped.start()
            code, line = await ending(swapped)
            assert code == Exit.OTHER_CLUSTER and "not that of node 3" in line
            await cluster.start(1)
            await cluster.read(KEYS, via=(2,))

    arun(main())


# -- damage --------------------------------------------------------------------------------------------------------------


def flip(path: Path, *, after: bytes) -> None:
    """One bit of what stands in a file behind these bytes, wherever they are."""
    data = bytearray(path.read_bytes())
    at = data.find(after)
    assert at >= 0
    while at >= 0:
        data[at + len(after)] ^= 1
        at = data.find(after, at + 1)
    path.write_bytes(data)


async def damaged(cluster: Served) -> tuple[int, str]:
    """Start node 3 and see it end; the others have everything."""
    await cluster.start(3)
    found = await ending(cluster.nodes[3])
    await cluster.read(KEYS, via=(1, 2))
    return found


def test_p18_a_damaged_log_ends_with_11_and_names_what_is_damaged(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with served(tmp_path, shards=1) as cluster:
            await cluster.start()
            await cluster.ready()
            await cluster.write(KEYS)
            await cluster.read(KEYS, via=(3,))  # so node 3 has applied it, and its log has it
            await cluster.nodes[3].kill()
            flip(cluster.directory(3) / "log" / "data.mdb", after=b"k%d" % (KEYS - 1))
            code, line = await damaged(cluster)
            assert code == Exit.DAMAGED and "group 1" in line, line

    arun(main())


def test_a_log_cut_short_ends_with_11(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as cluster:
            await cluster.start()
            await cluster.ready()
            await cluster.write(KEYS)
            await cluster.nodes[3].kill()
            os.truncate(cluster.directory(3) / "log" / "data.mdb", 8192)
            code, line = await damaged(cluster)
            assert code == Exit.DAMAGED and "cut short" in line, line

    arun(main())


@pytest.mark.parametrize("how", ["meta", "cut"])
def test_a_damaged_state_file_ends_with_11(arun: Run, tmp_path: Path, how: str) -> None:
    async def main() -> None:
        async with served(tmp_path) as cluster:
            await cluster.start()
            await cluster.ready()
            await cluster.write(KEYS)
            await cluster.stop(3)
            path = cluster.directory(3) / "state" / "data.mdb"
            with path.open("r+b") as file:
                if how == "meta":
                    file.write(b"\xa5" * 8192)
                else:
                    file.truncate(3 * 4096)
            code, line = await damaged(cluster)
            assert code == Exit.DAMAGED and "state" in line, line

    arun(main())


def test_p91_a_flipped_bit_in_the_state_is_never_an_answer(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, shards=1) as cluster:
            config = tmp_path / "flush.toml"
            config.write_text("memtable_age_s = 0.1\n")
            cluster.nodes[3] = cluster.process(3, "--config", str(config))
            await cluster.start()
            await cluster.ready()
            await cluster.write(KEYS)
            await cluster.read(KEYS, via=(3,))
            path = cluster.directory(3) / "state" / "data.mdb"
            async with asyncio.timeout(WAIT_S):
                while b"k%d" % (KEYS - 1) not in path.read_bytes():
                    await asyncio.sleep(0.05)  # only the file tells that it was flushed
            await cluster.nodes[3].kill()
            flip(path, after=b"k%d" % (KEYS - 1))
            await cluster.start(3)
            await cluster.ready(3)
            async with cluster.client(3) as client:
                with pytest.raises(MultiRaftError, match="is damaged"):
                    await client.get(b"k%d" % (KEYS - 1), stale=True)
            await cluster.read(KEYS, via=(1, 2))

    arun(main())


def test_a_state_file_that_is_gone_is_made_again_from_a_whole_log(
    arun: Run, tmp_path: Path
) -> None:
    async def main() -> None:
        async with served(tmp_path) as cluster:
            await cluster.start()
            await cluster.ready()
            await cluster.write(KEYS)
            await cluster.stop()
            for node in NODES:
                (cluster.directory(node) / "state" / "data.mdb").unlink()
            await cluster.start()
            await cluster.ready()
            await cluster.read(KEYS)

    arun(main())


# -- what is in use ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["--listen", "--client-listen"])
def test_a_port_in_use_ends_with_13(arun: Run, tmp_path: Path, port: str) -> None:
    async def main() -> None:
        async with served(tmp_path / "a") as one, served(tmp_path / "b") as two:
            await one.start(1)
            await one.nodes[1].heard("serves clients")
            taken = one.addresses[1] if port == "--listen" else one.clients_at[1]
            late = two.nodes[1] = two.process(1, port, taken)
            await late.start()
            code, line = await ending(late)
            assert code == Exit.ADDRESS_IN_USE and taken in line, line

    arun(main())


def test_a_directory_in_use_ends_with_14(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, nodes=(1,)) as cluster:
            await cluster.start()
            await cluster.ready()
            await cluster.write(KEYS)
            late = cluster.process(1, "--client-listen", "127.0.0.1:0")
            late.log = tmp_path / "late.log"
            await late.start()
            code, line = await ending(late)
            assert code == Exit.DIRECTORY_IN_USE and str(cluster.directory(1)) in line
            await cluster.read(KEYS)

    arun(main())


@pytest.mark.parametrize(
    "flags",
    [
        ("--no-such-flag",),
        ("--node-id", "0"),
        ("--node", "nonsense"),
        ("--listen", "127.0.0.1"),
        ("--client-listen", "0.0.0.0:0"),
        ("--tls-key", "k.pem"),
        ("--config", "absent.toml"),
    ],
)
def test_bad_usage_ends_with_2(arun: Run, tmp_path: Path, flags: tuple[str, ...]) -> None:
    async def main() -> None:
        process = NodeProcess(
            "bad", ["--data-dir", str(tmp_path / "n"), *flags], tmp_path / "bad.log"
        )
        await process.start()
        try:
            code, _ = await ending(process)
        finally:
            await process.kill()
        assert code == Exit.USAGE

    arun(main())


# -- closing in peace ----------------------------------------------------------------------------------------------------


def test_sigterm_hands_leaderships_over_and_answers_everybody(arun: Run, tmp_path: Path) -> None:
    """Writes go on through the nodes that stay and through the one that closes; of those, none is lost, and none unknown."""

    async def main() -> None:
        async with served(tmp_path, shards=8) as cluster:
            await cluster.start()
            await cluster.ready()
            done: list[bytes] = []
            stop = asyncio.Event()

            async def write(number: int, *order: int) -> None:
                async with cluster.client(*order) as client:
                    while not stop.is_set():
                        key = b"%d-%d" % (number, len(done))
                        await client.put(key, key)  # what is unknown would raise here
                        done.append(key)

            orders = [(1, 2, 3), (2, 3, 1), (3, 1, 2)] * 4
            writers = [
                asyncio.ensure_future(write(number, *order)) for number, order in enumerate(orders)
            ]
            while len(done) < 200:
                await asyncio.wait(writers, timeout=0.05, return_when=asyncio.FIRST_EXCEPTION)
            code = await cluster.nodes[3].stop()
            before = len(done)
            while len(done) < before + 200:
                await asyncio.wait(writers, timeout=0.05, return_when=asyncio.FIRST_EXCEPTION)
                assert not any(writer.done() and writer.exception() for writer in writers)
            stop.set()
            await asyncio.gather(*writers)
            assert code == Exit.CLOSED
            assert "node 3 is closed" in cluster.nodes[3].said
            async with cluster.client(1) as client:
                assert await client.get_many(done) == done
                assert (await client.status())["leaderless"] == 0

    arun(main())


def test_all_nodes_closed_and_started_again_have_everything(arun: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as cluster:
            await cluster.start()
            await cluster.ready()
            await cluster.write(KEYS)
            await cluster.stop()
            await cluster.start()
            await cluster.ready()
            for node in NODES:
                await cluster.read(KEYS, via=(node,))

    arun(main())


# -- a full disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small file system needs root")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take all that is free on a disk."""
    junk = place / "junk"
    with junk.open("wb", buffering=0) as file:
        size = 1024 * 1024
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
    return junk


def test_a_full_disk_ends_with_12(arun: Run, tmp_path: Path, small_disk: Path) -> None:
    async def main() -> None:
        async with served(tmp_path / "c", nodes=(1,)) as cluster:
            junk = fill(small_disk)
            full = cluster.nodes[1] = cluster.process(1, directory=small_disk / "n1")
            await full.start()
            code, line = await ending(full)
            assert code == Exit.NO_SPACE, line
            junk.unlink()
            await full.start()
            await full.ready()

    arun(main())


def test_p13_a_disk_that_fills_up_loses_nothing(
    arun: Run, tmp_path: Path, small_disk: Path
) -> None:
    """Started again on a full disk, a node serves what it has or says that there is no space; nothing is gone."""

    async def main() -> None:
        async with served(tmp_path / "c", nodes=(1,)) as cluster:
            config = tmp_path / "small.toml"
            config.write_text("reserve_bytes = 4194304\nlog_budget_bytes = 8388608\n")
            node = cluster.nodes[1] = cluster.process(
                1, "--config", str(config), directory=small_disk / "n1"
            )
            await node.start()
            await node.ready()
            await cluster.write(KEYS)
            await node.kill()
            junk = fill(small_disk)
            await node.start()
            try:
                await node.heard("serves clients")
            except Exception:
                code, line = await ending(node)
                assert code == Exit.NO_SPACE, line
            else:
                await cluster.read(KEYS)
                await node.kill()
            junk.unlink()
            await node.start()
            await node.ready()
            await cluster.read(KEYS)
            await cluster.write(KEYS, name=b"more")
            node.send(signal.SIGTERM)
            assert await node.ended() == Exit.CLOSED

    arun(main())
