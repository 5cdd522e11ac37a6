"""What clients do to a simulated cluster, and what they are told: operations on few keys, at every node, taken down in a history.

Values are unique, so that a read says which write it saw. A client belongs to the process of its node and dies with it; what it
had begun then is of unknown outcome. An answer that says more than the node can know fails the run here already.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from multiraft.errors import (
    Closed,
    MultiRaftError,
    OutcomeUnknown,
    PreconditionFailed,
    Rejected,
    Retryable,
    StorageError,
)
from multiraft.node.store import Store
from multiraft.testing.cluster import Life
from multiraft.testing.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked, of what."""

    operations_per_s: float = 50.0
    """Of all clients together."""
    clients_a_node: int = 3
    keys: int = 6
    timeout_s: float = 2.0


class Workload:
    """The clients of one run. ``surprised`` is told of an answer that no call may give."""

    def __init__(
        self,
        generator: random.Random,
        load: Load,
        nodes: int,
        recorder: Recorder,
        surprised: Callable[[str], None],
    ) -> None:
        self.recorder = recorder
        self.acknowledged = 0
        self.stopped = False
        self._generator = generator
        self._load = load
        self._pause_s = nodes * load.clients_a_node / load.operations_per_s
        self._surprised = surprised
        self._values = 0
        self._seen: dict[bytes, bytes] = {}
        """What a client read last of a key: what it will expect there."""

    def started(self, life: Life) -> None:
        """A node can be called: its clients begin."""
        for number in range(self._load.clients_a_node):
            life.loop.create_task(self._client(life, f"{life.name}.{number}"))

    async def _client(self, life: Life, process: str) -> None:
        generator = random.Random(self._generator.getrandbits(64))
        while not self.stopped:
            await asyncio.sleep(generator.expovariate(1.0 / self._pause_s))
            if not self.stopped and life.serving:
                await self._operation(life, process, generator)

    def value(self) -> bytes:
        """One that was never written before."""
        self._values += 1
        return b"%d" % self._values

    async def _operation(self, life: Life, process: str, generator: random.Random) -> None:
        store, timeout = life.node.store, self._load.timeout_s
        key = b"key-%d" % generator.randrange(self._load.keys)
        kind = generator.random()
        try:
            if kind < 0.4:
                value = self.value()
                with self.recorder.invoke(process, "write", key, value) as call:
                    await store.put(key, value, timeout=timeout)
                    call.ok()
            elif kind < 0.75:
                with self.recorder.invoke(process, "read", key) as call:
                    found = await store.get(key, timeout=timeout)
                    call.ok(found)
                self._seen[key] = found or b""
            elif kind < 0.93:
                expected, value = self._seen.get(key, b""), self.value()
                with self.recorder.invoke(process, "cas", key, (expected or None, value)) as call:
                    call.ok(await self._swap(store, key, expected, value))
            else:
                with self.recorder.invoke(process, "delete", key) as call:
                    await store.delete(key, timeout=timeout)
                    call.ok()
        except (Retryable, Rejected, OutcomeUnknown, Closed, StorageError):
            return  # the recorder has taken it down
        except MultiRaftError as error:
            self._surprised(f"client {process} was told {error!r}")
            return
        self.acknowledged += 1

    async def _swap(self, store: Store, key: bytes, expected: bytes, value: bytes) -> bool:
        """Compare and set; whether it was set."""
        timeout = self._load.timeout_s
        try:
            if expected:
                await store.compare_and_set(key, value, expected=expected, timeout=timeout)
            else:
                await store.compare_and_set(key, value, revision=0, timeout=timeout)
        except PreconditionFailed:
            return False
        return True
