"""Disks as a power cut could have left them: what was synced is there, and any part of what was not.

``Disk`` follows a recording step by step. Of what is not durable yet each 512-byte sector of a write, each change of a size and
each name may be there or not; ``image`` writes one such choice into a folder. Stricter than most file systems: a file whose
directory was not synced may be gone although it was synced itself.

``check`` is the job that judges images of a stretch of a recording, each against what had been noted before the cut.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from multiraft.doubt import NOTE_FILE
from tests.crash.nursery import Notebook
from tests.crash.recording import Recording, Step
from tests.crash.verifier import Notes, verdict

SECTOR = 512
BAD_MAX = 10


@dataclass(slots=True)
class Content:
    """The durable bytes of a file; behind ``data`` and up to ``size`` there are zeros."""

    data: bytearray = field(default_factory=bytearray)
    size: int = 0

    def copy(self) -> Content:
        return Content(bytearray(self.data), self.size)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        if offset > len(self.data):
            self.data.extend(bytes(offset - len(self.data)))
        self.data[offset : offset + len(data)] = data
        self.size = max(self.size, len(self.data))

    def resize(self, size: int) -> None:
        """A negative size makes the file at least that large."""
        if size < 0:
            self.size = max(self.size, -size)
        else:
            self.size = size
            del self.data[size:]


@dataclass(slots=True)
class Unit:
    """The smallest thing that a cut leaves whole or undone. ``file`` is a number, ``names`` are what gets or loses one."""

    number: int
    step: Step
    file: int = 0
    offset: int = 0
    data: memoryview | None = None
    size: int | None = None
    names: tuple[tuple[str, int], ...] = ()
    """(path, file) in order; 0 takes the name away, -1 makes it a directory."""

    @property
    def folders(self) -> set[str]:
        return {str(Path(path).parent) for path, _ in self.names}


class Disk:
    """The durable state after some steps, and what is pending on top of it."""

    def __init__(self, base: Path | None = None) -> None:
        """``base``: what is there, durable, before the first step."""
        self.generation = 0
        self.pending: list[Unit] = []
        self._files: dict[int, Content] = {}
        self._names: dict[str, int] = {}
        self._now: dict[str, int] = {}
        """Names as the running process sees them."""
        self._count = 0
        for path in sorted(base.rglob("*")) if base is not None else ():
            name = str(path.relative_to(base))  # type: ignore[arg-type]
            number = -1
            if path.is_file():
                number = len(self._files) + 1
                self._files[number] = Content(bytearray(path.read_bytes()), path.stat().st_size)
            self._names[name] = self._now[name] = number

    def take(self, step: Step) -> None:
        getattr(self, f"_{step.what}")(step)

    def _add(self, step: Step, file: int = 0, **more: object) -> None:
        self._count += 1
        self.pending.append(Unit(self._count, step, file, **more))  # type: ignore[arg-type]

    def _note(self, step: Step) -> None:
        """Nothing on the disk."""

    def _create(self, step: Step) -> None:
        if step.path not in self._now:
            number = self._now[step.path] = len(self._files) + 1
            self._files[number] = Content()
            self._add(step, names=((step.path, number),))

    def _directory(self, step: Step) -> None:
        self._now[step.path] = -1
        self._add(step, names=((step.path, -1),))

    def _remove(self, step: Step) -> None:
        self._now.pop(step.path, None)
        self._add(step, names=((step.path, 0),))

    def _rename(self, step: Step) -> None:
        number = self._now.pop(step.path)
        self._now[step.target] = number
        self._add(step, names=((step.target, number), (step.path, 0)))

    def _link(self, step: Step) -> None:
        number = self._now[step.target] = self._now[step.path]
        self._add(step, names=((step.target, number),))

    def _size(self, step: Step) -> None:
        if file := self._now.get(step.path):
            self._add(step, file, size=step.size)

    def _write(self, step: Step) -> None:
        file = self._now.get(step.path, 0)
        if not file:
            return
        view, at = memoryview(step.data), 0
        while at < len(view):
            count = min(SECTOR - (step.offset + at) % SECTOR, len(view) - at)
            self._add(step, file, offset=step.offset + at, data=view[at : at + count])
            at += count

    def _sync(self, step: Step) -> None:
        """Begins; ``settle`` is called when it has ended."""

    def settle(self, step: Step) -> None:
        """A sync, or a write that syncs itself, has ended."""
        if step.what == "write":
            self._keep(lambda unit: unit.step is step)
        elif (file := self._now.get(step.path, -1)) > 0:
            self._keep(lambda unit: unit.file == file and unit.step.end <= step.begin)
        else:
            folder = step.path or "."
            self._keep(lambda unit: folder in unit.folders and unit.step.end <= step.begin)

    def _keep(self, durable: object) -> None:
        kept = [unit for unit in self.pending if durable(unit)]  # type: ignore[operator]
        if kept:
            self.generation += 1
            self.pending = [unit for unit in self.pending if not durable(unit)]  # type: ignore[operator]
            for unit in kept:
                _apply(unit, self._names, self._files)

    def image(self, chosen: frozenset[int], folder: Path) -> None:
        """Write the disk into a folder, with some of the pending units."""
        names, files = dict(self._names), dict(self._files)
        units = [unit for unit in self.pending if unit.number in chosen]
        for file in {unit.file for unit in units if unit.file}:
            files[file] = files[file].copy()
        for unit in units:
            _apply(unit, names, files)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        written: dict[int, Path] = {}
        for path, number in sorted(names.items()):
            at = folder / path
            if not at.parent.is_dir():
                continue  # the directory's name was lost, and all in it
            if number < 0:
                at.mkdir(exist_ok=True)
            elif number in written:
                at.hardlink_to(written[number])
            else:
                written[number] = at
                with at.open("wb") as file:
                    file.write(files[number].data)
                    file.truncate(files[number].size)
            if at.name == NOTE_FILE:
                at.write_text("a run of the machine before the power went")


def _apply(unit: Unit, names: dict[str, int], files: dict[int, Content]) -> None:
    for path, file in unit.names:
        if file:
            names[path] = file
        else:
            names.pop(path, None)
    if unit.data is not None:
        files[unit.file].write(unit.offset, unit.data)
    if unit.size is not None:
        files[unit.file].resize(unit.size)


def choices(disk: Disk, chance: random.Random, amount: int) -> Iterator[tuple[str, frozenset[int]]]:
    """What of the pending units is there: nothing, everything, all but one, one alone, any, mostly, hardly."""
    numbers = [unit.number for unit in disk.pending]
    yield "none", frozenset()
    if not numbers:
        return
    yield "all", frozenset(numbers)
    kinds = ("any", "any", "one lost", "one only", "mostly", "hardly")
    for at in range(max(0, amount - 2)):
        kind = kinds[at % len(kinds)]
        if kind == "one lost":
            yield kind, frozenset(numbers) - {chance.choice(numbers)}
        elif kind == "one only":
            yield kind, frozenset({chance.choice(numbers)})
        else:
            share = {"any": 0.5, "mostly": 0.9, "hardly": 0.1}[kind]
            yield kind, frozenset(each for each in numbers if chance.random() < share)


def cuts(
    recording: Recording, base: Path | None, before: Notes
) -> Iterator[tuple[int, Disk, Notes, bool]]:
    """(number, disk, notes until then, was it a write) of each moment at which the power may go."""
    disk, notes = Disk(base), list(before)
    ends: list[Step] = []
    for number, step in enumerate(recording.steps):
        for ended in [each for each in ends if each.end < step.begin]:
            disk.settle(ended)
            ends.remove(ended)
        disk.take(step)
        if step.note is not None:
            notes.append(step.note)
        elif step.what == "sync" or step.direct:
            ends.append(step)
        if step.what != "sync":
            yield number, disk, notes, step.note is None
    for ended in ends:
        disk.settle(ended)
    yield len(recording.steps), disk, notes, True


def check(
    note: Notebook,
    life: str,
    trace: str,
    folder: str,
    base: str | None,
    before: Notes,
    work: str,
    part: int,
    parts: int,
    amount: int,
) -> None:
    """Judge images at every ``parts``-th cut from ``part`` on, about ``amount`` at each. Notes what is not sound, then a tally."""
    recording = Recording(Path(trace), Path(folder))
    chance, image = random.Random(part), Path(work) / f"image-{part}"
    seen: set[tuple[int, frozenset[int], int]] = set()
    tally = {"sound": 0, "refused": 0, "wrong": 0}
    acknowledged = 0
    for number, disk, notes, wrote in cuts(recording, Path(base) if base else None, before):
        if number % parts != part and number < len(recording.steps):
            continue
        if not wrote and notes[-1][0] != "did":
            continue
        acknowledged = len(notes)
        for kind, chosen in choices(disk, chance, amount if wrote else 3):
            key = disk.generation, chosen, acknowledged
            if key in seen:
                continue
            seen.add(key)
            note("at", number, kind)
            disk.image(chosen, image)
            found = verdict(life, image, notes)
            tally[found[0]] += 1
            if found[0] != "sound" and tally["refused"] + tally["wrong"] <= BAD_MAX:
                note("bad", number, kind, *found)
    note("tally", tally)
