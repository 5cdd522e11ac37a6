"""Values whose bytes stand in `tests/vectors/`: every run kind, batches, every message kind, every frame kind."""

from __future__ import annotations

import struct

from multiraft._core import FrameKind, MessageFlag, MessageKind, RunKind
from multiraft.ids import NodeId, ReplicaId, StoreId
from multiraft.interfaces import (
    Base,
    HardState,
    Member,
    Membership,
    Pinned,
    SnapshotRecord,
)
from tests.spec import codec

VOTER, OUTGOING, LEARNER, LEARNER_NEXT = 1, 2, 4, 8


def member(replica: int, node: int, flags: int) -> Member:
    return Member(ReplicaId(replica), NodeId(node), flags)


EMPTY = Membership()
THREE = Membership((member(1, 1, VOTER), member(2, 2, VOTER), member(9, 3, LEARNER)))
JOINT = Membership(
    (
        member(1, 1, VOTER | OUTGOING),
        member(2, 2, OUTGOING),
        member(3, 3, OUTGOING | LEARNER_NEXT),
        member(4, 2**32 - 1, VOTER),
    ),
    auto_leave=True,
)
HARD_STATE = HardState(
    term=12, vote=ReplicaId(2), leader=ReplicaId(1), epoch=2**40 + 3, commit=1000
)
BASE = Base(index=900, term=11, replica=ReplicaId(2), membership=JOINT, hard_state=HARD_STATE)
SNAPSHOT = SnapshotRecord(BASE, "0000000000000384-schnapschuß.snap", 2**33 + 1, 0xDEADBEEF)
PINNED = Pinned(NodeId(3), StoreId(2**62 + 5), boot_count=7, sequence=4242)

BASE_PAYLOAD = bytes.fromhex(
    "02000000 01000000 0300000000010000 0c00000000000000 e803000000000000"  # vote .. commit
    "01 01 0400"  # version, auto_leave, count
    "01000000 01000000 03000000"
    "02000000 02000000 02000000"
    "03000000 03000000 0a000000"
    "04000000 ffffffff 01000000"
)
NAME = "0000000000000384-schnapschuß.snap".encode()
PAYLOADS: dict[str, bytes] = {
    "membership, empty": bytes.fromhex("01000000"),
    "membership, three": bytes.fromhex(
        "01000300 01000000 01000000 01000000 02000000 02000000 01000000 09000000 03000000 04000000"
    ),
    "hard state": bytes.fromhex("02000000 01000000 0300000000010000 e803000000000000"),
    "base": BASE_PAYLOAD,
    "snapshot record": BASE_PAYLOAD
    + struct.pack("<I", len(NAME))
    + NAME
    + struct.pack("<QI", 2**33 + 1, 0xDEADBEEF),
    "pinned": bytes.fromhex("03000000 07000000 0500000000000040 9210000000000000"),
}
"""Written out by hand from docs/formats.md, so that the codec of the records is not its own judge."""


def record(kind: RunKind, first: int, term: int, *entries: bytes, group: int = 7) -> codec.Run:
    return codec.Run(group, first, term, 0, 1000, 2, kind, entries)


REWRITTEN = codec.Run(7, 101, 3, 3, 140, 1, RunKind.RUN_ENTRIES, (b"kept",))

RUNS: dict[str, codec.Run] = {
    "entries": codec.Run(
        7, 101, 3, 2, 100, 1, RunKind.RUN_ENTRIES, (b"", b"a", b"payload of the third")
    ),
    "entries, largest numbers": codec.Run(
        *[2**64 - 1] * 5, 2**32 - 1, RunKind.RUN_ENTRIES, (b"\xff",)
    ),
    "membership": codec.Run(
        7,
        104,
        3,
        3,
        103,
        1,
        RunKind.RUN_MEMBERSHIP,
        (
            struct.pack("<BBHIIII", 1, 1, 1, 1, 4, 4, 0),
            struct.pack("<BBHI", 1, 0, 0, 3) + b"ctx",
        ),
    ),
    "hard state": record(RunKind.RUN_HARD_STATE, 0, 12, PAYLOADS["hard state"]),
    "truncate": record(RunKind.RUN_TRUNCATE, 102, 4),
    "base": record(RunKind.RUN_BASE, 900, 11, BASE_PAYLOAD),
    "snapshot pending": record(RunKind.RUN_SNAPSHOT_PENDING, 900, 11, PAYLOADS["snapshot record"]),
    "snapshot mark": record(RunKind.RUN_SNAPSHOT_MARK, 900, 11, BASE_PAYLOAD),
    "replica created": record(RunKind.RUN_REPLICA_CREATED, 900, 11, BASE_PAYLOAD),
    "tombstone": record(RunKind.RUN_TOMBSTONE, 0, 12, b"merged into 6"),
    "pinned": record(RunKind.RUN_PINNED, 0, 0, PAYLOADS["pinned"], group=0),
    "rewrite": record(
        RunKind.RUN_REWRITE, 101, 3, struct.pack("<Q", 55) + codec.encode_run(REWRITTEN)
    ),
}

BATCHES: dict[str, codec.Batch] = {
    "empty, the probe of an idle node": codec.Batch(1, 2**62 + 5, ()),
    "two groups": codec.Batch(
        2**40,
        2**62 + 5,
        (
            codec.encode_run(RUNS["hard state"]),
            codec.encode_run(RUNS["entries"]),
            codec.encode_run(RUNS["entries"]._replace(group=8, first=1, prev_term=0)),
            codec.encode_run(RUNS["truncate"]),
        ),
    ),
}


def message(kind: MessageKind) -> codec.Message:
    """One of each kind, with a number of its own in each field, and a body where the kind has one."""
    code = int(kind)
    body = b"" if kind % 3 else bytes(range(code))
    numbers = [code * 100 + at for at in range(9)]
    return codec.Message(kind, 0, *numbers, body)


MESSAGES: dict[str, codec.Message] = {
    kind.name.removeprefix("MSG_").lower(): message(kind) for kind in MessageKind
} | {
    "append with a run": codec.Message(
        MessageKind.MSG_APPEND,
        MessageFlag.FLAG_RUN,
        7,
        1,
        2,
        3,
        100,
        2,
        100,
        body=codec.encode_run(RUNS["entries"]),
    ),
    "append_ack, rejected": codec.Message(
        MessageKind.MSG_APPEND_ACK, MessageFlag.FLAG_REJECT, 7, 2, 1, 3, 100, 2, hint=90
    ),
    "vote in a transfer": codec.Message(
        MessageKind.MSG_VOTE, MessageFlag.FLAG_TRANSFER, 7, 2, 1, 4, 103, 3
    ),
    "node_status, largest numbers": codec.Message(
        MessageKind.MSG_NODE_STATUS,
        MessageFlag.FLAG_REJECT | MessageFlag.FLAG_TRANSFER,
        2**64 - 1,
        2**32 - 1,
        2**32 - 1,
        *[2**64 - 1] * 6,
        struct.pack("<IIQ", 7, 0, 4242),
    ),
}

LINK = {
    "cluster_id": 2**62 + 1,
    "store_id": 2**62 + 5,
    "from_node": 1,
    "to_node": 3,
    "link_epoch": 7 << 32 | 9,
    "sequence": 77,
}


def link_of(frame: codec.Frame) -> dict[str, int]:
    """The fields of a frame that its link fills in."""
    return {name: getattr(frame, name) for name in LINK}


FRAMES: dict[str, codec.Frame] = {
    "no messages": codec.Frame(FrameKind.FRAME_MESSAGES, **LINK),
    "messages": codec.Frame(
        FrameKind.FRAME_MESSAGES,
        **LINK,
        messages=(MESSAGES["append with a run"], MESSAGES["heartbeat"], MESSAGES["snapshot"]),
    ),
    "hello": codec.Frame(FrameKind.FRAME_HELLO, **LINK | {"sequence": 1}, body=b"hello" * 6),
    "bulk": codec.Frame(FrameKind.FRAME_BULK, **LINK, body=bytes(40) + b"data"),
    "goodbye": codec.Frame(FrameKind.FRAME_GOODBYE, **LINK, body=b""),
}
