"""What a run did to its files, read from strace's record: every write with its bytes, every sync, every name, every note.

The record is taken with ``-f -y -xx``: descriptors come with their paths, all text is hexadecimal. A call that another thread
interrupts stands in two lines; what it writes counts from the first, what it syncs from the second, and a sync covers what was
written before it began.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.crash.nursery import notes_in

CALLS = (
    "openat,close,lseek,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,msync,ftruncate,fallocate,"
    "mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,link,linkat,copy_file_range,sendfile"
)
OPTIONS = ("-y", "-xx", "-s", "4000000", "-e", f"trace={CALLS}", "-e", "signal=none")
_LINE = re.compile(r"(\d+) +(\w+)\((.*)", re.DOTALL)
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_RESULT = re.compile(r"\) += (-?\d+)(?:<([^>]*)>)?[^\"]*$")
_DESCRIPTOR = re.compile(r"(\d+)<([^>]*)>")
_TEXT = re.compile(r'"([^"]*)"')
_UNFINISHED = " <unfinished ...>"


@dataclass(slots=True)
class Step:
    """One thing that was done. ``begin`` and ``end`` are places in the order of all lines.

    ``what``: write (path, offset, data, durable at once), size (path, bytes), sync (path), create, directory, remove (path),
    rename, link (path, target), note (a line).
    """

    what: str
    path: str
    begin: int
    end: int
    thread: int
    target: str = ""
    offset: int = 0
    data: bytes = b""
    size: int = 0
    direct: bool = False
    note: list[Any] | None = None

    @property
    def call(self) -> str:
        return f"{self.what} {self.path}"


def _unhex(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode(errors="replace")


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


class Recording:
    """The steps of one run, in the order in which they began, with the paths below ``folder`` only."""

    def __init__(self, trace: Path, folder: Path) -> None:
        self.steps: list[Step] = []
        self.calls: list[tuple[str, str, int]] = []
        """(system call, path, thread) of everything that wrote, in order."""
        self._folder = f"{folder}/"
        self._direct: dict[int, bool] = {}
        self._places: dict[int, int] = {}
        with trace.open() as file:
            for at, (thread, call, text, begin) in self._whole(file):
                self._take(thread, call, text, begin, at)
        self.steps.sort(key=lambda step: step.begin)

    def _whole(self, file: Any) -> Iterator[tuple[int, tuple[int, str, str, int]]]:
        """Calls at the line in which they end, their two halves put together."""
        open_calls: dict[int, tuple[str, str, int]] = {}
        for at, line in enumerate(file):
            line = line.rstrip("\n")
            if match := _LINE.match(line):
                thread, call, text = int(match[1]), match[2], match[3]
                if text.endswith(_UNFINISHED):
                    open_calls[thread] = call, text.removesuffix(_UNFINISHED), at
                else:
                    yield at, (thread, call, text, at)
            elif match := _RESUMED.match(line):
                thread = int(match[1])
                call, text, begin = open_calls.pop(thread)
                yield at, (thread, call, text + match[3], begin)

    def _take(self, thread: int, call: str, text: str, begin: int, end: int) -> None:
        result = _RESULT.search(text)
        if result is None or int(result[1]) < 0:
            return
        took = getattr(self, f"_{call}", None)
        if took is None:
            return
        for step in took(text, result) or ():
            if step.what == "note" or f"{step.path}/".startswith(self._folder):
                step.path = f"{step.path}/".removeprefix(self._folder).rstrip("/")
                step.target = step.target.removeprefix(self._folder)
                step.begin, step.end, step.thread = begin, end, thread
                self.steps.append(step)
                if step.what != "note":
                    self.calls.append((call, step.path, thread))

    # -- one call each: the steps that it was ---------------------------------------------------------------------------------

    @staticmethod
    def _step(what: str, path: str, **more: Any) -> Step:
        return Step(what, path, 0, 0, 0, **more)

    @staticmethod
    def _fd(text: str) -> tuple[int, str]:
        match = _DESCRIPTOR.match(text)
        return (int(match[1]), _unhex(match[2])) if match else (-1, "")

    def _openat(self, text: str, result: re.Match[str]) -> list[Step]:
        path, flags = _unhex(result[2]), text[text.rindex('"') :] if '"' in text else ""
        self._direct[int(result[1])] = "O_DSYNC" in flags
        self._places[int(result[1])] = 0
        steps = []
        if "O_CREAT" in flags:
            steps.append(self._step("create", path))
        if "O_TRUNC" in flags:
            steps.append(self._step("size", path, size=0))
        return steps

    def _lseek(self, text: str, result: re.Match[str]) -> None:
        self._places[self._fd(text)[0]] = int(result[1])

    def _write(self, text: str, result: re.Match[str]) -> list[Step]:
        descriptor, path = self._fd(text)
        data = _bytes(_TEXT.search(text)[1])[: int(result[1])]  # type: ignore[index]
        if path.endswith(".notes"):
            return [self._step("note", path, note=notes_in(data)[0])]
        return self._written(descriptor, path, self._moved(descriptor, len(data)), data)

    def _writev(self, text: str, result: re.Match[str]) -> list[Step]:
        descriptor, path = self._fd(text)
        data = b"".join(map(_bytes, re.findall(r'iov_base="([^"]*)"', text)))[: int(result[1])]
        return self._written(descriptor, path, self._moved(descriptor, len(data)), data)

    def _moved(self, descriptor: int, count: int) -> int:
        place = self._places.get(descriptor, 0)
        self._places[descriptor] = place + count
        return place

    def _pwrite64(self, text: str, result: re.Match[str]) -> list[Step]:
        descriptor, path = self._fd(text)
        data = _bytes(_TEXT.search(text)[1])[: int(result[1])]  # type: ignore[index]
        offset = int(text[: result.start()].rsplit(",", 1)[1])
        return self._written(descriptor, path, offset, data)

    def _pwritev(self, text: str, result: re.Match[str]) -> list[Step]:
        descriptor, path = self._fd(text)
        data = b"".join(map(_bytes, re.findall(r'iov_base="([^"]*)"', text)))[: int(result[1])]
        offset = int(text[: result.start()].rsplit(",", 1)[1])
        return self._written(descriptor, path, offset, data)

    def _written(self, descriptor: int, path: str, offset: int, data: bytes) -> list[Step]:
        direct = self._direct.get(descriptor, False)
        return [self._step("write", path, offset=offset, data=data, direct=direct)]

    def _fsync(self, text: str, _: re.Match[str]) -> list[Step]:
        return [self._step("sync", self._fd(text)[1])]

    _fdatasync = _fsync

    def _ftruncate(self, text: str, result: re.Match[str]) -> list[Step]:
        size = int(text[: result.start()].rsplit(",", 1)[1])
        return [self._step("size", self._fd(text)[1], size=size)]

    def _fallocate(self, text: str, result: re.Match[str]) -> list[Step]:
        offset, length = map(int, text[: result.start()].rsplit(",", 2)[1:])
        return [self._step("size", self._fd(text)[1], size=-(offset + length))]

    def _names(self, text: str) -> list[str]:
        return [_unhex(each) for each in _TEXT.findall(text)]

    def _mkdir(self, text: str, _: re.Match[str]) -> list[Step]:
        return [self._step("directory", self._names(text)[0])]

    def _unlink(self, text: str, _: re.Match[str]) -> list[Step]:
        return [self._step("remove", self._names(text)[0])]

    def _rename(self, text: str, _: re.Match[str]) -> list[Step]:
        source, target = self._names(text)[:2]
        return [self._step("rename", source, target=target)]

    def _link(self, text: str, _: re.Match[str]) -> list[Step]:
        source, target = self._names(text)[:2]
        return [self._step("link", source, target=target)]

    _mkdirat, _unlinkat, _linkat = _mkdir, _unlink, _link
    _renameat = _renameat2 = _rename
