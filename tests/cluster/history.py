"""Load on a cluster, and the judge of what it was told.

Writers write each key once, so that at the end every key answers for itself: acknowledged means there, reported as failed
means not there, unknown may be either. Registers are counters that one task raises by compare-and-set, so that a command that
arrives late finds another revision; readers at every member must see no less than anybody was told before they asked.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.cluster.harness import WAIT_S, CallFailed, Cluster, Member

TIMEOUT_S = 1.5
"""Of a call; many of them run out while a member is cut off or stopped."""
PATIENCE_S = 0.5
"""Before a register's writer turns from a member that says nothing to the next."""


class History:
    """What is known of each key and register, and what contradicts it."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, str] = {}
        self.unknown: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.floor: dict[str, int] = {}
        """Register -> the highest value that anybody was told."""
        self.ceiling: dict[str, int] = {}
        """Register -> the highest value that was tried."""
        self.reads = 0
        self.wrong: list[str] = []
        self._grown = asyncio.Condition()

    async def wrote(self, key: str, value: str, outcome: str) -> None:
        """Note what the writer of a key was told: ``ok``, ``not`` or ``unknown``."""
        {"ok": self.acknowledged, "unknown": self.unknown, "not": self.failed}[outcome][key] = value
        async with self._grown:
            self._grown.notify_all()

    async def more(self, count: int) -> None:
        """Wait until so many more writes were acknowledged."""
        wanted = len(self.acknowledged) + count
        async with asyncio.timeout(WAIT_S), self._grown:
            await self._grown.wait_for(lambda: len(self.acknowledged) >= wanted)

    def told(self, register: str, value: int, floor: int, who: str) -> None:
        """A read that began when ``floor`` was known says ``value``."""
        self.reads += 1
        if not floor <= value <= self.ceiling.get(register, 0):
            self.wrong.append(
                f"{who} read {register} = {value}, between {floor} and {self.ceiling.get(register)} were possible"
            )
        self.floor[register] = max(self.floor.get(register, 0), value)

    def judge(self, found: dict[str, str], where: str) -> None:
        """Compare with everything that is there in the end."""
        for key, value in self.acknowledged.items():
            if found.get(key) != value:
                self.wrong.append(f"{where}: {key} was acknowledged, and is {found.get(key)!r}")
        for key in self.failed:
            if key in found:
                self.wrong.append(f"{where}: {key} was reported as failed, and is there")
        for key, value in found.items():
            if key in self.floor:
                self.told(key, int(value), self.floor[key], where)
            elif value not in (self.acknowledged.get(key), self.unknown.get(key)):
                self.wrong.append(f"{where}: {key} = {value!r} was never written so")

    def summary(self) -> str:
        return (
            f"{len(self.acknowledged)} acknowledged, {len(self.unknown)} unknown, {len(self.failed)} failed, "
            f"{self.reads} reads of registers"
        )


class Load:
    """Writers at every member, a task for each register, readers of the registers at every member."""

    def __init__(self, cluster: Cluster, registers: int = 4) -> None:
        self._cluster = cluster
        self._numbers = itertools.count(1)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.registers = [f"register-{n}" for n in range(registers)]
        self.history = History()

    def start(self) -> None:
        members = list(self._cluster.members.values())
        work = [self._write(member) for member in members for _ in range(2)]
        work += [self._write_many(member) for member in members]
        work += [self._write_in_vain(member) for member in members]
        work += [self._raise(register) for register in self.registers]
        work += [self._look(member) for member in members]
        self._tasks = [asyncio.ensure_future(one) for one in work]

    async def stop(self) -> None:
        """Let every call end, and raise what went wrong in a task."""
        self._stop.set()
        try:
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _running(self, member: Member) -> bool:
        """Wait until a member runs; False when the load ends."""
        if not member.up.is_set() and not self._stop.is_set():
            waits = [
                asyncio.ensure_future(member.up.wait()),
                asyncio.ensure_future(self._stop.wait()),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return not self._stop.is_set()

    async def _write(self, member: Member) -> None:
        while await self._running(member):
            number = next(self._numbers)
            key, value = f"key-{number:06d}", f"{number} by {member.number}"
            try:
                await member.call("put", key=key, value=value, timeout=TIMEOUT_S)
            except CallFailed as error:
                await self.history.wrote(key, value, error.kind)
            else:
                await self.history.wrote(key, value, "ok")

    async def _write_many(self, member: Member) -> None:
        while await self._running(member):
            numbers = [next(self._numbers) for _ in range(10)]
            items = {f"key-{n:06d}": f"{n} by {member.number}, of ten" for n in numbers}
            outcomes: list[Any]
            try:
                outcomes = await member.call(
                    "put_many", items=list(items.items()), timeout=TIMEOUT_S
                )
            except CallFailed as error:
                outcomes = error.outcomes or [error.kind] * len(items)
            for (key, value), outcome in zip(items.items(), outcomes, strict=True):
                await self.history.wrote(key, value, "ok" if isinstance(outcome, int) else outcome)

    async def _write_in_vain(self, member: Member) -> None:
        """Writes whose condition never holds: what is reported as failed must not be there."""
        while await self._running(member):
            number = next(self._numbers)
            key, value = f"vain-{number:06d}", f"{number} by {member.number}"
            try:
                await member.call("set", key=key, value=value, revision=1, timeout=TIMEOUT_S)
            except CallFailed as error:
                await self.history.wrote(key, value, error.kind)
            else:
                self.history.wrong.append(f"{key} was written on a condition that did not hold")

    async def _raise(self, register: str) -> None:
        """Raise a register by one again and again, through one member after the other."""
        history, members = self.history, itertools.cycle(self._cluster.members.values())
        history.floor[register] = history.ceiling[register] = 0
        while not self._stop.is_set():
            member = next(members)
            floor = history.floor[register]
            try:
                entry = await member.call("get", PATIENCE_S, key=register, timeout=TIMEOUT_S)
                value, revision = (int(entry[0]), entry[1]) if entry is not None else (0, 0)
                history.told(register, value, floor, f"the writer at node {member.number}")
                history.ceiling[register] = max(history.ceiling[register], value + 1)
                await member.call(
                    "set",
                    PATIENCE_S,
                    key=register,
                    value=str(value + 1),
                    revision=revision,
                    timeout=TIMEOUT_S,
                )
            except CallFailed as error:
                if error.error == "Away":
                    await asyncio.sleep(0.01)
            else:
                history.floor[register] = max(history.floor[register], value + 1)

    async def raised(self, register: str, by: int) -> None:
        """Wait until a register was raised so far beyond what is known of it now."""
        wanted = self.history.floor[register] + by
        async with asyncio.timeout(WAIT_S):
            while self.history.floor[register] < wanted:
                await asyncio.sleep(0.01)

    async def _look(self, member: Member) -> None:
        for register in itertools.cycle(self.registers):
            if not await self._running(member):
                return
            await self.look(member, register)

    async def look(self, member: Member, register: str) -> None:
        """One linearizable read, judged by what was known when it began."""
        floor = self.history.floor.get(register, 0)
        try:
            entry = await member.call("get", key=register, timeout=TIMEOUT_S)
        except CallFailed:
            return
        value = int(entry[0]) if entry is not None else 0
        self.history.told(register, value, floor, f"node {member.number}")

    async def judge(self) -> None:
        """Everything, at every member: by linearizable reads, and what each replica has applied by itself."""
        await self._cluster.ready()
        await self._cluster.settled()
        for number, member in self._cluster.members.items():
            for stale in (False, True):
                found = dict(await member.call("scan", stale=stale))
                self.history.judge(found, f"node {number}{' by itself' if stale else ''}")
        assert not self.history.wrong, "\n".join(self.history.wrong[:20])


@asynccontextmanager
async def load(cluster: Cluster) -> AsyncIterator[Load]:
    """Load for the length of the block; then everything is judged."""
    one = Load(cluster)
    one.start()
    try:
        await one.history.more(30)
        yield one
    finally:
        await one.stop()
    await one.judge()
    assert one.history.reads > 0
    print(one.history.summary())  # noqa: T201 - for `pytest -s`
