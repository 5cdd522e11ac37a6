"""Load on a cluster, and the history of it, which `multiraft.testing` judges as that of registers.

Writers write each key once, so that at the end every key answers for itself. Registers are counters that one task raises by
compare-and-set, so that a command that arrives late finds another revision; readers at every member look at them all the time.
Everything is one linearizable history, also what each replica has by itself in the end, when all have applied all.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from multiraft.testing import FAIL, INFO, OK, Call, Recorder, Register, check
from tests.cluster.harness import WAIT_S, CallFailed, Cluster, Member

TIMEOUT_S = 1.5
"""Of a call; many of them run out while a member is cut off or stopped."""
PATIENCE_S = 0.5
"""Before a register's writer turns from a member that says nothing to the next."""


class History:
    """What was asked and told."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.keys: set[str] = set()
        """All that somebody tried to write."""
        self.raised: Counter[str] = Counter()
        """Register -> the highest value that is known to have been there."""
        self.writes: Counter[str] = Counter()
        self.reads = 0
        self._calls = itertools.count(1)
        self._grown = asyncio.Condition()

    def begin(self, who: object, f: str, key: str, value: Any = None) -> Call:
        """Note that somebody asks for something; each call is a process of its own."""
        self.keys.add(key)
        return self.recorder.invoke(f"{who}, call {next(self._calls)}", f, key, value)

    async def wrote(self, call: Call, outcome: str) -> None:
        """Note what the writer of a key was told: ``ok``, ``not`` or ``unknown``."""
        {"ok": call.ok, "unknown": call.info, "not": call.fail}[outcome]()
        self.writes[outcome] += 1
        async with self._grown:
            self._grown.notify_all()

    async def more(self, count: int) -> None:
        """Wait until so many more writes were acknowledged."""
        wanted = self.writes["ok"] + count
        async with asyncio.timeout(WAIT_S), self._grown:
            await self._grown.wait_for(lambda: self.writes["ok"] >= wanted)

    def told(self, call: Call, register: str, value: int) -> None:
        """A read of a register was answered."""
        call.ok(value or None)
        self.reads += 1
        self.raised[register] = max(self.raised[register], value)

    def judge(self) -> None:
        """Is there one order that explains all that anybody was told?"""
        verdict = check(self.recorder.history(), Register())
        assert verdict.ok, str(verdict)

    def summary(self) -> str:
        outcomes = Counter(one.outcome for one in self.recorder.history())
        return (
            f"{outcomes[OK]} operations acknowledged, {outcomes[INFO]} unknown, {outcomes[FAIL]} failed, "
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
            call = self.history.begin(f"writer {member.number}", "write", key, value)
            try:
                await member.call("put", key=key, value=value, timeout=TIMEOUT_S)
            except CallFailed as error:
                await self.history.wrote(call, error.kind)
            else:
                await self.history.wrote(call, "ok")

    async def _write_many(self, member: Member) -> None:
        who = f"writer {member.number} of ten"
        while await self._running(member):
            numbers = [next(self._numbers) for _ in range(10)]
            items = {f"key-{n:06d}": f"{n} by {member.number}, of ten" for n in numbers}
            calls = [self.history.begin(who, "write", *item) for item in items.items()]
            outcomes: list[Any]
            try:
                outcomes = await member.call(
                    "put_many", items=list(items.items()), timeout=TIMEOUT_S
                )
            except CallFailed as error:
                outcomes = error.outcomes or [error.kind] * len(items)
            for call, outcome in zip(calls, outcomes, strict=True):
                await self.history.wrote(call, "ok" if isinstance(outcome, int) else outcome)

    async def _write_in_vain(self, member: Member) -> None:
        """Writes whose condition never holds: what is reported as failed must not be there."""
        while await self._running(member):
            number = next(self._numbers)
            key, value = f"vain-{number:06d}", f"{number} by {member.number}"
            call = self.history.begin(f"vain {member.number}", "cas", key, ("what is not", value))
            try:
                await member.call("set", key=key, value=value, revision=1, timeout=TIMEOUT_S)
            except CallFailed as error:
                await self.history.wrote(call, error.kind)
            else:
                await self.history.wrote(call, "ok")

    async def _raise(self, register: str) -> None:
        """Raise a register by one again and again, through one member after the other."""
        history, members = self.history, itertools.cycle(self._cluster.members.values())
        while not self._stop.is_set():
            member = next(members)
            try:
                value, revision = await self._read(member, register, "the writer at", PATIENCE_S)
                await self._set(member, register, value, revision)
            except CallFailed as error:
                if error.error == "Away":
                    await asyncio.sleep(0.01)
            else:
                history.raised[register] = max(history.raised[register], value + 1)

    async def _set(self, member: Member, register: str, value: int, revision: int) -> None:
        """Raise what was read at a revision; a value has one revision, so it is compared with the value."""
        old = value or None
        call = self.history.begin(
            f"the writer at {member.number}", "cas", register, (old, value + 1)
        )
        try:
            await member.call(
                "set",
                PATIENCE_S,
                key=register,
                value=str(value + 1),
                revision=revision,
                timeout=TIMEOUT_S,
            )
        except CallFailed as error:
            {"unknown": call.info, "not": call.fail}[error.kind]()
            raise
        call.ok(True)

    async def _read(
        self, member: Member, register: str, who: str, within: float | None = None
    ) -> tuple[int, int]:
        """Value and revision by a linearizable read."""
        call = self.history.begin(f"{who} node {member.number}", "read", register)
        try:
            entry = await member.call("get", within, key=register, timeout=TIMEOUT_S)
        except CallFailed:
            call.info()
            raise
        value, revision = (int(entry[0]), entry[1]) if entry is not None else (0, 0)
        self.history.told(call, register, value)
        return value, revision

    async def raised(self, register: str, by: int) -> None:
        """Wait until a register was raised so far beyond what is known of it now."""
        wanted = self.history.raised[register] + by
        async with asyncio.timeout(WAIT_S):
            while self.history.raised[register] < wanted:
                await asyncio.sleep(0.01)

    async def _look(self, member: Member) -> None:
        for register in itertools.cycle(self.registers):
            if not await self._running(member):
                return
            await self.look(member, register)

    async def look(self, member: Member, register: str) -> None:
        """One linearizable read."""
        try:
            await self._read(member, register, "a reader at")
        except CallFailed:
            return

    async def judge(self) -> None:
        """Everything, at every member: by linearizable reads, and what each replica has applied by itself."""
        await self._cluster.ready()
        await self._cluster.settled()
        for number, member in self._cluster.members.items():
            for stale in (False, True):
                who = f"node {number}{' by itself' if stale else ''}"
                calls = {
                    key: self.history.begin(who, "read", key) for key in sorted(self.history.keys)
                }
                found = dict(await member.call("scan", stale=stale))
                assert found.keys() <= calls.keys(), "there is a key that nobody wrote"
                for key, call in calls.items():
                    value = found.get(key)
                    if key in self.registers and value is not None:
                        self.history.told(call, key, int(value))
                    else:
                        call.ok(value)
        self.history.judge()


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
