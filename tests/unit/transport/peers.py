"""Others on the wire, under a test's hand: a relay that damages and stalls, a socket that says anything, an impostor."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Coroutine
from typing import Any

from multiraft.transport.hello import (
    FRAME_HEADER,
    Purpose,
    Step,
    decode_hello,
    encode_hello,
)
from tests.unit.transport.harness import WAIT_S, hello_of, seal

_FINALS: list[Callable[[], Coroutine[Any, Any, None]]] = []
"""What closes the sockets that a failed test left open: a loop does not end well with them, and hides the failure."""


async def sweep() -> None:
    while _FINALS:
        await _FINALS.pop()()


class Relay:
    """A TCP relay between a dialler and a node, that can stop reading, damage bytes, and cut."""

    def __init__(self, target: str):
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.running = asyncio.Event()
        self.running.set()
        _FINALS.append(self.close)
        self.forwarded = 0
        self.connections = 0
        self.mangle: Callable[[bytes], bytes] = lambda data: data
        """What becomes of the bytes on their way to the target."""

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._writers.append(far_writer)
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, there=True),
                self._pump(far_reader, writer, there=False),
            )
        except OSError:
            writer.transport.abort()
            far_writer.transport.abort()
        else:
            writer.close()
            far_writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, there: bool
    ) -> None:
        while data := await reader.read(65536):
            await self.running.wait()
            if there:
                self.forwarded += len(data)
                data = self.mangle(data)
            if writer.transport.is_closing():
                raise ConnectionResetError("the other direction is closed")
            writer.write(data)
            await writer.drain()
        # One direction has ended; what goes the other way, a goodbye perhaps, must not be cut off by a reset.
        if not writer.transport.is_closing():
            writer.write_eof()

    def cut(self) -> None:
        """Break what stands; new connections are relayed."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        """Idempotent."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Raw:
    """A plain socket that says what a test wants to a transport's port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer
        _FINALS.append(self._finish)

    @classmethod
    async def dial(cls, address: str, **settings: Any) -> Raw:
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port), **settings))

    async def say(self, data: bytes) -> None:
        """Raises ConnectionError where the other side has ended it; uvloop says that with a RuntimeError."""
        if self.writer.is_closing():
            raise ConnectionResetError("the connection is closed")
        try:
            self.writer.write(data)
        except RuntimeError as error:
            raise ConnectionResetError("the connection is closed") from error
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Everything until the other side ends the connection."""
        data = b""
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionError):
                while part := await self.reader.read(65536):
                    data += part
        return data

    async def frame(self) -> bytes:
        head = await self.reader.readexactly(FRAME_HEADER.size)
        length = struct.unpack_from("<I", head, 4)[0]
        return head + await self.reader.readexactly(length - FRAME_HEADER.size)

    def close(self) -> None:
        self.writer.transport.abort()

    async def _finish(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Impostor:
    """A listener that speaks for a node by hand: it hands over what was dialled."""

    def __init__(self) -> None:
        self.dialled: asyncio.Queue[Raw] = asyncio.Queue()
        self.address = ""
        self._server: asyncio.Server | None = None
        _FINALS.append(self.close)

    async def open(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.dialled.put(Raw(reader, writer))

        self._server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Idempotent."""
        if self._server is not None:
            self._server.close()


def offer(
    epoch: int,
    *,
    step: Step = Step.OFFER,
    sequence: int = 1,
    node: int = 2,
    target: int = 1,
    **changes: Any,
) -> bytes:
    hello = hello_of(node, **changes)
    names = {"cluster": hello.cluster_id, "store": hello.store_id}
    return seal(
        encode_hello(hello, step, Purpose.LINK),
        source=node,
        target=target,
        epoch=epoch,
        sequence=sequence,
        **names,
    )


async def greet(raw: Raw, epoch: int) -> None:
    await raw.say(offer(epoch))
    assert decode_hello(memoryview(await raw.frame())).step is Step.ANSWER
    await raw.say(offer(epoch, step=Step.CONFIRM, sequence=2))
