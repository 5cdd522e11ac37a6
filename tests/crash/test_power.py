"""The power goes at every write, and each sector that was not synced is there or not: nothing acknowledged is lost.

One run of each life is recorded with all its bytes; from it every disk is rebuilt that a cut could have left (``images.py``), and
judged against what had been acknowledged by then. A run that does not sync must be caught by the very same judge.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.crash.conftest import LONG, Yard

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if LONG else 110)]

PARTS = [
    *(("log", part, 2, 5) for part in range(2)),
    *(("state", part, 3, 5) for part in range(3)),
    *(("node", part, 4, 5) for part in range(4)),
    ("trio", 0, 80, 6),
]
"""Life, part, of how many, images at a cut. Two jobs work at each part."""
LONG_FACTOR = 20


def cut(
    yard: Yard, life: str, part: int, parts: int, amount: int, *how: str
) -> tuple[Counter[str], list[Any]]:
    """(how many images were sound, refused, wrong; the first that were not sound)"""
    recorded = yard.recorded(life, *how)
    tally: Counter[str] = Counter()
    bad: list[Any] = []
    jobs = [
        yard.nursery.start(
            "tests.crash.images:check",
            life,
            recorded.trace,
            recorded.folder,
            recorded.base,
            recorded.before,
            yard.folder,
            2 * part + half,
            2 * parts,
            amount,
        )
        for half in (0, 1)
    ]
    for ended in [yard.nursery.end(job) for job in jobs]:
        bad += [each for each in ended.notes if each[0] == "bad"]
        if ended.code == 0:
            tally.update(ended.notes[-1][1])
        else:
            image = next(each for each in reversed(ended.notes) if each[0] == "at")
            bad.append(["bad", *image[1:], "died", ended.code, ended.errors[-1000:]])
    return tally, bad


@pytest.mark.parametrize(("life", "part", "parts", "amount"), PARTS)
def test_p01_p03_p20_p21_a_power_cut_at_any_write_loses_nothing_acknowledged(
    strace: None, yard: Yard, life: str, part: int, parts: int, amount: int
) -> None:
    tally, bad = cut(yard, life, part, parts, amount * LONG_FACTOR if LONG else amount)
    assert bad == []
    yard.tell(f"{life}: {tally['sound']} images")
    assert tally["sound"] > 50


@pytest.mark.parametrize("life", ["log", "state", "node"])
def test_p16_a_store_that_does_not_sync_is_caught(strace: None, yard: Yard, life: str) -> None:
    """Else the test above would show less than it seems to."""
    bad = [each for part in range(3) for each in cut(yard, life, part, 30, 4, "relaxed")[1]]
    assert any(each[3] == "wrong" for each in bad), bad
    assert len(bad) >= 6, bad


@pytest.mark.parametrize("life", ["log", "state", "node"])
@pytest.mark.parametrize("nth", [9, 30])
def test_p11_after_a_failed_sync_nothing_is_acknowledged_that_a_power_cut_could_take(
    strace: None, yard: Yard, life: str, nth: int
) -> None:
    """What a sync refused may be in the cache for everybody to see, and never reach the disk."""
    inject = ("-e", f"inject=fdatasync:error=EIO:when={nth}")
    tally, bad = cut(yard, life, 0, 20, 4, "full", *inject)
    notes = yard.recorded(life, "full", *inject).ended.notes
    assert any(each[0] in ("ended", "refused") for each in notes), "no sync failed"
    assert bad == []
    assert tally["sound"] > 10
