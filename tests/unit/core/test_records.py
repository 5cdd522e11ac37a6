"""Records about groups and peers: what is written comes back, and nothing else is believed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft import _core, records
from multiraft._core import REPLICAS_MAX, RunKind
from multiraft.errors import InvariantViolation, LogCorrupt
from multiraft.ids import NodeId, ReplicaId, StoreId
from multiraft.interfaces import Base, HardState, Membership, Pinned, SnapshotRecord
from tests.unit.core import cases, strategies
from tests.unit.core.cases import member

BASE_KINDS = (RunKind.RUN_BASE, RunKind.RUN_SNAPSHOT_MARK, RunKind.RUN_REPLICA_CREATED)
NAMES = st.text("ab.-ß😀", max_size=60).filter(lambda name: name not in (".", ".."))


def run_of(kind: RunKind, payload: bytes, *, first: int = 0, term: int = 0, **more: int) -> bytes:
    fields = {"group": 7, "from_replica": 2} | more
    return _core.encode_run(kind=kind, first=first, term=term, entries=[payload], **fields)


# -- what is written comes back -------------------------------------------------------------------------------------------


@given(strategies.memberships())
def test_memberships_come_back(membership: Membership) -> None:
    assert records.decode_membership(records.encode_membership(membership)) == membership


@given(strategies.hard_states)
def test_hard_states_come_back(state: HardState) -> None:
    payload = records.encode_hard_state(state)
    run = run_of(RunKind.RUN_HARD_STATE, payload, term=state.term)
    assert records.decode_hard_state(run) == state


@given(strategies.bases, st.sampled_from(BASE_KINDS))
def test_bases_come_back_from_each_kind_of_run_that_holds_one(base: Base, kind: RunKind) -> None:
    run = run_of(
        kind,
        records.encode_base(base),
        first=base.index,
        term=base.term,
        from_replica=base.replica,
    )
    assert records.decode_base(run) == base


@given(strategies.bases, NAMES, strategies.u64, strategies.u32)
def test_snapshot_records_come_back(base: Base, name: str, size: int, crc: int) -> None:
    record = SnapshotRecord(base, name, size, crc)
    run = run_of(
        RunKind.RUN_SNAPSHOT_PENDING,
        records.encode_snapshot_record(record),
        first=base.index,
        term=base.term,
        from_replica=base.replica,
    )
    assert records.decode_snapshot_record(run) == record


@given(strategies.ids, strategies.u64, strategies.u32, strategies.u64)
def test_pinned_stores_come_back(node: int, store: int, boots: int, sequence: int) -> None:
    pinned = Pinned(NodeId(node), StoreId(store), boots, sequence)
    run = run_of(RunKind.RUN_PINNED, records.encode_pinned(pinned), group=0)
    assert records.decode_pinned(run) == pinned


# -- nothing else is believed ---------------------------------------------------------------------------------------------


def pinned_run(payload: bytes) -> bytes:
    return run_of(RunKind.RUN_PINNED, payload, group=0)


def encode_again(value: Any) -> bytes:
    encoders: dict[type, Callable[[Any], bytes]] = {
        Membership: records.encode_membership,
        HardState: records.encode_hard_state,
        Base: records.encode_base,
        SnapshotRecord: records.encode_snapshot_record,
        Pinned: records.encode_pinned,
    }
    return encoders[type(value)](value)


READERS: dict[str, Callable[[bytes], Any]] = {
    "membership, three": records.decode_membership,
    "hard state": lambda p: records.decode_hard_state(run_of(RunKind.RUN_HARD_STATE, p, term=12)),
    "base": lambda p: records.decode_base(run_of(RunKind.RUN_BASE, p, first=900, term=11)),
    "snapshot record": lambda p: records.decode_snapshot_record(
        run_of(RunKind.RUN_SNAPSHOT_PENDING, p, first=900, term=11)
    ),
    "pinned": lambda p: records.decode_pinned(pinned_run(p)),
}


@pytest.mark.parametrize("title", READERS)
def test_p82_every_truncation_and_every_byte_too_many_is_refused(title: str) -> None:
    payload, read = cases.PAYLOADS[title], READERS[title]
    read(payload)
    for length in range(len(payload)):
        with pytest.raises(LogCorrupt):
            read(payload[:length])
    for more in (b"\0", b"\xff" * 12):
        with pytest.raises(LogCorrupt):
            read(payload + more)


@pytest.mark.parametrize("title", READERS)
def test_p82_a_flipped_bit_is_refused_or_means_exactly_what_it_says(title: str) -> None:
    """Payloads have no sum of their own (the run's covers them), so a number may change; nothing may be dropped or read twice.

    What is taken must make the same bytes again: no bit is ignored, and no two payloads mean the same.
    """
    payload, read = cases.PAYLOADS[title], READERS[title]
    for at in range(len(payload)):
        for bit in range(8):
            flipped = payload[:at] + bytes([payload[at] ^ 1 << bit]) + payload[at + 1 :]
            try:
                value = read(flipped)
            except LogCorrupt:
                continue
            assert encode_again(value) == flipped


@given(st.sampled_from(sorted(READERS)), st.binary(max_size=80))
def test_p82_any_payload_is_refused_or_means_exactly_what_it_says(
    title: str, payload: bytes
) -> None:
    try:
        value = READERS[title](payload)
    except LogCorrupt:
        return
    assert encode_again(value) == payload


def members(*rows: tuple[int, int, int], count: int | None = None, version: int = 1) -> bytes:
    head = struct.pack("<BBH", version, 0, len(rows) if count is None else count)
    return head + b"".join(struct.pack("<III", *row) for row in rows)


@pytest.mark.parametrize(
    "payload",
    [
        members(version=0),
        members(version=2),
        b"\x01\x02\0\0",  # auto_leave is neither 0 nor 1
        members((2, 1, 1), (1, 2, 1)),
        members((1, 1, 1), (1, 2, 1)),
        members((0, 1, 1)),
        members((1, 0, 1)),
        members((1, 1, 0)),
        members((1, 1, 16)),
        members((1, 1, 2**31 | 1)),
        members((1, 1, 5)),  # a learner is nothing else
        members((1, 1, 6)),
        members((1, 1, 8)),  # who becomes a learner still votes in the outgoing half
        members((1, 1, 9)),
        members((1, 1, 11)),
        members(*((at, at, 1) for at in range(1, REPLICAS_MAX + 2))),
        members((1, 1, 1), count=2**16 - 1),
    ],
    ids=lambda payload: payload[:16].hex() + f"..{len(payload)}",
)
def test_a_membership_that_no_group_can_have_is_refused(payload: bytes) -> None:
    with pytest.raises(LogCorrupt):
        records.decode_membership(payload)


def test_a_group_may_have_as_many_members_as_the_limit_says() -> None:
    rows = [(at, at, 1) for at in range(1, REPLICAS_MAX + 1)]
    assert len(records.decode_membership(members(*rows)).members) == REPLICAS_MAX


def record_with(name: bytes, length: int | None = None) -> bytes:
    head = cases.BASE_PAYLOAD + struct.pack("<I", len(name) if length is None else length)
    return head + name + struct.pack("<QI", 1, 2)


@pytest.mark.parametrize(
    "payload",
    [
        record_with(b".."),
        record_with(b"."),
        record_with(b"../../etc/passwd"),
        record_with(b"a/b"),
        record_with(b"a\0b"),
        record_with(b"\xff\xfe"),
        record_with(b"\xed\xa0\x80"),  # a surrogate
        record_with(b"a" * 256),
        record_with(b"a", length=2**32 - 1),
        record_with(b"a", length=200),
    ],
    ids=lambda payload: payload[len(cases.BASE_PAYLOAD) :][:20].hex(),
)
def test_a_snapshot_never_names_a_file_elsewhere(payload: bytes) -> None:
    with pytest.raises(LogCorrupt):
        READERS["snapshot record"](payload)


def test_a_record_without_a_name_says_that_nothing_is_pending() -> None:
    assert READERS["snapshot record"](record_with(b"")).name == ""


@pytest.mark.parametrize("kind", RunKind)
def test_each_reader_takes_its_own_kinds_only(kind: RunKind) -> None:
    readers = {
        records.decode_hard_state: ("hard state", (RunKind.RUN_HARD_STATE,)),
        records.decode_base: ("base", BASE_KINDS),
        records.decode_snapshot_record: ("snapshot record", (RunKind.RUN_SNAPSHOT_PENDING,)),
        records.decode_pinned: ("pinned", (RunKind.RUN_PINNED,)),
    }
    for read, (title, kinds) in readers.items():
        if kind in kinds or kind == RunKind.RUN_TRUNCATE:
            continue
        first = 1 if kind in (RunKind.RUN_ENTRIES, RunKind.RUN_MEMBERSHIP) else 0
        run = run_of(kind, cases.PAYLOADS[title], first=first, group=0)
        with pytest.raises(LogCorrupt, match="kind"):
            read(run)


def test_a_record_in_the_wrong_place_is_refused() -> None:
    with pytest.raises(LogCorrupt):
        records.decode_hard_state(
            run_of(RunKind.RUN_HARD_STATE, cases.PAYLOADS["hard state"], first=1)
        )
    with pytest.raises(LogCorrupt):
        records.decode_pinned(run_of(RunKind.RUN_PINNED, cases.PAYLOADS["pinned"], group=1))
    with pytest.raises(LogCorrupt):
        records.decode_pinned(pinned_run(bytes(24)))


def test_a_damaged_run_is_refused_before_its_payload_is_looked_at() -> None:
    run = bytearray(run_of(RunKind.RUN_BASE, cases.BASE_PAYLOAD, first=900, term=11))
    run[80] ^= 1
    with pytest.raises(LogCorrupt, match="FAULT_CHECKSUM"):
        records.decode_base(bytes(run))


# -- what no reader would take is not written ------------------------------------------------------------------------------


UNWRITABLE = {
    "members out of order": Membership((member(2, 1, 1), member(1, 1, 1))),
    "replica nobody": Membership((member(0, 1, 1),)),
    "on no node": Membership((member(1, 0, 1),)),
    "no part": Membership((member(1, 1, 0),)),
    "two parts that exclude each other": Membership((member(1, 1, 12),)),
    "replica too large": Membership((member(2**32, 1, 1),)),
    "too many": Membership(tuple(member(at, 1, 1) for at in range(1, REPLICAS_MAX + 2))),
    "vote too large": replace(cases.HARD_STATE, vote=ReplicaId(2**32)),
    "commit below zero": replace(cases.HARD_STATE, commit=-1),
    "base of a wrong membership": replace(cases.BASE, membership=Membership((member(1, 1, 16),))),
    "term too large": replace(cases.BASE, hard_state=HardState(term=2**64)),
    "name of another folder": replace(cases.SNAPSHOT, name="../x"),
    "name too long": replace(cases.SNAPSHOT, name="ß" * 128),
    "name that is no text": replace(cases.SNAPSHOT, name="\ud800"),
    "sum too large": replace(cases.SNAPSHOT, crc=2**32),
    "sequence below zero": replace(cases.PINNED, sequence=-1),
}


@pytest.mark.parametrize("title", UNWRITABLE)
def test_what_cannot_be_read_is_not_written(title: str) -> None:
    with pytest.raises(InvariantViolation):
        encode_again(UNWRITABLE[title])
