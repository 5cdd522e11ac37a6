"""Random values of every format, for the property tests."""

from __future__ import annotations

import struct
from dataclasses import replace

from hypothesis import strategies as st

from multiraft._core import FrameKind, MessageFlag, MessageKind, RunKind
from multiraft.ids import NodeId, ReplicaId
from multiraft.interfaces import Base, HardState, Member, Membership
from tests.spec import codec

u16 = st.integers(0, 2**16 - 1)
u32 = st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1))
u64 = st.one_of(st.integers(0, 9), st.integers(0, 2**64 - 1))
ids = st.integers(1, 2**32 - 1)
payloads = st.binary(max_size=40)

ENTRY_KINDS = (RunKind.RUN_ENTRIES, RunKind.RUN_MEMBERSHIP)
RECORD_KINDS = tuple(k for k in RunKind if k not in (*ENTRY_KINDS, RunKind.RUN_TRUNCATE))


@st.composite
def runs(draw: st.DrawFn, kinds: tuple[RunKind, ...] = tuple(RunKind)) -> codec.Run:
    kind = draw(st.sampled_from(kinds))
    entries: tuple[bytes, ...] = ()
    if kind in ENTRY_KINDS:
        entries = tuple(draw(st.lists(payloads, min_size=1, max_size=8)))
    elif kind != RunKind.RUN_TRUNCATE:
        entries = (draw(payloads),)
    first = draw(st.integers(1, 2**64 - len(entries) - 1) if kind in ENTRY_KINDS else u64)
    return codec.Run(draw(u64), first, draw(u64), draw(u64), draw(u64), draw(u32), kind, entries)


def encoded_runs(kinds: tuple[RunKind, ...] = tuple(RunKind)) -> st.SearchStrategy[bytes]:
    return runs(kinds).map(codec.encode_run)


batches = st.builds(
    codec.Batch,
    st.integers(1, 2**64 - 1),
    u64,
    st.lists(encoded_runs(), max_size=6).map(tuple),
)


@st.composite
def messages(draw: st.DrawFn) -> codec.Message:
    flags = draw(st.sampled_from([0, 0, 1, 2, 3, MessageFlag.FLAG_RUN]))
    group, body = draw(u64), draw(payloads)
    if flags == MessageFlag.FLAG_RUN:
        run = draw(runs(ENTRY_KINDS))
        group, body = run.group, codec.encode_run(run)
    kind = draw(st.sampled_from(MessageKind))
    numbers = [draw(u64) for _ in range(6)]
    return codec.Message(kind, flags, group, draw(u32), draw(u32), *numbers, body)


@st.composite
def frames(draw: st.DrawFn) -> codec.Frame:
    kind = draw(st.sampled_from([FrameKind.FRAME_MESSAGES, *FrameKind]))
    link = (draw(u64), draw(u64), draw(u32), draw(u32), draw(u64), draw(u64))
    if kind == FrameKind.FRAME_MESSAGES:
        return codec.Frame(kind, *link, tuple(draw(st.lists(messages(), max_size=5))), b"")
    return codec.Frame(kind, *link, (), draw(payloads))


hard_states = st.builds(HardState, u64, u32.map(ReplicaId), u32.map(ReplicaId), u64, u64)


@st.composite
def memberships(draw: st.DrawFn) -> Membership:
    replicas = sorted(draw(st.sets(ids, max_size=31)))
    parts = st.sampled_from([1, 2, 3, 4, 10])
    members = tuple(Member(ReplicaId(r), NodeId(draw(ids)), draw(parts)) for r in replicas)
    return Membership(members, draw(st.booleans()))


bases = st.builds(Base, u64, u64, u32.map(ReplicaId), memberships(), hard_states)


def with_term(state: HardState, term: int) -> HardState:
    return replace(state, term=term)


# Numbers that lie near the limits and the sizes of things, for fields that are lengths, counts and offsets.
NASTY = (0, 1, 2, 3, 4, 39, 40, 63, 64, 65, 72, 2**16, 2**20, 2**20 + 1, 2**24, 2**24 + 1)
NASTY_32 = (*NASTY, 17 * 2**20, 2**25, 2**31, 2**32 - 65, 2**32 - 64, 2**32 - 1)


def patched(data: bytes, layout: struct.Struct, field: int, value: int, at: int = 0) -> bytes:
    """The same bytes with one field of a header replaced, cut to the field's width."""
    fields = list(layout.unpack_from(data, at))
    code = layout.format[1 + field]
    fields[field] = value & {"H": 2**16 - 1, "I": 2**32 - 1, "Q": 2**64 - 1}[code]
    return data[:at] + layout.pack(*fields) + data[at + layout.size :]
