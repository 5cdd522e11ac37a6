"""The formats of runs, batches, messages and frames in plain Python: the reference that the compiled codec is held to.

It follows docs/formats.md sentence by sentence and cares for nothing but being easy to compare with it. The checks ask in the
order in which the compiled ones ask, so that both must find the same fault in the same bytes. Numbers of kinds and limits are
those of ``_core``, which a test compares with the document.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from multiraft._core import (
    BATCH_BYTES_MAX,
    BATCH_RUNS_MAX,
    BATCH_SEAL_BYTES,
    ENTRY_BYTES_MAX,
    FRAME_BYTES_MAX,
    RUN_BYTES_MAX,
    RUN_ENTRIES_MAX,
    Fault,
    FrameKind,
    MessageFlag,
    MessageKind,
    RunKind,
)

CRC = struct.Struct("<I")
LENGTH = struct.Struct("<I")
RUN_HEADER = struct.Struct("<QQQQQIIIHHII")
BATCH_HEADER = struct.Struct("<IHHIIQQII")
DIRECTORY_ITEM = struct.Struct("<QHHIII")
FRAME_HEADER = struct.Struct("<IIHHIQQIIQQII")
MESSAGE_HEADER = struct.Struct("<HHIQIIQQQQQQ")

BATCH_MAGIC = int.from_bytes(b"MRB1", "little")
FRAME_MAGIC = int.from_bytes(b"MRF1", "little")
VERSION = 1
INDEX_MAX = 2**64 - 1
RUN_KINDS = frozenset(RunKind)
WIRE_RUN_KINDS = frozenset({RunKind.RUN_ENTRIES, RunKind.RUN_MEMBERSHIP})
FLAGS_ALL = sum(MessageFlag)


class Run(NamedTuple):
    group: int
    first: int
    term: int
    prev_term: int
    commit: int
    from_replica: int
    kind: int
    entries: tuple[bytes, ...]


class Batch(NamedTuple):
    sequence: int
    store_id: int
    runs: tuple[bytes, ...]


class Message(NamedTuple):
    kind: int
    flags: int = 0
    group: int = 0
    from_replica: int = 0
    to_replica: int = 0
    term: int = 0
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    log_term: int = 0
    commit: int = 0
    hint: int = 0
    context: int = 0
    body: bytes = b""


class Frame(NamedTuple):
    kind: int
    cluster_id: int = 0
    store_id: int = 0
    from_node: int = 0
    to_node: int = 0
    link_epoch: int = 0
    sequence: int = 0
    messages: tuple[Message, ...] = ()
    body: bytes = b""


class Refused(Exception):
    """These bytes are not what they should be; ``fault`` says why."""

    def __init__(self, fault: Fault):
        super().__init__(fault.name)
        self.fault = fault


def require(condition: bool, fault: Fault) -> None:
    if not condition:
        raise Refused(fault)


# -- checksum -----------------------------------------------------------------------------------------------------------


def crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc_table()


def crc32c(data: bytes, crc: int = 0) -> int:
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


# -- runs ---------------------------------------------------------------------------------------------------------------


def body_crc(group: int, first: int, term: int, count: int, kind: int, body: bytes) -> int:
    """Over what never changes: prev_term, commit and from_replica may differ between copies."""
    return crc32c(struct.pack("<QQQII", group, first, term, count, kind) + body)


def encode_run(run: Run) -> bytes:
    body = b"".join(LENGTH.pack(len(entry)) + entry for entry in run.entries)
    count = len(run.entries)
    head = RUN_HEADER.pack(
        run.group,
        run.first,
        run.term,
        run.prev_term,
        run.commit,
        count,
        len(body),
        run.from_replica,
        run.kind,
        0,
        body_crc(run.group, run.first, run.term, count, run.kind, body),
        0,
    )
    return reseal_run(head + body)


def reseal_run(run: bytes) -> bytes:
    """The same run with the head_crc that fits its header."""
    return run[:60] + CRC.pack(crc32c(run[:60])) + run[64:]


def check_run(data: bytes, *, check_body: bool = True) -> None:
    """Judge the run at the start of ``data``."""
    require(len(data) >= RUN_HEADER.size, Fault.FAULT_SHORT)
    group, first, term, _, _, count, size, _, kind, flags, crc, head_crc = RUN_HEADER.unpack_from(
        data
    )
    require(size <= RUN_BYTES_MAX and count <= RUN_ENTRIES_MAX, Fault.FAULT_LIMIT)
    require(size <= len(data) - RUN_HEADER.size, Fault.FAULT_SHORT)
    require(crc32c(data[:60]) == head_crc, Fault.FAULT_CHECKSUM)
    require(kind in RUN_KINDS and flags == 0, Fault.FAULT_KIND)
    require(count_fits(kind, first, count), Fault.FAULT_SHAPE)
    require(4 * count <= size and (count > 0 or size == 0), Fault.FAULT_SHAPE)
    if check_body:
        body = data[RUN_HEADER.size : RUN_HEADER.size + size]
        split_body(body, count, kind)
        require(body_crc(group, first, term, count, kind, body) == crc, Fault.FAULT_CHECKSUM)


def count_fits(kind: int, first: int, count: int) -> bool:
    if kind in WIRE_RUN_KINDS:
        return count >= 1 and first >= 1 and first + count - 1 <= INDEX_MAX
    return count == (0 if kind == RunKind.RUN_TRUNCATE else 1)


def split_body(body: bytes, count: int, kind: int) -> tuple[bytes, ...]:
    limit = RUN_BYTES_MAX if kind == RunKind.RUN_REWRITE else ENTRY_BYTES_MAX
    entries = []
    for _ in range(count):
        require(len(body) >= LENGTH.size, Fault.FAULT_SHAPE)
        (length,) = LENGTH.unpack_from(body)
        require(length <= limit, Fault.FAULT_LIMIT)
        require(length <= len(body) - LENGTH.size, Fault.FAULT_SHAPE)
        entries.append(body[LENGTH.size : LENGTH.size + length])
        body = body[LENGTH.size + length :]
    require(not body, Fault.FAULT_SHAPE)
    return tuple(entries)


def run_length(data: bytes) -> int:
    return int(RUN_HEADER.size + RUN_HEADER.unpack_from(data)[6])


def decode_run(data: bytes) -> Run:
    """A whole run and nothing after it."""
    check_run(data)
    require(len(data) == run_length(data), Fault.FAULT_SHAPE)
    group, first, term, prev_term, commit, count, _, from_replica, kind, *_ = (
        RUN_HEADER.unpack_from(data)
    )
    entries = split_body(data[RUN_HEADER.size :], count, kind)
    return Run(group, first, term, prev_term, commit, from_replica, kind, entries)


# -- batches ------------------------------------------------------------------------------------------------------------


def split_runs(runs: Sequence[bytes]) -> list[list[bytes]]:
    """Which runs go into which batch: as many as fit under the sealing limit, and always one."""
    batches: list[list[bytes]] = []
    for run in runs:
        size = sum(map(len, batches[-1])) if batches else 0
        if not batches or size + len(run) > BATCH_SEAL_BYTES or len(batches[-1]) == BATCH_RUNS_MAX:
            batches.append([])
        batches[-1].append(run)
    return batches


def encode_batch(batch: Batch) -> bytes:
    offset = BATCH_HEADER.size + DIRECTORY_ITEM.size * len(batch.runs)
    directory = b""
    for run in batch.runs:
        group, kind = RUN_HEADER.unpack_from(run)[0], RUN_HEADER.unpack_from(run)[8]
        directory += DIRECTORY_ITEM.pack(group, kind, 0, len(run), offset, 0)
        offset += len(run)
    head = BATCH_HEADER.pack(
        BATCH_MAGIC,
        VERSION,
        0,
        offset,
        len(batch.runs),
        batch.sequence,
        batch.store_id,
        crc32c(directory),
        0,
    )
    return reseal_batch(head + directory + b"".join(batch.runs))


def reseal_batch(batch: bytes) -> bytes:
    """The same batch with the checksums that fit its directory and its header."""
    count = BATCH_HEADER.unpack_from(batch)[4]
    directory = batch[BATCH_HEADER.size : BATCH_HEADER.size + DIRECTORY_ITEM.size * count]
    head = batch[:32] + CRC.pack(crc32c(directory))
    return head + CRC.pack(crc32c(head)) + batch[BATCH_HEADER.size :]


def check_batch(data: bytes) -> None:
    """Judge header and directory of the batch at the start of ``data``, and none of its runs."""
    require(len(data) >= BATCH_HEADER.size, Fault.FAULT_SHORT)
    magic, version, flags, length, count, sequence, _, directory_crc, head_crc = (
        BATCH_HEADER.unpack_from(data)
    )
    require(magic == BATCH_MAGIC, Fault.FAULT_MAGIC)
    require(version == VERSION, Fault.FAULT_VERSION)
    require(length <= BATCH_BYTES_MAX and count <= BATCH_RUNS_MAX, Fault.FAULT_LIMIT)
    require(length <= len(data), Fault.FAULT_SHORT)
    require(crc32c(data[:36]) == head_crc, Fault.FAULT_CHECKSUM)
    require(flags == 0, Fault.FAULT_KIND)
    directory_end = BATCH_HEADER.size + DIRECTORY_ITEM.size * count
    require(sequence > 0 and directory_end <= length, Fault.FAULT_SHAPE)
    directory = data[BATCH_HEADER.size : directory_end]
    require(crc32c(directory) == directory_crc, Fault.FAULT_CHECKSUM)
    offset = directory_end
    for _, kind, zero, size, at, zero2 in DIRECTORY_ITEM.iter_unpack(directory):
        require(kind in RUN_KINDS, Fault.FAULT_KIND)
        require((zero, zero2, at) == (0, 0, offset), Fault.FAULT_SHAPE)
        require(RUN_HEADER.size <= size <= length - offset, Fault.FAULT_SHAPE)
        require(size - RUN_HEADER.size <= RUN_BYTES_MAX, Fault.FAULT_LIMIT)
        offset += size
    require(offset == length, Fault.FAULT_SHAPE)


def decode_batch(data: bytes) -> Batch:
    """A whole batch and nothing after it. A sound run under another's name is refused; a damaged one is its reader's."""
    check_batch(data)
    _, _, _, length, count, sequence, store_id, _, _ = BATCH_HEADER.unpack_from(data)
    require(len(data) == length, Fault.FAULT_SHAPE)
    runs = []
    for at in range(count):
        group, kind, _, size, offset, _ = DIRECTORY_ITEM.unpack_from(
            data, BATCH_HEADER.size + DIRECTORY_ITEM.size * at
        )
        run = data[offset : offset + size]
        if is_sound(run):
            header = RUN_HEADER.unpack_from(run)
            require(
                (header[0], header[8], run_length(run)) == (group, kind, size), Fault.FAULT_SHAPE
            )
        runs.append(run)
    return Batch(sequence, store_id, tuple(runs))


def is_sound(run: bytes) -> bool:
    try:
        check_run(run, check_body=False)
    except Refused:
        return False
    return True


# -- frames -------------------------------------------------------------------------------------------------------------


def encode_message(message: Message) -> bytes:
    head = MESSAGE_HEADER.pack(
        message.kind,
        message.flags,
        MESSAGE_HEADER.size + len(message.body),
        *message[2:-1],
    )
    return head + message.body


def encode_frame(frame: Frame) -> bytes:
    tail = b"".join(map(encode_message, frame.messages)) + frame.body
    head = FRAME_HEADER.pack(
        FRAME_MAGIC,
        FRAME_HEADER.size + len(tail),
        VERSION,
        frame.kind,
        len(frame.messages),
        *frame[1:7],
        0,
        0,
    )
    return reseal_frame(head + tail)


def reseal_frame(frame: bytes) -> bytes:
    """The same frame with the checksums that fit it."""
    head_crc = crc32c(frame[:56])
    crc = crc32c(frame[FRAME_HEADER.size :], head_crc)
    return frame[:56] + CRC.pack(crc) + CRC.pack(head_crc) + frame[64:]


def check_frame(data: bytes, length_max: int = FRAME_BYTES_MAX) -> None:
    """Judge the frame at the start of ``data``: all of it but the bodies of runs."""
    require(len(data) >= FRAME_HEADER.size, Fault.FAULT_SHORT)
    magic, length, version, kind, count, *_, crc, head_crc = FRAME_HEADER.unpack_from(data)
    require(magic == FRAME_MAGIC, Fault.FAULT_MAGIC)
    require(version == VERSION, Fault.FAULT_VERSION)
    require(length <= min(length_max, FRAME_BYTES_MAX), Fault.FAULT_LIMIT)
    require(length >= FRAME_HEADER.size, Fault.FAULT_SHAPE)
    require(crc32c(data[:56]) == head_crc, Fault.FAULT_CHECKSUM)
    require(length <= len(data), Fault.FAULT_SHORT)
    tail = data[FRAME_HEADER.size : length]
    require(crc32c(tail, head_crc) == crc, Fault.FAULT_CHECKSUM)
    require(kind in set(FrameKind), Fault.FAULT_KIND)
    if kind == FrameKind.FRAME_MESSAGES:
        split_messages(tail, count)
    else:
        require(count == 0, Fault.FAULT_SHAPE)


def split_messages(data: bytes, count: int) -> tuple[Message, ...]:
    messages = []
    for _ in range(count):
        require(len(data) >= MESSAGE_HEADER.size, Fault.FAULT_SHAPE)
        kind, flags, length, group, *numbers = MESSAGE_HEADER.unpack_from(data)
        require(MESSAGE_HEADER.size <= length <= len(data), Fault.FAULT_SHAPE)
        require(kind in set(MessageKind) and flags & ~FLAGS_ALL == 0, Fault.FAULT_KIND)
        body = data[MESSAGE_HEADER.size : length]
        if flags & MessageFlag.FLAG_RUN:
            check_carried(body, group)
        messages.append(Message._make((kind, flags, group, *numbers, body)))
        data = data[length:]
    require(not data, Fault.FAULT_SHAPE)
    return tuple(messages)


def check_carried(run: bytes, group: int) -> None:
    """A message carries entries of its own group and nothing else; records about a replica never travel."""
    check_run(run, check_body=False)
    header = RUN_HEADER.unpack_from(run)
    require(header[8] in WIRE_RUN_KINDS, Fault.FAULT_KIND)
    require(header[0] == group and run_length(run) == len(run), Fault.FAULT_SHAPE)


def decode_frame(data: bytes, length_max: int = FRAME_BYTES_MAX) -> Frame:
    """A whole frame and nothing after it."""
    check_frame(data, length_max)
    _, length, _, kind, count, *link, _, _ = FRAME_HEADER.unpack_from(data)
    require(len(data) == length, Fault.FAULT_SHAPE)
    tail = data[FRAME_HEADER.size :]
    if kind == FrameKind.FRAME_MESSAGES:
        return Frame._make((kind, *link, split_messages(tail, count), b""))
    return Frame._make((kind, *link, (), tail))
