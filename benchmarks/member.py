"""One node of a benchmarked cluster, as a process: obeys lines of JSON on stdin, answers with lines of JSON on stdout.

The load runs inside the node's own process, on its loop, as it does in a program that embeds one, so its CPU counts. A load runs
for so many segments; for each the answer has what was written and the CPU time that the process took, all threads.

Run as ``python -m benchmarks.member CONFIG``, CONFIG being a JSON object of ``Config`` fields.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import uvloop

from multiraft import Config, MultiRaftError, Node

T = TypeVar("T")

KEYS = 100_000
VALUE_BYTES = 16
MANY = 100


def key_of(number: int) -> bytes:
    """A key of 16 bytes."""
    return b"user:%011d" % number


class Load:
    """What one member writes, and how much of it.

    Kinds: ``led``, single puts of keys that this node leads; ``forwarded``, of keys that another leads; ``within``, ``put_many``
    of 100 keys of one shard led here; ``scattered``, of 100 keys of any shard; ``fresh``, single puts of keys never seen before;
    ``timed``, as ``led``, noting how long each took.
    """

    def __init__(self, node: Node, kind: str, keys: int, seed: int) -> None:
        self._node = node
        self._store = node.store
        self._keys = keys
        self._random = random.Random(seed)
        self._seed = seed
        self._value = b"v" * VALUE_BYTES
        self._made = 0
        self.written = 0
        self.unknown = 0
        self.latencies: list[float] = []
        self.commits: list[float] = []
        self.samples: list[bytes] = []
        self.running = True
        self._client: Callable[[], Awaitable[None]] = getattr(self, f"_{kind}")
        self._prepare(kind)

    def _prepare(self, kind: str) -> None:
        """Draw what the clients will write."""
        everything = [key_of(number) for number in range(self._keys)]
        shards = self._led_keys()
        led = [key for keys in shards for key in keys]
        if kind in ("led", "timed"):
            self._drawn = self._draw(led)
            if kind == "timed":
                self._time_commits()
        elif kind == "forwarded":
            here = set(led)
            self._drawn = self._draw([key for key in everything if key not in here])
        elif kind == "within":
            some = [self._random.choice(shards) for _ in range(1 << 10)]
            self._drawn_pairs = itertools.cycle([self._many(keys) for keys in some])
        elif kind == "scattered":
            self._drawn_pairs = itertools.cycle([self._many(everything) for _ in range(1 << 10)])

    def _time_commits(self) -> None:
        """Note how long each transaction of the log takes, on its worker, as long as this load runs."""
        environment: Any = self._node.log._environment
        write = environment.write

        def timed(change: Any) -> None:
            started = time.perf_counter()
            write(change)
            if self.running:
                self.commits.append(time.perf_counter() - started)

        environment.write = timed

    def _many(self, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        return [(key, self._value) for key in self._random.choices(keys, k=MANY)]

    def _led_keys(self) -> list[list[bytes]]:
        """The keys that this node leads, by shard."""
        routing, multi = self._node.routing, self._node.multi
        shards: dict[int, list[bytes]] = {}
        for number in range(self._keys):
            key = key_of(number)
            group, _epoch = routing.find(routing.physical(key))
            if multi.leads(group):
                shards.setdefault(group, []).append(key)
        return [shards[group] for group in sorted(shards)]

    def _draw(self, some: Sequence[T], count: int = 1 << 17) -> Iterator[T]:
        """Evenly drawn, again and again; drawn beforehand and shared by all clients: the load is not what is measured."""
        return itertools.cycle([self._random.choice(some) for _ in range(count)])

    # -- clients ----------------------------------------------------------------------------------------------------------

    async def _led(self) -> None:
        put, value = self._store.put, self._value
        for key in self._drawn:
            await put(key, value)
            self.written += 1
            if not self.running:
                self.samples.append(key)
                return

    _forwarded = _led

    async def _fresh(self) -> None:
        put, value = self._store.put, self._value
        while self.running:
            self._made += 1
            number = self._made * 2_654_435_761 % (1 << 32)  # each number once, in no order
            key = b"%03d:%012d" % (self._seed, number)
            await put(key, value)
            self.written += 1
            if not self.running:
                self.samples.append(key)

    async def _within(self) -> None:
        put_many = self._store.put_many
        for pairs in self._drawn_pairs:
            await put_many(pairs)
            self.written += MANY
            if not self.running:
                self.samples += [key for key, _value in pairs]
                return

    _scattered = _within

    async def _timed(self) -> None:
        put, value = self._store.put, self._value
        for key in self._drawn:
            started = time.perf_counter()
            await put(key, value)
            self.latencies.append(time.perf_counter() - started)
            self.written += 1
            if not self.running:
                self.samples.append(key)
                return

    # -- running ----------------------------------------------------------------------------------------------------------

    async def run(self, clients: int, segments: int, segment_s: float) -> list[dict[str, Any]]:
        """So many clients for so many segments; what each segment gave."""
        tasks = [asyncio.create_task(self._guarded()) for _ in range(clients)]
        found = []
        try:
            for _ in range(segments):
                written, cpu, started = self.written, cpu_seconds(), time.perf_counter()
                await asyncio.sleep(segment_s)
                found.append(
                    {
                        "written": self.written - written,
                        "cpu_s": cpu_seconds() - cpu,
                        "seconds": time.perf_counter() - started,
                    }
                )
        finally:
            self.running = False
        await asyncio.gather(*tasks)
        return found

    async def _guarded(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while self.running:
                try:
                    await self._client()
                except MultiRaftError:
                    self.unknown += 1


def cpu_seconds() -> float:
    """User and system time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def load(node: Node, order: dict[str, Any]) -> dict[str, Any]:
    """Run a load; what it gave, and some of the keys whose write was acknowledged last."""
    work = Load(node, order["kind"], order["keys"], order["seed"])
    segments = await work.run(order["clients"], order["segments"], order["segment_s"])
    return {
        "segments": segments,
        "unknown": work.unknown,
        "latencies": work.latencies,
        "commits": work.commits,
        "samples": [key.hex() for key in work.samples[:100]],
    }


async def obey(node: Node, order: dict[str, Any]) -> dict[str, Any]:
    """Do one order; what came of it."""
    if order["do"] == "ready":
        await spread(node)
    elif order["do"] == "load":
        return await load(node, order)
    elif order["do"] == "fill":
        await fill(node, order["keys"])
    elif order["do"] == "read":
        keys = [bytes.fromhex(key) for key in order["keys_hex"]]
        values = await node.store.get_many(keys)
        return {"values_hex": [None if value is None else value.hex() for value in values]}
    elif order["do"] == "status":
        return {"flushes": node.status().flushes}
    elif order["do"] == "memory":
        return {"memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10}
    else:
        raise ValueError(f"no such order: {order}")
    return {}


async def spread(node: Node) -> None:
    """Wait until every shard has a leader, and this node leads its share of them."""
    await node.ready(60)
    share = node.config.shard_count // len(node.config.voters)
    async with asyncio.timeout(60):
        while node.status().led < share:  # noqa: ASYNC110 - nothing tells of it, and nothing is timed yet
            await asyncio.sleep(node.config.tick_ms / 1000)


async def fill(node: Node, keys: int) -> None:
    """Write every key once."""
    numbers = iter(range(keys))

    async def client() -> None:
        while some := [key_of(n) for _, n in zip(range(500), numbers, strict=False)]:
            await node.store.put_many([(key, b"0" * VALUE_BYTES) for key in some])

    await asyncio.gather(*(client() for _ in range(8)))


async def main(config: Config) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with Node(config) as node:
        while line := await reader.readline():
            sys.stdout.write(json.dumps(await obey(node, json.loads(line))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Config.from_mapping(json.loads(sys.argv[1]))))
