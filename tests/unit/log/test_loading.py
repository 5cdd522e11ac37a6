"""What open refuses, and how it says so: damage made by hand in batches that are otherwise sound."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import lmdb
import pytest

from multiraft._core import RunKind
from multiraft.errors import FormatUnsupported, LogCorrupt, StorageError, WrongStore
from multiraft.interfaces import HardState
from multiraft.log.index import LogIndex
from multiraft.log.lookup import group_facts
from multiraft.log.schema import FINDINGS_MAX, FindingKind
from tests.unit.log import harness as h
from tests.unit.log.harness import Feeder, open_inline, opened


def resealed(batch: bytes, *, at: int, layout: str, value: int) -> bytes:
    """One field of a batch's header changed, its checksum made anew."""
    changed = bytearray(batch)
    struct.pack_into(layout, changed, at, value)
    struct.pack_into("<I", changed, 36, google_crc32c.value(bytes(changed[:36])))
    return bytes(changed)


def redirected(batch: bytes, *, at: int, layout: str, value: int) -> bytes:
    """One field of a batch's directory changed, both checksums made anew."""
    changed = bytearray(batch)
    count = struct.unpack_from("<I", changed, 12)[0]
    struct.pack_into(layout, changed, 40 + at, value)
    struct.pack_into("<I", changed, 32, google_crc32c.value(bytes(changed[40 : 40 + 24 * count])))
    struct.pack_into("<I", changed, 36, google_crc32c.value(bytes(changed[:36])))
    return bytes(changed)


def rekinded(run: bytes, kind: int) -> bytes:
    """A run of another kind, its checksum made anew."""
    changed = bytearray(run)
    struct.pack_into("<H", changed, 52, kind)
    struct.pack_into("<I", changed, 60, google_crc32c.value(bytes(changed[:60])))
    return bytes(changed)


Damage = Callable[[bytes, int], bytes]

CASES: dict[str, tuple[Damage, type[StorageError], str]] = {
    "a newer version": (
        lambda b, _: resealed(b, at=4, layout="<H", value=2),
        FormatUnsupported,
        "VERSION",
    ),
    "a strange magic": (lambda b, _: resealed(b, at=0, layout="<I", value=7), LogCorrupt, "MAGIC"),
    "another store": (lambda b, _: resealed(b, at=24, layout="<Q", value=7), WrongStore, "store 7"),
    "another place": (
        lambda b, _: resealed(b, at=16, layout="<Q", value=9),
        LogCorrupt,
        "in the place of",
    ),
    "a longer batch": (lambda b, _: b + b"more", LogCorrupt, "says"),
    "a shorter batch": (lambda b, _: b[:-1], LogCorrupt, "SHORT"),
    "an empty batch": (lambda b, _: b"", LogCorrupt, "empty"),
    "a directory that names another group": (
        lambda b, _: redirected(b, at=0, layout="<Q", value=5),
        LogCorrupt,
        "disagree",
    ),
    "an unknown kind in the directory": (
        lambda b, _: redirected(b, at=8, layout="<H", value=12),
        FormatUnsupported,
        "KIND",
    ),
    "an unknown kind of run": (
        lambda b, store: redirected(
            h.seal(3, store, [rekinded(b[64:], 12)]), at=8, layout="<H", value=1
        ),
        FormatUnsupported,
        "KIND",
    ),
    "a rewritten run among first-hand ones": (
        lambda _, store: h.seal(
            3, store, [h.record(RunKind.RUN_REWRITE, 1, bytes(8) + h.created(1))]
        ),
        LogCorrupt,
        "never share",
    ),
    "a hard state of a strange length": (
        lambda _, store: h.seal(3, store, [h.record(RunKind.RUN_HARD_STATE, 1, bytes(20))]),
        LogCorrupt,
        "no sense",
    ),
    "a base without members": (
        lambda _, store: h.seal(
            3, store, [h.record(RunKind.RUN_BASE, 1, bytes(8), first=1, term=1)]
        ),
        LogCorrupt,
        "no sense",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_open_refuses(tmp_path: Path, case: str) -> None:
    damage, error, why = CASES[case]
    path = tmp_path / "log"
    with opened(path) as store:
        h.one_group(Feeder(store))
    good = h.replace_batch(path, 3, b"")
    h.replace_batch(path, 3, damage(good, store.store_id))
    with pytest.raises(error, match=why) as caught:
        open_inline(path)
    if isinstance(caught.value, LogCorrupt):
        assert 1 in caught.value.damage, "entry 2 is gone, and the refusal does not name its group"
        first, last = caught.value.damage[1]
        assert first <= 2 <= last
    h.replace_batch(path, 3, good)
    with opened(path) as store:
        assert store.boot_count == 2, "an open that was refused counted as one"


def test_a_lost_record_of_the_tree_is_noticed(tmp_path: Path) -> None:
    """The last batch gone from its page, and nothing else: the tree itself says how many there should be."""
    path = tmp_path / "log"
    with opened(path) as store:
        h.one_group(Feeder(store))
    data = bytearray((path / "data.mdb").read_bytes())
    pages = [at for at in range(0, len(data), 4096) if is_leaf_with_batches(data, at)]
    newest = max(pages, key=lambda at: struct.unpack_from("<H", data, at + 12)[0])
    for at in pages:
        if at == newest:
            lower = struct.unpack_from("<H", data, at + 12)[0]
            struct.pack_into("<H", data, at + 12, lower - 2)  # one node less
    (path / "data.mdb").write_bytes(data)
    with pytest.raises(LogCorrupt, match="should have 6 batches, but 5"):
        open_inline(path)


def is_leaf_with_batches(data: bytearray, at: int) -> bool:
    flags, lower = struct.unpack_from("<HH", data, at + 10)
    if flags != 2 or lower <= 18:
        return False
    node = at + struct.unpack_from("<H", data, at + 16)[0]
    return data[node + 6 : node + 16] == struct.pack("<H", 8) + (1).to_bytes(8, "big")


def test_many_findings_are_counted_and_not_all_kept() -> None:
    index = LogIndex(1)
    index.settle()
    for sequence in range(1, FINDINGS_MAX + 500):
        index.load(sequence, b"nothing like a batch")
    findings = index.finish()
    assert len(findings) == FINDINGS_MAX
    assert index.findings_count == FINDINGS_MAX + 499
    assert {each.kind for each in findings} == {FindingKind.DAMAGE}


def test_all_groups_with_damage_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with opened(path) as store:
        feeder = Feeder(store)
        feeder.append(*(h.created(group) for group in range(1, 6)))
        for index in range(1, 4):
            feeder.append(
                *(
                    h.entries_run(group, index, 1, [b"x"], prev_term=int(index > 1))
                    for group in range(1, 6)
                )
            )
    good = h.replace_batch(path, 3, b"")
    h.replace_batch(path, 3, h.flip(good, 50))
    with pytest.raises(LogCorrupt) as caught:
        open_inline(path)
    assert caught.value.damage == dict.fromkeys(range(1, 6), (2, 2))


def test_a_group_without_a_base_is_damage() -> None:
    index = LogIndex(1)
    index.settle()
    index.load(1, h.seal(1, 1, [h.hard(3, HardState(term=4))]))
    (finding,) = index.finish()
    assert (finding.kind, finding.group) == (FindingKind.GAP, 3)
    assert group_facts(index, 3) is None


@pytest.mark.parametrize("size", [0, 1, 39, 40, 63, 64, 100])
def test_pieces_of_a_batch_are_refused(size: int) -> None:
    batch = h.seal(1, 1, [h.created(1)])
    index = LogIndex(1)
    index.settle()
    index.load(1, batch[:size])
    assert [each.kind for each in index.finish()] == [FindingKind.DAMAGE]


def test_a_lost_database_is_not_made_anew(tmp_path: Path) -> None:
    """Found by flipping bits: with its name gone from LMDB's main tree, the log seemed to be empty."""
    path = tmp_path / "log"
    with opened(path) as store:
        h.one_group(Feeder(store))
    with lmdb.open(str(path), max_dbs=3, map_size=1 << 28, lib_version=0) as environment:
        with environment.begin(write=True) as transaction:
            transaction.drop(environment.open_db(b"batches", transaction), delete=True)
    with pytest.raises(LogCorrupt, match="cannot be opened"):
        open_inline(path)
