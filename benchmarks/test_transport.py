"""Frames between two transports over loopback, both ends in one process and on one loop.

Swept: the frame's size, and whether frames go one way or come back. One figure is a whole round of many frames, so that
driving the loop costs nothing in it; ``extra_info`` says how many. With ``--benchmark-disable`` a round is a few frames.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from multiraft._core import FrameKind
from multiraft.errors import MultiRaftError
from multiraft.ids import ClusterId, NodeId, StoreId
from multiraft.interfaces import FileMeta, Hello
from multiraft.transport.transport import LoopTransport

FRAME_HEADER = struct.Struct("<IIHHIQQIIQQII")
MESSAGE_HEADER = struct.Struct("<HHIQIIQQQQQQ")
FORWARD = 14
ONE, TWO = NodeId(1), NodeId(2)


def make_frame(size: int) -> bytes:
    """One frame of ``size`` bytes that carries one forwarded call, or nothing where it is as small as its header."""
    body = b""
    if size > FRAME_HEADER.size:
        payload = bytes(size - FRAME_HEADER.size - MESSAGE_HEADER.size)
        length = MESSAGE_HEADER.size + len(payload)
        body = MESSAGE_HEADER.pack(FORWARD, 0, length, 1, 1, 2, 0, 0, 0, 0, 0, 9) + payload
    head = (0x3146524D, size, 1, FrameKind.FRAME_MESSAGES, bool(body), 0, 0, 0, 0, 0, 0, 0, 0)
    return FRAME_HEADER.pack(*head) + body


class Node:
    """Events that count frames, and answer them where asked to."""

    def __init__(self, node: NodeId, size: int, *, echo: bool):
        self.node = node
        self.transport: LoopTransport | None = None
        self.received_count = 0
        self.received_bytes = 0
        self.wanted_count = 0
        self.done = asyncio.Event()
        self.up = asyncio.Event()
        self._size = size
        self._echo = echo

    def hello(self) -> Hello:
        return Hello(ClusterId(1), self.node, StoreId(self.node), 1, 0, 1, 1, True, 0)

    def admit(self, hello: Hello) -> None:
        pass

    def frame(self, node: NodeId, view: memoryview) -> None:
        self.received_count += 1
        self.received_bytes += len(view)
        if (
            self._echo
            and self.transport is not None
            and not self.transport.send(node, make_frame(self._size))
        ):
            raise AssertionError("an answer was refused")
        if self.received_count == self.wanted_count:
            self.done.set()

    def link_up(self, node: NodeId, link_epoch: int) -> None:
        self.up.set()

    def link_down(self, node: NodeId, error: Exception | None) -> None:
        pass

    def link_refused(self, node: NodeId, error: MultiRaftError) -> None:
        raise AssertionError(error)

    def file_received(self, node: NodeId, transfer: int, path: str, meta: FileMeta) -> None:
        pass


class Course:
    """Two joined nodes, and rounds of frames between them."""

    def __init__(self, size: int, *, echo: bool):
        self.size = size
        self.one = Node(ONE, size, echo=False)
        self.two = Node(TWO, size, echo=echo)
        self._echo = echo

    async def open(self) -> None:
        for node in (self.one, self.two):
            node.transport = LoopTransport(node.node, node, generator=random.Random(node.node))
        assert self.one.transport is not None and self.two.transport is not None
        self.one.transport.set_address(TWO, await self.two.transport.listen("127.0.0.1:0"))
        await self.one.up.wait()
        await self.two.up.wait()

    async def close(self) -> None:
        assert self.one.transport is not None and self.two.transport is not None
        await self.one.transport.close()
        await self.two.transport.close()

    async def round(self, frames: int, window: int) -> None:
        """Send ``frames`` frames, at most ``window`` in flight, and wait for the last one (or its answer)."""
        transport = self.one.transport
        assert transport is not None
        goal = self.one if self._echo else self.two
        before = goal.received_count
        for begin in range(0, frames, window):
            count = min(window, frames - begin)
            goal.wanted_count = goal.received_count + count
            goal.done.clear()
            for _ in range(count):
                assert transport.send(TWO, make_frame(self.size))
            await goal.done.wait()
        assert goal.received_count - before == frames
        assert goal.received_bytes == goal.received_count * self.size


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as made:
        yield made


@pytest.mark.parametrize("size", [64, 4096, 256 * 1024], ids=["64B", "4KiB", "256KiB"])
@pytest.mark.parametrize(("way", "window"), [("echo", 1), ("echo", 64), ("one-way", 64)])
def test_frames(benchmark: Any, runner: asyncio.Runner, size: int, way: str, window: int) -> None:
    window = min(window, 8) if size > 65536 else window
    frames = 16 if benchmark.disabled else 4000 if size < 65536 else 400
    benchmark.group = f"transport/{way}/{size} bytes"
    benchmark.extra_info.update(
        size_bytes=size, frames_per_round=frames, window_count=window, loop="uvloop"
    )

    async def prepare() -> Course:
        course = Course(size, echo=way == "echo")
        await course.open()
        return course

    course = runner.run(prepare())
    try:
        benchmark.pedantic(
            lambda: runner.run(course.round(frames, window)),
            rounds=5,
            iterations=1,
            warmup_rounds=1,
        )
    finally:
        runner.run(course.close())
