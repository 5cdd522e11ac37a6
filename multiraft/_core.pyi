"""The Python doors of ring 0; what they do stands in ``_core.pyx``, the layouts in ``docs/formats.md``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple, final

_Buffer = bytes | bytearray | memoryview

RUN_HEADER_BYTES: Final = 64
BATCH_HEADER_BYTES: Final = 40
DIRECTORY_ITEM_BYTES: Final = 24
FRAME_HEADER_BYTES: Final = 64
MESSAGE_HEADER_BYTES: Final = 72
ENTRY_BYTES_MAX: Final = 8388608
RUN_ENTRIES_MAX: Final = 1048576
RUN_BYTES_MAX: Final = 16777216
BATCH_SEAL_BYTES: Final = 262144
BATCH_BYTES_MAX: Final = 17825792
BATCH_RUNS_MAX: Final = 65536
FRAME_BYTES_MAX: Final = 33554432
HELLO_BYTES_MAX: Final = 1024
REPLICAS_MAX: Final = 31
BATCH_MAGIC: Final = 0x3142524D
FRAME_MAGIC: Final = 0x3146524D
FORMAT_VERSION: Final = 1

class RunKind(IntEnum):
    RUN_ENTRIES = 1
    RUN_MEMBERSHIP = 2
    RUN_HARD_STATE = 3
    RUN_TRUNCATE = 4
    RUN_BASE = 5
    RUN_SNAPSHOT_PENDING = 6
    RUN_SNAPSHOT_MARK = 7
    RUN_REPLICA_CREATED = 8
    RUN_TOMBSTONE = 9
    RUN_PINNED = 10
    RUN_REWRITE = 11

class MessageKind(IntEnum):
    MSG_APPEND = 1
    MSG_APPEND_ACK = 2
    MSG_HEARTBEAT = 3
    MSG_HEARTBEAT_ACK = 4
    MSG_PRE_VOTE = 5
    MSG_PRE_VOTE_ACK = 6
    MSG_VOTE = 7
    MSG_VOTE_ACK = 8
    MSG_SNAPSHOT = 9
    MSG_TIMEOUT_NOW = 10
    MSG_READ_INDEX = 11
    MSG_READ_INDEX_ACK = 12
    MSG_TRANSFER_LEADER = 13
    MSG_FORWARD = 14
    MSG_FORWARD_ACK = 15
    MSG_NODE_STATUS = 16

class MessageFlag(IntEnum):
    FLAG_REJECT = 1
    FLAG_TRANSFER = 2
    FLAG_RUN = 4

class FrameKind(IntEnum):
    FRAME_MESSAGES = 1
    FRAME_HELLO = 2
    FRAME_BULK = 3
    FRAME_GOODBYE = 4

class MemberFlag(IntEnum):
    MEMBER_VOTER = 1
    MEMBER_OUTGOING = 2
    MEMBER_LEARNER = 4
    MEMBER_LEARNER_NEXT = 8

class VoteResult(IntEnum):
    VOTE_PENDING = 0
    VOTE_WON = 1
    VOTE_LOST = 2

class Fault(IntEnum):
    FAULT_NONE = 0
    FAULT_SHORT = 1
    FAULT_LIMIT = 2
    FAULT_MAGIC = 3
    FAULT_VERSION = 4
    FAULT_KIND = 5
    FAULT_CHECKSUM = 6
    FAULT_SHAPE = 7

class Run(NamedTuple):
    group: int
    first: int
    term: int
    prev_term: int
    commit: int
    from_replica: int
    kind: RunKind
    entries: tuple[bytes, ...]

class Batch(NamedTuple):
    sequence: int
    store_id: int
    runs: tuple[bytes, ...]

@final
class CommittedRuns:
    done: int
    results: dict[tuple[int, int], Any]
    def append(
        self, group: int, first: int, term: int, kind: int, payloads: Iterable[_Buffer]
    ) -> None: ...
    def item(self, at: int) -> tuple[int, int, int, int, list[bytes]]: ...
    def skip(self, at: int) -> int: ...
    def result_base(self, at: int) -> int: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[int, int, int, int, list[bytes]]]: ...

def crc32c(data: _Buffer, crc: int = 0) -> int: ...
def crc32c_table(data: _Buffer, crc: int = 0) -> int: ...
def crc32c_by_instruction() -> bool: ...
def chunk_bytes() -> int: ...
def check_run(data: _Buffer, check_body: bool = True) -> Fault: ...
def check_batch(data: _Buffer) -> Fault: ...
def check_frame(data: _Buffer, length_max: int = 33554432) -> Fault: ...
def committed_index(
    voters: Iterable[int], outgoing: Iterable[int], acks: Mapping[int, int]
) -> int: ...
def vote_result(
    voters: Iterable[int], outgoing: Iterable[int], votes: Mapping[int, bool]
) -> VoteResult: ...
def encode_run(
    *,
    group: int,
    first: int,
    term: int,
    prev_term: int = 0,
    commit: int = 0,
    from_replica: int = 0,
    kind: int = 1,
    entries: Iterable[_Buffer] = (),
) -> bytes: ...
def decode_run(data: _Buffer) -> Run: ...
def decode_batch(data: _Buffer) -> Batch: ...
def seal_frame(
    frame: bytes,
    *,
    cluster_id: int,
    store_id: int,
    from_node: int,
    to_node: int,
    link_epoch: int,
    sequence: int,
) -> None: ...
