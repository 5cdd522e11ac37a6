"""One bit flips in a file that nobody has open, for every kind of file and of page: no answer changes without a word.

Each flip is *harmless* (all acknowledged is there, the log verifies, service goes on), *refused* with a typed error, found by
verifying where no answer needs those bytes any more, or the *end* of the process before it answered. One is *lost*, and it is
known: LMDB has no checksum of its meta pages, so a bit there can roll the newest transaction back. A node alone cannot know; the
peers of one do, by the sequence that they remember.
"""

from __future__ import annotations

import random
import shutil
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.conftest import LONG, Yard
from tests.crash.victim import flip_bit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if LONG else 110)]

PAGE = 4096
KINDS = {1: "branch", 2: "leaf", 4: "overflow", 8: "meta"}
PER_KIND = 400 if LONG else 22
ROLLED_BACK = {
    "node": ("log/data.mdb meta",),
    "state": (
        "one/data.mdb meta",
        "two/data.mdb meta",
    ),  # a node replays its log over an older state
    "minority": (),
}
"""Where the newest transaction may be gone as if it had never been, for all that one process can know."""
Spot = tuple[str, Path, int, int]
"""(kind, file, first byte, bytes)"""


def spots(folder: Path) -> Iterator[Spot]:
    """Every kind of place in every kind of file below a folder."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder).parent / path.name)
        if not path.is_file() or not path.stat().st_size:
            continue
        if path.name != "data.mdb":
            yield (
                ("state of a machine" if path.suffix == ".state" else name),
                path,
                0,
                path.stat().st_size,
            )
            continue
        data, at = path.read_bytes(), 0
        last = max(struct.unpack_from("<QQ", data, page + 136)[::-1] for page in (0, PAGE))[1]
        while at <= last * PAGE:
            flags, pages = struct.unpack_from("<HI", data, at + 10)
            kind = KINDS.get(flags & 0xF)
            count = pages if kind == "overflow" and 0 < pages < 100 else 1
            used = 152 if kind == "meta" else count * PAGE
            if kind is not None:
                yield f"{name} {kind}", path, at, used
            at += count * PAGE


def chosen(folder: Path, amount: int, seed: int) -> Iterator[tuple[str, Path, int, int]]:
    """(kind, file, byte, bit): so many of each kind."""
    chance = random.Random(seed)
    kinds: dict[str, list[Spot]] = defaultdict(list)
    for spot in spots(folder):
        kinds[spot[0]].append(spot)
    for kind, found in sorted(kinds.items()):
        for _ in range(amount):
            _, path, first, count = chance.choice(found)
            yield kind, path, first + chance.randrange(count), chance.randrange(8)


def flip_all(
    yard: Yard, life: str, base: Path, where: str, notes: list[list[object]], amount: int
) -> dict[str, Counter[str]]:
    """Kind of place -> how often each outcome came, with one bit changed at a time."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, path, at, bit in chosen(base / where, amount, 5):
        folder = yard.new(base)
        flip_bit(folder / path.relative_to(base), at, bit)
        found = yard.judge(life, folder, notes)
        outcome = {"sound": "harmless", "refused": "refused", "wrong": "lost"}.get(found[0], "end")
        if outcome == "end":
            assert found[1] < 0, (kind, path, at, bit, found)
        if outcome == "lost":
            assert kind in ROLLED_BACK[life], (kind, path, at, bit, found)
        if life == "minority" and outcome != "harmless":
            shutil.rmtree(folder)
            folder = yard.new(base)
            assert yard.judge("pair", folder, notes) == ["sound"]
        seen[kind][outcome] += 1
        shutil.rmtree(folder)
    for kind, outcomes in seen.items():
        yard.tell(f"{life} {kind}: {dict(outcomes)}")
    return seen


def test_p91_a_flipped_bit_in_any_file_of_a_node_changes_no_answer(yard: Yard) -> None:
    base = yard.new()
    ended = yard.nursery.run("tests.crash.victim:unclosed", base)
    assert ended.killed, ended.errors
    seen = flip_all(yard, "node", base, "", ended.notes, PER_KIND)
    kinds = "log/data.mdb meta,log/data.mdb leaf,log/data.mdb overflow,log/superblock,log/lock.mdb,"
    kinds += "state/data.mdb meta,state/data.mdb leaf,state/lock.mdb,state of a machine"
    assert set(kinds.split(",")) <= set(seen)
    assert seen["log/superblock"]["harmless"] == 0
    assert seen["log/lock.mdb"]["refused"] == seen["state/lock.mdb"]["refused"] == 0


def test_p91_a_flipped_bit_in_a_store_or_a_snapshot_file_changes_no_answer(yard: Yard) -> None:
    base = yard.new()
    ended = yard.nursery.run("tests.crash.victim:state", base)
    assert ended.code == 0, ended.errors
    seen = flip_all(yard, "state", base, "", ended.notes, PER_KIND)
    assert seen["file"] == {"refused": PER_KIND}, seen["file"]
    assert "two/data.mdb leaf" in seen


def test_p19_a_flipped_bit_in_a_file_of_a_minority_makes_no_replica_differ(yard: Yard) -> None:
    """The third node holds what the others hold, or ends; the others serve all that was acknowledged, whatever it holds."""
    before, said = yard.base("trio")
    base = yard.new(before)
    ended = yard.nursery.run("tests.crash.victim:trio_life", base, "end")
    assert ended.killed, ended.errors
    seen = flip_all(yard, "minority", base, "n3", said + ended.notes, 100 if LONG else 5)
    assert sum(outcomes["lost"] for outcomes in seen.values()) == 0


def test_p90_p91_a_log_whose_newest_transaction_a_flipped_bit_rolled_back_is_refused_by_its_peers(
    yard: Yard,
) -> None:
    """The damage that a node alone cannot see: one bit of the newest meta page, and the page before it counts."""
    before, said = yard.base("trio")
    folder = yard.new(before)
    ended = yard.nursery.run("tests.crash.victim:rolled_back", folder)
    assert ended.code == 0, ended.errors
    _, *reasons = ended.notes[-1]
    assert reasons and all("older copy" in reason for reason in reasons), reasons
    assert yard.judge("pair", folder, said + ended.notes) == ["sound"]


@pytest.mark.parametrize("where", ["sent", "received"])
def test_p59_a_flipped_bit_in_a_snapshot_on_its_way_is_found_and_another_is_sent(
    yard: Yard, where: str
) -> None:
    before, said = yard.base("trio")
    folder = yard.new(before)
    ended = yard.nursery.run("tests.crash.victim:trio_life", folder, where)
    assert ended.code == 0, ended.errors
    installed, _, flipped = next(each[1:] for each in ended.notes if each[0] == "life")
    assert flipped == 3 and installed >= 1, ended.notes[-3:]
    assert yard.judge("trio", folder, said + ended.notes) == ["sound"]
