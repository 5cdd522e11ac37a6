"""Leadership events of users' machines: ``on_leader_start(term)`` behind a barrier, ``on_leader_stop()`` before the next start.

One task a group, started when its machine first leads, does both in order: a start only while this replica leads and has applied
all that was committed before its term; a stop, awaited, before anything else may start. What a start is still doing when the
leadership ends is cancelled. An exception in either quarantines the replica; nothing here ends the node, nor keeps it from ending:
what does not come back in time is cancelled, and what swallows that is left behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

from multiraft.node.hosting import Hosting
from multiraft.raft import MultiRaft, Role

logger = logging.getLogger("multiraft.node")

CLEAN_UP_S = 1.0
"""What is cancelled while a node closes may take so long over it."""


@dataclass(slots=True)
class Reign:
    """One group's leadership as its machine has been told of it."""

    group: int
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    wanted_term: int = 0
    """The term in which it leads and has applied what came before; 0 while it does not."""
    told_term: int = 0
    machine: Any = None
    start: asyncio.Task[None] | None = None
    awaited: str = ""
    """The method of the machine that is waited for just now."""
    closing: bool = False


class Leadership:
    """All groups of a node whose machines want to know. ``spawn`` starts a task that the node owns."""

    def __init__(
        self,
        multi: MultiRaft,
        hosting: Hosting,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._multi = multi
        self._hosting = hosting
        self._spawn = spawn
        self._reigns: dict[int, Reign] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._closing = False
        self._barriers: dict[int, tuple[int, int]] = {}
        hosting.leaders = self

    def look(self, group: int) -> None:
        """Something changed that may begin or end a leadership: the role, what is applied, the machine."""
        if self._closing or group not in self._multi or group not in self._hosting:
            return
        reign = self._reigns.get(group)
        if reign is None and not _wants_events(self._hosting.machine(group)):
            return
        term = self._leading(group)
        if reign is None:
            if not term:
                return
            reign = self._reigns[group] = Reign(group)
            self._tasks[group] = self._spawn(self._run(reign))
        if reign.wanted_term != term:
            reign.wanted_term = term
            reign.changed.set()

    def _leading(self, group: int) -> int:
        """The term in which the replica here leads, with all applied that was committed before it; 0 if it does not."""
        if not self._multi.leads(group) or self._hosting.machine(group) is None:
            self._barriers.pop(group, None)
            return 0
        _, _, commit_index, applied_index, _ = self._multi.indexes(group)
        status = self._multi.replica(group).status()
        if status.role != Role.LEADER:
            return 0
        # The first commit index seen in this term is at or past the term's first entry, and so past all before it.
        term, barrier_index = self._barriers.setdefault(group, (status.term, commit_index))
        if term != status.term:
            barrier_index = commit_index
            self._barriers[group] = status.term, commit_index
        return status.term if applied_index >= barrier_index else 0

    async def _run(self, reign: Reign) -> None:
        while True:
            await reign.changed.wait()
            reign.changed.clear()
            try:
                if reign.told_term and reign.told_term != reign.wanted_term:
                    await self._stop(reign)
                if reign.wanted_term and not reign.told_term and not reign.closing:
                    self._start(reign)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                self._hosting.fail(
                    reign.group, error
                )  # the machine's own doing: nobody asked for it
            except Exception as error:
                self._hosting.fail(reign.group, error)
            if reign.closing:
                return

    def _start(self, reign: Reign) -> None:
        reign.machine = self._hosting.machine(reign.group)
        reign.told_term = reign.wanted_term
        start = getattr(reign.machine, "on_leader_start", None)
        if start is not None:
            reign.start = asyncio.get_running_loop().create_task(start(reign.told_term))
            reign.start.add_done_callback(lambda task: self._started(reign, task))

    def _started(self, reign: Reign, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._hosting.fail(reign.group, error)

    async def _stop(self, reign: Reign) -> None:
        """End what the start still does, then tell the machine, and wait until it knows."""
        reign.told_term = 0
        if reign.start is not None:
            reign.awaited = "on_leader_start"
            reign.start.cancel()
            await asyncio.wait({reign.start})
            reign.start = None
        stop = getattr(reign.machine, "on_leader_stop", None)
        reign.machine = None
        if stop is not None:
            reign.awaited = "on_leader_stop"
            await stop()
        reign.awaited = ""

    async def close(self, timeout_s: float) -> None:
        """Tell every machine that still leads that it leads no more, and wait for it so long. Idempotent.

        What is late is cancelled, and after ``CLEAN_UP_S`` more it is left behind, whether it heeds that or not.
        """
        self._closing = True
        for reign in self._reigns.values():
            reign.closing, reign.wanted_term = True, 0
            reign.changed.set()
        tasks = {
            task: self._reigns[group] for group, task in self._tasks.items() if not task.done()
        }
        late: set[asyncio.Task[None]] = set()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                _say_late(tasks[task], f"did not come back within {timeout_s} s; it is cancelled")
        starts = {one.start: one for one in self._reigns.values() if one.start is not None}
        for task in await end_tasks([*late, *starts], CLEAN_UP_S):
            _say_late((tasks | starts)[task], "goes on though it was cancelled; it is left behind")
        self._tasks.clear()
        self._reigns.clear()


async def end_tasks(
    tasks: Iterable[asyncio.Task[None]], timeout_s: float
) -> set[asyncio.Task[None]]:
    """Cancel tasks and wait until they have ended, no longer than that; those that have not."""
    waiting = set(tasks)
    for task in waiting:
        task.cancel()
    if not waiting:
        return waiting
    _, left = await asyncio.wait(waiting, timeout=timeout_s)
    return left


def _say_late(reign: Reign, what: str) -> None:
    group = reign.group
    logger.error(
        "group %d: %s() of its machine %s", group, reign.awaited, what, extra={"group": group}
    )


def _wants_events(machine: Any) -> bool:
    return hasattr(machine, "on_leader_start") or hasattr(machine, "on_leader_stop")
