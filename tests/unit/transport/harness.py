"""What the transport's tests share: frames that pass the checks, events that remember, transports that are always closed."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c

from multiraft._core import FRAME_MAGIC, FrameKind
from multiraft.errors import MultiRaftError
from multiraft.ids import ClusterId, NodeId, StoreId
from multiraft.interfaces import FileMeta, Hello
from multiraft.transport.hello import (
    FRAME_HEADER,
)
from multiraft.transport.options import TransportOptions
from multiraft.transport.transport import LoopTransport

MESSAGE_HEADER = struct.Struct("<HHIQIIQQQQQQ")
FORWARD = 14
CLUSTER = 0xC1
WAIT_S = 20.0

Arun = Callable[[Coroutine[Any, Any, None]], None]

FAST = TransportOptions(backoff_min_s=0.01, backoff_max_s=0.05, linger_s=0.5)


def make_frame(payload: bytes, messages: int = 1) -> bytes:
    """An unsealed frame of forwarded calls; ``payload`` is the body of each."""
    message = MESSAGE_HEADER.pack(
        FORWARD, 0, MESSAGE_HEADER.size + len(payload), 7, 1, 2, 0, 0, 0, 0, 0, 99
    )
    body = (message + payload) * messages
    length = FRAME_HEADER.size + len(body)
    kind = FrameKind.FRAME_MESSAGES
    return FRAME_HEADER.pack(FRAME_MAGIC, length, 1, kind, messages, 0, 0, 0, 0, 0, 0, 0, 0) + body


def payload_of(frame: bytes) -> bytes:
    return bytes(frame[FRAME_HEADER.size + MESSAGE_HEADER.size :])


def seal(
    frame: bytes,
    *,
    source: int = 1,
    target: int = 2,
    epoch: int = 1,
    sequence: int = 1,
    cluster: int = CLUSTER,
    store: int | None = None,
) -> bytes:
    """Seal under any names, whatever is in the header: written apart from the product, with another's checksum."""
    store = 100 + source if store is None else store
    names = struct.pack("<QQIIQQ", cluster, store, source, target, epoch, sequence)
    head, body = frame[:16] + names, frame[FRAME_HEADER.size :]
    return (
        head
        + struct.pack("<II", google_crc32c.value(head + body), google_crc32c.value(head))
        + body
    )


def hello_of(node: int, **changes: Any) -> Hello:
    values: dict[str, Any] = {
        "cluster_id": ClusterId(CLUSTER),
        "node": NodeId(node),
        "store_id": StoreId(100 + node),
        "boot_count": 1,
        "sequence": 5,
        "format_min": 1,
        "format_max": 1,
        "bootstrapped": True,
        "config_digest": 77,
    }
    return Hello(**(values | changes))


class Recorder:
    """TransportEvents that remember what they were told, and can be waited for."""

    def __init__(self, node: int, **changes: Any):
        self.own = hello_of(node, **changes)
        self.frames: list[tuple[int, bytes]] = []
        self.story: list[tuple[str, int]] = []
        self.refusals: list[tuple[int, MultiRaftError]] = []
        self.downs: list[tuple[int, Exception | None]] = []
        self.epochs: list[int] = []
        self.files: list[tuple[int, int, str, FileMeta]] = []
        self.admitted: list[Hello] = []
        self.refuse: Callable[[Hello], MultiRaftError | None] = lambda hello: None
        self.on_frame: Callable[[int, memoryview], None] = lambda node, view: None
        self.keep_frames = True
        self.received_count = 0
        self._changed = asyncio.Event()

    def hello(self) -> Hello:
        return self.own

    def admit(self, hello: Hello) -> None:
        self.admitted.append(hello)
        error = self.refuse(hello)
        if error is not None:
            raise error

    def frame(self, node: NodeId, view: memoryview) -> None:
        self.received_count += 1
        if self.keep_frames:
            self.frames.append((node, bytes(view)))
        self.on_frame(node, view)
        self._changed.set()

    def link_up(self, node: NodeId, link_epoch: int) -> None:
        self.story.append(("up", node))
        self.epochs.append(link_epoch)
        self._changed.set()

    def link_down(self, node: NodeId, error: Exception | None) -> None:
        self.story.append(("down", node))
        self.downs.append((node, error))
        self._changed.set()

    def link_refused(self, node: NodeId, error: MultiRaftError) -> None:
        self.refusals.append((node, error))
        self._changed.set()

    def file_received(self, node: NodeId, transfer: int, path: str, meta: FileMeta) -> None:
        self.files.append((node, transfer, path, meta))
        self._changed.set()

    def payloads(self) -> list[bytes]:
        return [payload_of(frame) for _, frame in self.frames]

    async def until(self, condition: Callable[[], bool], what: str = "") -> None:
        """Wait for events until the condition holds."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(
                f"waited in vain for {what}: {self.story} {self.refusals} {self.received_count} frames"
            ) from None

    async def until_up(self, node: int) -> None:
        await self.until(lambda: bool(self.story) and self.up(node), f"link to {node}")

    async def until_down(self, node: int) -> None:
        await self.until(lambda: not self.up(node), f"end of the link to {node}")

    def up(self, node: int) -> bool:
        mine = [what for what, other in self.story if other == node]
        assert mine == ["up", "down"] * (len(mine) // 2) + ["up"] * (len(mine) % 2), mine
        return len(mine) % 2 == 1


async def fill(sender: LoopTransport, node: int, size: int = 500_000) -> None:
    """Send until the queue is full."""
    full = False
    while not full:
        await asyncio.sleep(0)
        full = not sender.send(NodeId(node), make_frame(bytes(size)))


async def poll(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that no event tells of: a state of the kernel or of another transport."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)
    assert condition(), what


class Cluster:
    """Transports of a test, closed at its end whatever happened."""

    def __init__(self, options: TransportOptions = FAST):
        self.options = options
        self.transports: dict[int, LoopTransport] = {}
        self.addresses: dict[int, str] = {}

    async def add(self, events: Recorder, **settings: Any) -> LoopTransport:
        node = events.own.node
        settings.setdefault("options", self.options)
        transport = LoopTransport(node, events, generator=random.Random(node), **settings)
        self.transports[node] = transport
        self.addresses[node] = await transport.listen(self.addresses.get(node, "127.0.0.1:0"))
        return transport

    def join(self, one: int, other: int) -> None:
        self.transports[one].set_address(NodeId(other), self.addresses[other])

    async def close(self) -> None:
        for transport in self.transports.values():
            await transport.close()


@asynccontextmanager
async def cluster(options: TransportOptions = FAST) -> AsyncIterator[Cluster]:
    made = Cluster(options)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def pair(
    options: TransportOptions = FAST, **settings: Any
) -> AsyncIterator[tuple[Cluster, Recorder, Recorder]]:
    """Nodes 1 and 2 with a standing link."""
    async with cluster(options) as made:
        one, two = Recorder(1), Recorder(2)
        await made.add(one, **settings)
        await made.add(two, **settings)
        made.join(1, 2)
        made.join(2, 1)
        await one.until_up(2)
        await two.until_up(1)
        yield made, one, two


SMALL_CHUNKS = replace(FAST, chunk_bytes=16 * 1024, file_bytes_per_s=2**40)


@asynccontextmanager
async def bulk_pair(
    tmp_path: Path, options: Any = SMALL_CHUNKS
) -> AsyncIterator[tuple[Cluster, Recorder, Recorder, Path]]:
    """Nodes 1 and 2; node 1 knows the address of node 2, which takes files into the directory."""
    async with cluster(options) as nodes:
        one, two = Recorder(1), Recorder(2)
        await nodes.add(one)
        directory = tmp_path / "incoming"
        await nodes.add(two, directory=str(directory))
        nodes.join(1, 2)
        await one.until_up(2)
        yield nodes, one, two, directory


def make_file(tmp_path: Path, size: int, seed: int = 1) -> tuple[str, bytes]:
    data = random.Random(seed).randbytes(size)
    path = tmp_path / f"snapshot-{size}-{seed}"
    path.write_bytes(data)
    return str(path), data


def content(path: str | Path) -> bytes:
    return Path(path).read_bytes()
