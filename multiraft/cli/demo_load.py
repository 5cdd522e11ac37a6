"""The two halves of the demo's work: putting every piece while nodes come and go, and reading every piece back to compare.

A write that was acknowledged must be found with its value; one whose outcome is unknown may be there or not, but alike at every
node; nothing else may be there. Everything is judged by checksums taken before the write.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from multiraft.cli.demo_input import checksum
from multiraft.client import Client
from multiraft.errors import MultiRaftError, OutcomeUnknown

FRESH_MAX = 96
"""Writes on their way at a time, but for those that wait."""
WAITING_MAX = 2048
"""Writes that have waited for longer than ``PATIENCE_S``: for a leader to be elected. They hold up nobody else."""
PATIENCE_S = 0.1
WRITE_TIMEOUT_S = 30.0
READ_KEYS = 256
READS_AT_ONCE = 4


@dataclass(slots=True)
class Written:
    """What became of the writes: checksums of keys that were acknowledged, and of those whose outcome is unknown."""

    acknowledged: dict[bytes, bytes] = field(default_factory=dict)
    unknown: dict[bytes, bytes] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def count(self) -> int:
        return len(self.acknowledged) + len(self.unknown)

    def percentile_ms(self, part: float) -> float:
        """Of the acknowledged writes' latencies."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


class Loader:
    """Puts pieces through several clients in turn. ``progress`` is called after each, with all that is written."""

    def __init__(self, clients: list[Client], progress: Callable[[Written], None]) -> None:
        self.written = Written()
        self.waiting = 0
        self.gap_s = 0.0
        """The longest time in which nothing was acknowledged."""
        self._acknowledged_at = 0.0
        self._clients = clients
        self._progress = progress
        self._fresh = asyncio.Semaphore(FRESH_MAX)
        self._room = asyncio.Semaphore(WAITING_MAX)
        self._failure: BaseException | None = None

    async def load(self, pieces: Iterator[tuple[bytes, bytes]]) -> Written:
        """Put every piece once. Raises what no write may answer."""
        began = self._acknowledged_at = time.perf_counter()
        tasks: set[asyncio.Task[None]] = set()
        try:
            for number, (key, value) in enumerate(pieces):
                await self._room.acquire()
                await self._fresh.acquire()
                if self._failure is not None:
                    break
                client = self._clients[number % len(self._clients)]
                task = asyncio.ensure_future(self._put(client, key, value))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            if tasks:
                await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()
        if self._failure is not None:
            raise self._failure
        self.written.seconds = time.perf_counter() - began
        return self.written

    async def _put(self, client: Client, key: bytes, value: bytes) -> None:
        loop = asyncio.get_running_loop()
        place = _Place(self)
        timer = loop.call_later(PATIENCE_S, place.leave)
        began = time.perf_counter()
        try:
            await client.put(key, value, timeout=WRITE_TIMEOUT_S)
            now = time.perf_counter()
            self.written.latencies_s.append(now - began)
            self.gap_s = max(self.gap_s, now - self._acknowledged_at)
            self._acknowledged_at = now
            self.written.acknowledged[key] = checksum(value)
        except OutcomeUnknown:
            self.written.unknown[key] = checksum(value)
        except MultiRaftError as error:
            self._failure = self._failure or error
        finally:
            timer.cancel()
            place.end()
        self._progress(self.written)

    def _left(self, late: bool) -> None:
        self.waiting += late
        self._fresh.release()

    def _ended(self, late: bool) -> None:
        self.waiting -= late
        self._room.release()


class _Place:
    """A write's place among the fresh ones, given up once: when it ends, or when it has waited for too long."""

    __slots__ = ("_late", "_loader")

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._late = False

    def leave(self) -> None:
        self._late = True
        self._loader._left(True)

    def end(self) -> None:
        if not self._late:
            self._loader._left(False)
        self._loader._ended(self._late)


@dataclass(slots=True)
class Found:
    """What one pass over one node gave: problems by key, and a checksum over everything in the order of keys."""

    keys: int = 0
    lost: set[bytes] = field(default_factory=set)
    mismatched: set[bytes] = field(default_factory=set)
    unknown: dict[bytes, bool] = field(default_factory=dict)
    """Of the keys whose outcome is unknown: is it there?"""
    digest: str = ""

    @property
    def sound(self) -> bool:
        return not self.lost and not self.mismatched


class Judge:
    """Compares what is found with what was written. Keys come in ascending order, absent ones with None where they are asked."""

    def __init__(self, written: Written) -> None:
        self._expected = dict(sorted((written.acknowledged | written.unknown).items()))
        self._unknown = written.unknown
        self.keys = list(self._expected)

    async def by_reads(self, client: Client, progress: Callable[[int], None]) -> Found:
        """Read every key, linearizable, through one node."""
        found, digest = Found(), hashlib.blake2b(digest_size=8)
        chunks = [self.keys[at : at + READ_KEYS] for at in range(0, len(self.keys), READ_KEYS)]
        for at in range(0, len(chunks), READS_AT_ONCE):
            some = chunks[at : at + READS_AT_ONCE]
            answers = await asyncio.gather(
                *(client.get_many(chunk, timeout=WRITE_TIMEOUT_S) for chunk in some)
            )
            for chunk, values in zip(some, answers, strict=True):
                for key, value in zip(chunk, values, strict=True):
                    self._judge(found, digest, key, value)
            progress(min((at + READS_AT_ONCE) * READ_KEYS, len(self.keys)))
        found.digest = digest.hexdigest()
        return found

    async def by_scan(self, client: Client, progress: Callable[[int], None]) -> Found:
        """Scan one replica's own state, as it is."""
        found, digest = Found(), hashlib.blake2b(digest_size=8)
        expected = iter(self.keys)
        awaited = next(expected, None)
        async for key, value in client.scan(stale=True, timeout=WRITE_TIMEOUT_S):
            while awaited is not None and awaited < key:
                self._judge(found, digest, awaited, None)
                awaited = next(expected, None)
            self._judge(found, digest, key, value)
            if awaited == key:
                awaited = next(expected, None)
            if found.keys % READ_KEYS == 0:
                progress(found.keys)
        while awaited is not None:
            self._judge(found, digest, awaited, None)
            awaited = next(expected, None)
        progress(len(self.keys))
        found.digest = digest.hexdigest()
        return found

    def _judge(
        self, found: Found, digest: hashlib.blake2b, key: bytes, value: bytes | None
    ) -> None:
        if key in self._unknown:
            found.unknown[key] = value is not None
        if value is None:
            if key not in self._unknown:
                found.lost.add(key)
            return
        found.keys += 1
        seen = checksum(value)
        digest.update(len(key).to_bytes(4, "big") + key + seen)
        if self._expected.get(key) != seen:
            found.mismatched.add(key)


def disagreements(founds: Iterable[Found]) -> set[bytes]:
    """Keys of unknown outcome that one pass found and another did not: whatever happened, it must be alike everywhere."""
    seen: dict[bytes, bool] = {}
    differing = set()
    for found in founds:
        for key, there in found.unknown.items():
            if seen.setdefault(key, there) != there:
                differing.add(key)
    return differing
