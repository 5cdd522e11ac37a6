"""No room: an ext4 file system in a file fills up, and maps are full while the process is killed or the power goes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.crash.conftest import LONG, Yard
from tests.crash.test_kill import Kills, points_of, sample
from tests.crash.test_power import cut
from tests.unit.disks import fill_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if LONG else 110)]


@contextmanager
def small_ext4(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own on a loop device, or a skip with the reason why that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system on a loop device needs root")
    make = shutil.which("mkfs.ext4", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if make is None:
        pytest.skip("mkfs.ext4 is not installed (Debian: apt-get install e2fsprogs)")
    image, mount = place / "ext4.img", place / "ext4"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run([make, "-q", "-F", "-m", "0", str(image)], check=True, capture_output=True)
    mounted = subprocess.run(
        ["mount", "-o", "loop", str(image), str(mount)], capture_output=True, check=False
    )
    try:
        if mounted.returncode:
            pytest.skip(f"no loop device can be mounted here: {mounted.stderr.decode().strip()}")
        yield mount
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", str(mount)], check=True)
        image.unlink()
        mount.rmdir()


def leave(mount: Path, room: int) -> Path:
    """Fill the disk but for so many bytes; the file to remove for room."""
    ballast = fill_up(mount)
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - room))
    return ballast


def test_p13_a_node_on_a_full_ext4_refuses_reads_deletes_and_heals(yard: Yard) -> None:
    with small_ext4(yard.folder, 40) as mount:
        ballast = leave(mount, 8 << 20)
        ended = yard.nursery.run("tests.crash.victim:full", mount / "node", ballast)
        assert ended.code == 0, ended.errors
        assert {"full", "healed"} <= {each[0] for each in ended.notes}
        assert yard.judge("node", mount / "node", ended.notes) == ["sound"]


ROOM = [0, 1 << 17, 1 << 20, *range(1_400_000, 1_700_000, 20_000), 1 << 21]


def test_p13_a_disk_that_is_full_at_any_moment_loses_nothing(yard: Yard) -> None:
    """Without a reserve: it fills up in the middle of whatever is done. With room again, all is there."""
    said = []
    with small_ext4(yard.folder, 40) as mount:
        for room in ROOM:
            folder = mount / f"node-{room}"
            folder.mkdir()
            ballast = leave(mount, room)
            ended = yard.nursery.run("tests.crash.victim:node", folder)
            assert ended.code == 0, (room, ended.code, ended.errors)
            how = [each[1] for each in ended.notes if each[0] in ("ended", "refused")]
            errors = {each[1] for each in ended.notes if each[0] == "error"}
            said.append((room, *(how or sorted(errors) or ["went on"])))
            ballast.unlink()
            found = yard.judge("node", folder, ended.notes)
            assert found == ["sound"], (room, how, found)
            shutil.rmtree(folder)
    yard.tell(str(said))
    assert any("NoSpace" in each for each in said), said
    assert any("went on" in each for each in said), said


def test_p14_a_map_that_is_full_when_the_power_goes_or_the_process_is_killed(
    strace: None, yard: Yard
) -> None:
    recorded = yard.recorded("grown")
    maps = next(each[1:] for each in recorded.ended.notes if each[0] == "maps")
    assert min(maps) > 1 << 21, "the maps were never full"
    tally, bad = cut(yard, "grown", 0, 1 if LONG else 12, 6)
    assert bad == [] and tally["sound"] > 50
    kills = Kills(yard, "grown")
    every = points_of(yard, recorded)
    yard.side_by_side(every if LONG else sample(every, 20), kills.begin, kills.judge)
    assert len(kills.reached) >= 15
