"""Disks for tests: a place on the real or on a simulated one, and a small file system of its own to be filled up."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from multiraft.disk import RealDisk
from multiraft.interfaces import Disk
from multiraft.testing.disk import SimulatedDisk


@dataclass(frozen=True)
class Home:
    """A path on a disk. The fixture ``home`` runs a test on the real disk and on a simulated one."""

    disk: Disk
    path: Path

    def __truediv__(self, name: str) -> Home:
        return Home(self.disk, self.path / name)

    @property
    def simulated(self) -> bool:
        return isinstance(self.disk, SimulatedDisk)


def placed(where: Path | Home) -> Home:
    """A bare path is one on the real disk."""
    return where if isinstance(where, Home) else Home(RealDisk(), where)


def home_on(kind: str, folder: Path, seed: int = 1) -> Home:
    if kind == "real":
        return Home(RealDisk(), folder)
    disk = SimulatedDisk(random.Random(seed))
    disk.make_directory(Path("/node"))
    return Home(disk, Path("/node"))


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """Mount one at ``path``, or skip the test with the reason why that cannot be."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def fill_up(folder: Path) -> Path:
    """Take every free block, as somebody else would; the file to remove for room."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        while True:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, 1 << 16)
            except OSError:
                return ballast
