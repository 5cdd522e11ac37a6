"""Nodes as processes of their own on this machine: started, waited for, killed, stopped. For the demo, and for tests.

A process is what ``multiraft serve`` is: what it says on stdout is read here, what it logs goes to a file, whose last lines
are told when it ends on its own. Never done here: looking into a node other than by what it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

LAST_LINES = 12


class NodeEnded(Exception):
    """A node's process ended though nobody had asked it to; ``code`` is its exit code, the message what it said at last."""

    def __init__(self, name: str, code: int, lines: Sequence[str]):
        said = "".join(f"\n    {line}" for line in lines)
        super().__init__(f"{name} ended with exit code {code}{':' if said else ''}{said}")
        self.code = code


def serve_arguments(
    node: int,
    directory: Path,
    addresses: Mapping[int, str],
    *,
    client_address: str | None = None,
    shards: int | None = None,
    log_level: str = "warning",
) -> list[str]:
    """The flags of ``multiraft serve`` for one node of a cluster on this machine."""
    arguments = ["--node-id", str(node), "--data-dir", str(directory), "--log-level", log_level]
    if len(addresses) > 1:
        arguments += ["--listen", addresses[node]]
        for other, address in addresses.items():
            arguments += ["--node", f"{other}={address}"]
    if client_address is not None:
        arguments += ["--client-listen", client_address]
    if shards is not None:
        arguments += ["--shards", str(shards)]
    return arguments


class NodeProcess:
    """One ``multiraft serve``. ``log`` is the file that its stderr is appended to; it may be started again after its end."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.arguments = list(arguments)
        self.log = log
        self.said: list[str] = []
        """Lines on stdout since the last start."""
        self._process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._log_start = 0

    @property
    def process(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; ``ready`` waits until it serves."""
        self.said = []
        self._news = asyncio.Event()
        with self._open_log() as log:
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "multiraft",
                "serve",
                *self.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours: nodes are ended one by one
            )
        self._listening = asyncio.get_running_loop().create_task(self._listen(self._process))

    def _open_log(self) -> BinaryIO:
        return open(self.log, "ab")

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        async for line in process.stdout:
            self.said.append(line.decode(errors="replace").rstrip())
            self._news.set()
        await process.wait()
        self._news.set()

    async def heard(self, words: str) -> str:
        """Wait for a line on stdout with these words in it; the line. Raises NodeEnded if the process ends before."""
        while True:
            for line in self.said:
                if words in line:
                    return line
            if not self.running and (self._listening is None or self._listening.done()):
                raise NodeEnded(self.name, self.process.returncode or 0, self.last_lines())
            self._news.clear()
            await self._news.wait()

    async def ready(self) -> None:
        """Wait until it knows a leader of every shard. Raises NodeEnded."""
        await self.heard(" is ready")

    def last_lines(self) -> list[str]:
        """What it wrote to stderr at last, since it was started."""
        with open(self.log, "rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace").splitlines()[-LAST_LINES:]

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        code = await self.process.wait()
        if self._listening is not None:
            await self._listening
        return code

    async def kill(self) -> int:
        """End it as a power cut would, without a word."""
        self.send(signal.SIGKILL)
        return await self.ended()

    async def stop(self, timeout_s: float = 10.0) -> int:
        """Ask it to close, and kill it if it does not; the exit code."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                return await self.ended()
        except TimeoutError:
            return await self.kill()


async def end_all(processes: Sequence[NodeProcess], timeout_s: float = 10.0) -> None:
    """Stop whatever still runs."""
    await asyncio.gather(*(one.stop(timeout_s) for one in processes if one.running))
