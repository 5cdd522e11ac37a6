"""All that a node has for machines of users, made and ended together: machines, their files, hosting, leadership, handles.

The node (``node.py``) opens and closes; this says in which order, and who is told of what. It holds no rule of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from multiraft._ticket import Waker
from multiraft.config import Config
from multiraft.errors import MultiRaftError
from multiraft.interfaces import Clock, Jobs, SnapshotHost
from multiraft.machine.pool import Pool
from multiraft.machine.running import Factory
from multiraft.machine.states import State, States
from multiraft.machine.user import UserMachines
from multiraft.machine.user_files import UserFiles
from multiraft.node.admission import Admission
from multiraft.node.forwarding import Forwarding
from multiraft.node.groups import Groups
from multiraft.node.hosting import Hosting
from multiraft.node.keeper import Keeper
from multiraft.node.leadership import Leadership
from multiraft.node.placing import Placing
from multiraft.node.reads import Reads
from multiraft.node.waiters import Waiters
from multiraft.raft import MultiRaft

WORKERS_MAX = 4
"""Threads for users' code: so many machines can be slow at once before a quick one waits. They share one interpreter lock, so
more of them would not make more work; they only let one wait (for its disk, for another process) while others go on."""


class Users:
    """The users' machines of one node. ``worker`` makes a worker by its name, ``spawn`` starts a task that the node owns."""

    def __init__(
        self,
        *,
        config: Config,
        kinds: Mapping[str, Factory],
        states: States,
        found: dict[int, State],
        multi: MultiRaft,
        keeper: Keeper,
        forwarding: Forwarding,
        waiters: Waiters,
        reads: Reads,
        waker: Waker,
        files: Jobs,
        worker: Callable[[str, float], Jobs],
        schedule: Callable[[Callable[[], None]], object],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        kick: Callable[[], None],
        admission: Admission,
        now_ns: Callable[[], int],
        clock: Clock,
    ) -> None:
        pool = Pool(lambda number: worker(f"machines-{number}", config.timeout_s), WORKERS_MAX)
        self.machines = UserMachines(states, found, pool, schedule, clock.now_ns)
        for kind, factory in kinds.items():
            self.machines.register(kind, factory)
        self.files = UserFiles(self.machines, files)
        self.hosting = Hosting(
            multi=multi,
            machines=self.machines,
            files=self.files,
            keeper=keeper,
            waker=waker,
            kick=kick,
            admission=admission,
            retry=forwarding.retry,
            log_bytes_max=config.machine_log_bytes_max,
        )
        self.hosting.waiters = waiters
        self.leadership = Leadership(multi, self.hosting, spawn)
        self.groups = Groups(
            config=config,
            multi=multi,
            machines=self.machines,
            hosting=self.hosting,
            waiters=waiters,
            reads=reads,
            waker=waker,
            now_ns=now_ns,
        )

    def join(self, placing: Placing) -> None:
        """Learn who knows where groups are, which in turn knows the machines."""
        self.groups.placing = placing

    def host_of(self, store: SnapshotHost) -> Callable[[int], SnapshotHost]:
        """Whose state a group has: a user's machine's, or the built-in store's."""
        return lambda group: self.files if group in self.machines else store

    def stop(self, error: MultiRaftError) -> None:
        """Refuse every call from here on, and answer who waits for a machine."""
        self.groups.close()
        self.machines.stop(error)
