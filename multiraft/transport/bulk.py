"""Whole files (snapshots) to another node, on connections of their own, so that no frame of messages waits behind them.

The sender dials, with a hello for the purpose "bulk", and offers the file: transfer, size, checksum, a note. The receiver
answers how much of it is here already; then chunks follow in order, at most 1 MiB each, each with its checksum, at the
rate that ``Throttle`` allows. The receiver checks the whole, syncs file and directory, tells its node, and says so. A broken
connection is dialled again and goes on where the receiver stands; damage is sent again once, then it is an error.

All file work is done by a worker (``files.py``); what waits for it is bounded by pausing the reading. Frames of kind bulk
have a body of 40 bytes and data, see ``docs/formats.md``. This module holds the words of both sides and the receiving one;
the sending one is ``outbox.py``.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from multiraft._core import FrameKind
from multiraft.errors import Overloaded, PeerProtocolError, Rejected
from multiraft.ids import NodeId
from multiraft.interfaces import Disk, FileMeta, Jobs, TransportEvents
from multiraft.transport.connection import Connection
from multiraft.transport.files import FileDamaged, IncomingFile, clear_directory
from multiraft.transport.hello import FRAME_HEADER, Farewell, Stage, build_frame
from multiraft.transport.options import TransportOptions

T = TypeVar("T")

CHUNK_BYTES_MAX = 1024 * 1024
NOTE_BYTES_MAX = 64 * 1024
_WAITING_BYTES_MAX = 4 * 1024 * 1024
"""Chunks of one connection that wait for the disk before its reading is paused."""

_BODY = struct.Struct("<HHIQQQII")


class Op(enum.IntEnum):
    BEGIN = 1
    """Sender: total = size, crc = the whole file's, data = note."""
    READY = 2
    """Receiver: offset = how much of it is here."""
    CHUNK = 3
    """Sender: offset, crc = the data's, data."""
    DONE = 4
    """Receiver: status; data = a reason for people."""


class Status(enum.IntEnum):
    OK = 0
    DAMAGED = 1
    TOO_LARGE = 2
    NO_SPACE = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class BulkMessage:
    op: Op
    transfer: int
    status: Status = Status.OK
    offset: int = 0
    total: int = 0
    crc: int = 0
    data: bytes = b""


def encode_bulk(message: BulkMessage) -> bytes:
    """A frame of kind bulk, yet to be sealed."""
    body = _BODY.pack(
        message.op,
        message.status,
        len(message.data),
        message.transfer,
        message.offset,
        message.total,
        message.crc,
        0,
    )
    return build_frame(FrameKind.FRAME_BULK, body + message.data)


def decode_bulk(frame: memoryview) -> BulkMessage:
    """Read a checked frame of kind bulk; the data is copied out of the receive buffer. Raises PeerProtocolError."""
    data_bytes = len(frame) - FRAME_HEADER.size - _BODY.size
    if not 0 <= data_bytes <= CHUNK_BYTES_MAX:
        raise PeerProtocolError(f"a bulk frame of {len(frame)} bytes")
    op, status, length, transfer, offset, total, crc, zero = _BODY.unpack_from(
        frame, FRAME_HEADER.size
    )
    if zero or length != data_bytes:
        raise PeerProtocolError("a bulk frame whose lengths contradict each other")
    data = bytes(frame[FRAME_HEADER.size + _BODY.size :])
    try:
        return BulkMessage(Op(op), transfer, Status(status), offset, total, crc, data)
    except ValueError as error:
        raise PeerProtocolError(
            f"a bulk frame of a kind that is not known here: {error}"
        ) from error


async def run_job(jobs: Jobs, job: Callable[[], T]) -> T:
    """Wait for blocking work. Cancelled, it gives up the wait; the work goes on."""
    outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def done(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]

    jobs.submit(job, done)
    return await outcome


class Inbox:
    """The receiving side of a node: where files go, and how many at a time."""

    def __init__(
        self,
        events: TransportEvents,
        options: TransportOptions,
        jobs: Callable[[], Jobs],
        directory: str | None,
        disk: Disk,
    ):
        self.events = events
        self.options = options
        self.jobs = jobs
        self._directory = directory
        self._disk = disk
        self._cleared = False
        self._arrivals: dict[Connection, Arrival] = {}
        self._files: dict[
            tuple[NodeId, int], IncomingFile
        ] = {}  # being received, or broken off and perhaps resumed

    def greeted(self, connection: Connection) -> None:
        """Judge a connection that was dialled to send a file here. Raises Rejected or Overloaded."""
        if self._directory is None:
            raise Rejected("this node takes no files")
        if connection not in self._arrivals and len(self._arrivals) >= self.options.incoming_max:
            raise Overloaded(
                f"{self.options.incoming_max} files are on their way into this node already"
            )

    def stood(self, connection: Connection) -> None:
        self._arrivals[connection] = Arrival(self, connection)

    def ended(self, connection: Connection) -> None:
        arrival = self._arrivals.pop(connection, None)
        if arrival is not None:
            arrival.ended()

    def file(self, node: NodeId, message: BulkMessage) -> IncomingFile:
        """The file that a BEGIN is about: a known one where it is the same, else a new one."""
        if self._directory is None:
            raise PeerProtocolError("this node takes no files")
        key = (node, message.transfer)
        for connection, arrival in list(self._arrivals.items()):
            if arrival.key == key:  # the sender lost that connection, and we have not noticed
                connection.end(None)
        if not self._cleared:
            directory = self._directory
            self._submit(lambda: clear_directory(self._disk, directory))
            self._cleared = True
        known = self._files.pop(key, None)
        if known is not None and (known.size, known.crc) != (message.total, message.crc):
            self._submit(known.discard)
            known = None
        file = known or IncomingFile(
            self._disk, self._directory, node, message.transfer, message.total, message.crc
        )
        self._files[key] = file
        self._forget_oldest()
        return file

    def release(self, key: tuple[NodeId, int]) -> IncomingFile | None:
        """All of a file arrived: if it is offered again, it begins anew."""
        return self._files.pop(key, None)

    def settle(self, key: tuple[NodeId, int]) -> None:
        """A file came to nothing, and will not be resumed."""
        file = self.release(key)
        if file is not None:
            self._submit(file.discard)

    def close(self) -> None:
        """Discard what is unfinished; the jobs are the caller's to end."""
        for key in list(self._files):
            self.settle(key)

    def _forget_oldest(self) -> None:
        active = {arrival.key for arrival in self._arrivals.values()}
        idle = [key for key in self._files if key not in active]
        for key in idle[: max(0, len(self._files) - 2 * self.options.incoming_max)]:
            self.settle(key)

    def _submit(self, job: Callable[[], None]) -> None:
        self.jobs().submit(job, raise_error)


def raise_error(result: object, error: BaseException | None) -> None:
    """For jobs that nobody waits for: a failure goes to the loop's exception handler."""
    if error is not None:
        raise error


class Arrival:
    """One connection that brings a file."""

    def __init__(self, inbox: Inbox, connection: Connection):
        self.key: tuple[NodeId, int] | None = None
        self._inbox = inbox
        self._connection = connection
        self._file: IncomingFile | None = None
        self._meta: FileMeta | None = None
        self._ready = False
        self._finishing = False
        self._over = False
        self._waiting_bytes = 0
        self._moved = 0
        self._seen = -1
        connection.on_bulk = self._on_frame
        self._watch = asyncio.get_running_loop().call_later(0, self._on_watch)

    def ended(self) -> None:
        """The connection is gone. What arrived stays for a while, to be resumed."""
        self._over = True
        self._watch.cancel()

    def _on_watch(self) -> None:
        """Twice in ``file_idle_s``, see whether anything moved."""
        if self._moved == self._seen and not self._waiting_bytes and not self._finishing:
            self._connection.leave(
                Farewell.REFUSED, "the file made no progress", TimeoutError("no progress")
            )
            return
        self._seen = self._moved
        idle_s = self._inbox.options.file_idle_s
        self._watch = asyncio.get_running_loop().call_later(idle_s, self._on_watch)

    def _on_frame(self, frame: memoryview) -> None:
        message = decode_bulk(frame)
        self._moved += 1
        if message.op is Op.BEGIN and self._file is None:
            self._on_begin(message)
        elif (
            message.op is Op.CHUNK
            and self._ready
            and self.key is not None
            and message.transfer == self.key[1]
        ):
            self._on_chunk(message)
        else:
            raise PeerProtocolError(f"a bulk message {message.op.name} out of its turn")

    def _on_begin(self, message: BulkMessage) -> None:
        node = self._connection.node
        if node is None or len(message.data) > NOTE_BYTES_MAX:
            raise PeerProtocolError(f"a note of {len(message.data)} bytes")
        limit = self._inbox.options.file_bytes_max
        if message.total > limit:
            self._finish(
                message.transfer,
                Status.TOO_LARGE,
                f"a file of {message.total} bytes; taken are {limit}",
            )
            return
        self._file = file = self._inbox.file(node, message)
        self.key = (node, message.transfer)
        self._meta = FileMeta(message.total, message.crc, message.data)
        self._inbox.jobs().submit(file.resume, self._on_resumed)

    def _on_resumed(self, offset: int | None, error: BaseException | None) -> None:
        if self._over or self.key is None or self._file is None:
            return
        if error is not None or offset is None:
            self._fail(error)
            return
        self._ready = True
        self._send(BulkMessage(Op.READY, self.key[1], offset=offset))
        if offset == self._file.size:
            self._on_whole(self.key, self._file)

    def _on_chunk(self, message: BulkMessage) -> None:
        file = self._file
        if file is None or not message.data:
            raise PeerProtocolError("a chunk without a file or without data")
        self._waiting_bytes += len(message.data)
        if self._waiting_bytes > _WAITING_BYTES_MAX:
            self._connection.pause_reading()

        def done(written: int | None, error: BaseException | None) -> None:
            self._on_written(len(message.data), written, error)

        self._inbox.jobs().submit(
            lambda: file.write(message.offset, message.data, message.crc), done
        )

    def _on_written(self, size: int, written: int | None, error: BaseException | None) -> None:
        self._waiting_bytes -= size
        if self._over or self._file is None:
            return
        if error is not None:
            self._fail(error)
            return
        if self._waiting_bytes <= _WAITING_BYTES_MAX // 2:
            self._connection.resume_reading()
        if written == self._file.size and self.key is not None:
            self._on_whole(self.key, self._file)

    def _on_whole(self, key: tuple[NodeId, int], file: IncomingFile) -> None:
        self._finishing = True
        self._inbox.release(key)
        self._inbox.jobs().submit(file.finish, self._on_finished)

    def _on_finished(self, path: str | None, error: BaseException | None) -> None:
        if self.key is None or self._meta is None:
            return
        if error is not None or path is None:
            if not self._over:
                self._fail(error)
            return
        node, transfer = self.key
        try:
            self._inbox.events.file_received(node, transfer, path, self._meta)
        except (
            Exception
        ) as failure:  # a bug of the node: the sender must not believe that it took the file
            if not self._over:
                self._fail(failure)
            raise
        if not self._over:
            self._finish(transfer, Status.OK, "")

    def _fail(self, error: BaseException | None) -> None:
        """Tell the sender what went wrong here. What arrived whole is kept only where sending again may help."""
        if self.key is None:
            return
        status = Status.FAILED
        if isinstance(error, FileDamaged):
            status = Status.DAMAGED
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            status = Status.NO_SPACE
        if status is not Status.DAMAGED:
            self._inbox.settle(self.key)
        self._finish(self.key[1], status, str(error))

    def _finish(self, transfer: int, status: Status, reason: str) -> None:
        self._send(BulkMessage(Op.DONE, transfer, status=status, data=reason.encode()[:512]))
        self._connection.leave(Farewell.CLOSING, "the file has come to its end", None)

    def _send(self, message: BulkMessage) -> None:
        if self._connection.stage is Stage.STANDING:
            self._connection.write(encode_bulk(message))
