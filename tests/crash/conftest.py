"""What the crash tests share: a nursery, a place in memory for the files, recordings of each life, and how much is done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.crash.nursery import Ended, Nursery
from tests.crash.recording import OPTIONS, Recording

LONG = os.environ.get("MULTIRAFT_CRASH") == "long"
"""`make crash`: every point, and many more images."""
AT_ONCE = 3


@dataclass
class Recorded:
    """One whole run of a life."""

    life: str
    trace: Path
    folder: Path
    base: Path | None
    """What was there before; None: nothing."""
    ended: Ended
    before: list[list[Any]]
    """What had been noted before it began."""


class Yard:
    """Where victims live and are judged. Everything in it lies below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nursery = Nursery(folder)
        self._recorded: dict[tuple[str, str], Recorded] = {}
        self._behind: tuple[Path, list[list[Any]]] | None = None
        self._count = 0

    def new(self, base: Path | None = None) -> Path:
        self._count += 1
        made = self.folder / f"life-{self._count}"
        if base is None:
            made.mkdir()
        else:
            shutil.copytree(base, made)
        return made

    def base(self, life: str) -> tuple[Path | None, list[list[Any]]]:
        """What a life begins with: (folder, what had been noted until then)."""
        if life != "trio":
            return None, []
        if self._behind is None:
            folder = self.new()
            ended = self.nursery.run("tests.crash.victim:behind", folder)
            assert ended.code == 0, ended.errors
            self._behind = folder, ended.notes
        return self._behind

    def recorded(self, life: str, durability: str = "full", *inject: str) -> Recorded:
        """A run of that life to its end, under strace."""
        key = life, " ".join((durability, *inject))
        if key not in self._recorded:
            base, before = self.base(life)
            folder, trace = self.new(base), self.folder / f"{len(self._recorded)}.trace"
            arguments = [] if durability == "full" else [durability]
            job = self.nursery.start(victim(life), folder, *arguments, stopped=True)
            self.nursery.trace(job, *OPTIONS, *inject, output=trace)
            ended = self.nursery.end(job)
            assert ended.code == 0, ended.errors
            self._recorded[key] = Recorded(life, trace, folder, base, ended, before)
        return self._recorded[key]

    def recording(self, recorded: Recorded) -> Recording:
        return Recording(recorded.trace, recorded.folder)

    def side_by_side(
        self, lives: Sequence[Any], begin: Callable[[Any], Any], judge: Callable[[Any, Ended], Any]
    ) -> None:
        """A few at once: ``begin`` starts a job for each, ``judge`` gets how it ended."""
        for at in range(0, len(lives), AT_ONCE):
            some = lives[at : at + AT_ONCE]
            jobs = [begin(one) for one in some]
            for one, job in zip(some, jobs, strict=True):
                judge(one, self.nursery.end(job))

    def judge(self, life: str, folder: Path, notes: Sequence[Any]) -> list[Any]:
        """What the verifier says of a folder, or how it ended."""
        path = folder.with_suffix(".said")
        path.write_text("".join(json.dumps(one) + "\n" for one in notes))
        ended = self.nursery.run("tests.crash.verifier:judge", life, folder, path)
        path.unlink()
        return ended.notes[-1] if ended.code == 0 else ["died", ended.code, ended.errors[-2000:]]

    @staticmethod
    def tell(figures: str) -> None:
        """For whoever runs the tests with ``-s``."""
        sys.stdout.write(figures + "\n")

    def close(self) -> None:
        self.nursery.close()


def victim(life: str) -> str:
    return f"tests.crash.victim:{'trio_life' if life == 'trio' else life}"


@pytest.fixture(scope="session")
def yard() -> Iterator[Yard]:
    if not sys.platform.startswith("linux"):
        pytest.skip("the crash tests need Linux")
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="multiraft-crash-", dir=place))
    one = Yard(folder)
    try:
        yield one
    finally:
        one.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def strace() -> None:
    """Skips the test, with the reason, where calls cannot be recorded or made to fail."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    tried = subprocess.run(
        ["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"strace may not trace here: {tried.stderr.strip()}")
