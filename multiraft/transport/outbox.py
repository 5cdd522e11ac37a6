"""The sending side of bulk connections: one file at a time to one node, tried again within limits. See ``bulk.py``.

Never done here: touching a file on the loop, or going on after damage was found twice. A cancelled ``send`` closes its
connection and its file and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from multiraft.errors import (
    Closed,
    LinkLost,
    MultiRaftError,
    NoSpace,
    PeerProtocolError,
    Rejected,
    Retryable,
    TooLarge,
)
from multiraft.ids import NodeId
from multiraft.interfaces import Disk, Jobs
from multiraft.transport.bulk import (
    NOTE_BYTES_MAX,
    BulkMessage,
    Op,
    Status,
    decode_bulk,
    encode_bulk,
    raise_error,
    run_job,
)
from multiraft.transport.connection import Connection, Host
from multiraft.transport.files import FileDamaged, OutgoingFile
from multiraft.transport.hello import Farewell, Purpose, Stage
from multiraft.transport.link import Dialler
from multiraft.transport.throttle import Throttle

_ERRORS: dict[Status, type[MultiRaftError]] = {
    Status.DAMAGED: FileDamaged,
    Status.TOO_LARGE: TooLarge,
    Status.NO_SPACE: NoSpace,
    Status.FAILED: Retryable,
}


class Outbox:
    """All files on their way out of a node."""

    def __init__(self, host: Host, dialler: Dialler, jobs: Callable[[], Jobs], disk: Disk):
        self._host = host
        self._dialler = dialler
        self._jobs = jobs
        self._disk = disk
        self._throttle = Throttle(host.options.file_bytes_per_s)
        self._places = asyncio.Semaphore(host.options.outgoing_max)
        self._departures: dict[Connection, Departure] = {}
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def send(
        self,
        node: NodeId,
        address: Callable[[], tuple[str, int]],
        transfer: int,
        path: str,
        note: bytes,
    ) -> None:
        """Send one file. Raises what ``Transport.send_file`` says."""
        if len(note) > NOTE_BYTES_MAX:
            raise TooLarge(f"a note of {len(note)} bytes; at most {NOTE_BYTES_MAX} go with a file")
        self._active += 1
        self._idle.clear()
        file = OutgoingFile(self._disk, path)
        try:
            async with self._places:
                await self._measure(file)
                await self._send_within_limits(node, address, transfer, file, note)
        finally:
            self._jobs().submit(file.close, raise_error)
            self._active -= 1
            if not self._active:
                self._idle.set()

    def ended(self, connection: Connection) -> None:
        departure = self._departures.pop(connection, None)
        if departure is not None:
            departure.news.set()

    async def close(self) -> None:
        """Fail what is on its way with Closed, and wait until its callers have heard."""
        self._closed = True
        for connection in list(self._departures):
            connection.end(Closed("the transport is closed"))
        await self._idle.wait()

    async def _measure(self, file: OutgoingFile) -> None:
        """Open the file and take its checksum, a stretch at a time."""
        await run_job(self._jobs(), file.open)
        offset = 0
        while True:
            self._check_open()
            offset = await run_job(self._jobs(), functools.partial(file.measure, offset))
            if offset >= file.size:
                return

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the transport is closed")

    async def _send_within_limits(
        self,
        node: NodeId,
        address: Callable[[], tuple[str, int]],
        transfer: int,
        file: OutgoingFile,
        note: bytes,
    ) -> None:
        """Try until it is there, until it was damaged twice, or until too many connections broke without progress."""
        begin = BulkMessage(Op.BEGIN, transfer, total=file.size, crc=file.crc, data=note)
        options = self._host.options
        damaged, tries, furthest = False, 0, 0
        while True:
            self._check_open()
            connection = Connection(self._host, dialled=node, purpose=Purpose.BULK)
            departure = self._departures[connection] = Departure(connection, file, self)
            try:
                await self._dialler.connect(connection, address())
                await departure.run(begin)
                return
            except (FileDamaged, PeerProtocolError) as error:
                if not connection.stood:
                    raise
                if damaged:
                    raise PeerProtocolError(
                        f"a file for node {node} was damaged twice on its way"
                    ) from error
                damaged = True
            except (OSError, LinkLost) as error:
                tries = 1 if departure.offset > furthest else tries + 1
                if tries >= options.file_tries_max:
                    raise LinkLost(
                        f"the connection that carried a file to node {node} broke: {error}"
                    ) from error
            finally:
                self._departures.pop(connection, None)
                connection.leave(Farewell.CLOSING, "the file's sender is done", None)
            furthest = max(furthest, departure.offset)
            self._check_open()
            await asyncio.sleep(options.backoff_min_s * 2**tries)

    async def take(self, count: int) -> None:
        await self._throttle.take(count)

    async def read(self, file: OutgoingFile, offset: int) -> tuple[bytes, int]:
        count = min(self._host.options.chunk_bytes, file.size - offset)
        try:
            return await run_job(self._jobs(), lambda: file.read(offset, count))
        except OSError as error:  # not to be taken for one of the network's
            raise Rejected(f"the file that is sent cannot be read: {error}") from error

    @property
    def idle_s(self) -> float:
        return self._host.options.file_idle_s


class Departure:
    """One connection that carries a file away."""

    def __init__(self, connection: Connection, file: OutgoingFile, outbox: Outbox):
        self.news = asyncio.Event()
        self.offset = 0
        """How far the sending has come."""
        self._connection = connection
        self._file = file
        self._outbox = outbox
        self._ready = False
        self._done: BulkMessage | None = None
        connection.on_bulk = self._on_frame

    async def run(self, begin: BulkMessage) -> None:
        """Offer the file, send what the receiver lacks, wait for its verdict."""
        self._check()
        self._connection.write(encode_bulk(begin))
        await self._until(lambda: self._ready or self._done is not None)
        while self.offset < self._file.size and self._done is None:
            data, crc = await self._outbox.read(self._file, self.offset)
            await self._outbox.take(len(data))
            async with asyncio.timeout(self._outbox.idle_s):
                await self._connection.writable.wait()
            if self._done is not None:
                break
            self._check()
            chunk = BulkMessage(Op.CHUNK, begin.transfer, offset=self.offset, crc=crc, data=data)
            self._connection.write(encode_bulk(chunk))
            self.offset += len(data)
        await self._until(lambda: self._done is not None)
        if self._done is not None and self._done.status is not Status.OK:
            reason = self._done.data.decode("utf-8", "replace")
            raise _ERRORS[self._done.status](f"the file's receiver answers: {reason}")

    def _on_frame(self, frame: memoryview) -> None:
        message = decode_bulk(frame)
        if message.op is Op.READY and not self._ready and message.offset <= self._file.size:
            self._ready = True
            self.offset = message.offset
        elif message.op is Op.DONE and self._done is None:
            self._done = message
        else:
            raise PeerProtocolError(f"a bulk message {message.op.name} out of its turn")
        self.news.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._check()
            self.news.clear()
            async with asyncio.timeout(self._outbox.idle_s):
                await self.news.wait()

    def _check(self) -> None:
        """Raise what ended the connection, once it has."""
        if self._connection.stage is Stage.STANDING:
            return
        if isinstance(self._connection.error, (MultiRaftError, OSError)):
            raise self._connection.error
        raise LinkLost("the connection that carried a file was closed")
