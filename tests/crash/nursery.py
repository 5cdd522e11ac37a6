"""A process that forks children which have everything imported already: each begins in a millisecond instead of a second.

A job is a function by its name (``module:function``), called with a notebook and plain arguments in a child of its own; how that
child ended, by a signal or otherwise, is the answer, beside the lines that it wrote. A job may begin stopped, until strace has
been attached to it.

What a child notes is written at once with one ``write``: the kernel has it, whatever becomes of the process. Nothing is sent
between the processes but lines of JSON.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 50.0
_TRACER, _TRACER_ANY = 0x59616D61, ctypes.c_ulong(-1)
_DIES_WITH_PARENT = 1


class Notebook:
    """What a job has to say, line by line."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def __call__(self, *said: Any) -> None:
        os.write(self._descriptor, json.dumps(said).encode() + b"\n")

    def close(self) -> None:
        os.close(self._descriptor)


def notes_in(data: bytes) -> list[list[Any]]:
    """Whole lines of a notebook."""
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def notes_of(path: Path) -> list[list[Any]]:
    return notes_in(path.read_bytes()) if path.exists() else []


@dataclass
class Ended:
    """How a job ended: its exit code, or the signal below zero."""

    code: int
    notes: list[list[Any]]
    errors: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


@dataclass
class Job:
    number: int
    notes: Path
    errors: Path
    pid: int = 0
    code: int | None = None
    tracers: list[subprocess.Popen[bytes]] = field(default_factory=list)


class Nursery:
    """The forking process, from the outside. Jobs run side by side."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: dict[int, Job] = {}
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )

    def start(self, call: str, *arguments: Any, stopped: bool = False) -> Job:
        self._count += 1
        notes, errors = (self._folder / f"{self._count}.{kind}" for kind in ("notes", "errors"))
        job = self._jobs[self._count] = Job(self._count, notes, errors)
        said = {
            "number": job.number,
            "call": call,
            "arguments": [str(one) if isinstance(one, Path) else one for one in arguments],
            "notes": str(notes),
            "errors": str(errors),
            "stopped": stopped,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(said).encode() + b"\n")
        self._process.stdin.flush()
        while not job.pid:
            self._listen()
        return job

    def trace(self, job: Job, *options: str, output: Path | None = None) -> None:
        """Put strace on a job that was started stopped, then let it run."""
        tracer = subprocess.Popen(
            ["strace", "-f", "-p", str(job.pid), "-o", str(output or "/dev/null"), *options],
            stderr=subprocess.PIPE,
        )
        job.tracers.append(tracer)
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        if b"attached" not in line:
            os.kill(job.pid, signal.SIGKILL)
            raise AssertionError(f"strace: {line.decode()}")
        os.kill(job.pid, signal.SIGCONT)

    def end(self, job: Job) -> Ended:
        """Wait for the end of a job."""
        while job.code is None:
            self._listen()
        for tracer in job.tracers:
            tracer.communicate()
        del self._jobs[job.number]
        ended = Ended(job.code, notes_of(job.notes), job.errors.read_text(errors="replace"))
        job.notes.unlink(missing_ok=True)
        job.errors.unlink()
        return ended

    def run(self, call: str, *arguments: Any) -> Ended:
        return self.end(self.start(call, *arguments))

    def _listen(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the nursery itself has ended: {self._process.wait()}"
        said = json.loads(line)
        job = self._jobs[said["number"]]
        if "pid" in said:
            job.pid = said["pid"]
        else:
            job.code = said["code"]

    def close(self) -> None:
        self._process.communicate()


# -- inside -------------------------------------------------------------------------------------------------------------


def _child(said: dict[str, Any]) -> None:
    """Never returns."""
    code = 1
    try:
        errors = os.open(said["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        library = ctypes.CDLL(None)
        library.prctl(_DIES_WITH_PARENT, signal.SIGKILL)
        note = Notebook(said["notes"])
        module, name = said["call"].split(":")
        if said["stopped"]:
            library.prctl(_TRACER, _TRACER_ANY)
            os.kill(os.getpid(), signal.SIGSTOP)
        getattr(importlib.import_module(module), name)(note, *said["arguments"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tell(**said: Any) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def _main() -> None:
    for name in ("victim", "verifier", "images"):
        importlib.import_module(f"tests.crash.{name}")
    ready = selectors.DefaultSelector()
    ready.register(sys.stdin.fileno(), selectors.EVENT_READ)
    waiting = b""
    children: dict[int, tuple[int, int]] = {}
    while True:
        for key, _ in ready.select():
            if key.fd in children:
                number, pid = children.pop(key.fd)
                ready.unregister(key.fd)
                os.close(key.fd)
                _tell(number=number, code=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            data = os.read(key.fd, 1 << 16)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _child(said)
                if said["stopped"]:
                    os.waitpid(pid, os.WUNTRACED)
                handle = os.pidfd_open(pid)
                children[handle] = said["number"], pid
                ready.register(handle, selectors.EVENT_READ)
                _tell(number=said["number"], pid=pid)


if __name__ == "__main__":
    _main()
