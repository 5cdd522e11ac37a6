"""Scans over every kind of space against a sorted list: order, bounds, both directions, big values, tags, windows that are cut."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from multiraft import Config, Delete, Node
from multiraft.machine.slots import SlotPage
from multiraft.node import hash_scan, scanning, store
from multiraft.node.hash_scan import Window

Run = Callable[[Coroutine[Any, Any, None]], None]
Pair = tuple[bytes, bytes]

pytestmark = pytest.mark.loops("uvloop")

KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "one": ({}, False),
    "borders": ({"borders": (b"k3", b"k6")}, False),
    "hash": ({"shards": 8}, False),
    "one slot": ({"shards": 1}, True),
    "cold hash": ({"shards": 4, "cold_reads": "thread"}, False),
}
"""Settings of the node, and whether all keys have one tag."""


def keys_of(generator: random.Random, count: int, *, tagged: bool) -> list[bytes]:
    """Keys of many lengths; tagged ones all lie in one slot."""
    found = {
        (b"k{t}" if tagged else b"k") + generator.randbytes(generator.randint(1, 9))
        for _ in range(count)
    }
    return sorted(found)


async def check(node: Node, model: dict[bytes, bytes], generator: random.Random) -> None:
    """Compare scans of the whole and of random stretches with the model."""
    stretches: list[dict[str, bytes]] = [{}, {"prefix": b"k"}, {"prefix": b"zz"}]
    low, high = sorted(generator.sample(sorted(model), 2))
    stretches += [{"start": low, "end": high}, {"start": low}, {"end": high}]
    for stretch in stretches:
        low, high = stretch.get("start", b""), stretch.get("end", b"\xff" * 20)
        expected = [
            (key, value)
            for key, value in sorted(model.items())
            if low <= key < high and key.startswith(stretch.get("prefix", b""))
        ]
        for reverse in (False, True):
            ordered = expected[::-1] if reverse else expected
            found = [pair async for pair in node.store.scan(reverse=reverse, **stretch)]  # type: ignore[arg-type]
            assert found == ordered
            limit = generator.randint(1, 20)
            some = [
                pair
                async for pair in node.store.scan(reverse=reverse, limit=limit, **stretch)  # type: ignore[arg-type]
            ]
            assert some == ordered[:limit]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_gives_every_key_in_order(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """From memory, from the tree, and from both with tombstones between; windows and pages are small, so that there are many."""
    monkeypatch.setattr(hash_scan, "WINDOW_KEYS", 200)
    monkeypatch.setattr(hash_scan, "PAGE_KEYS", 40)
    monkeypatch.setattr(hash_scan, "PAGE_SLOTS", 512)
    generator = random.Random(7)
    settings, tagged = KINDS[kind]

    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path), **settings)) as node:
            model = dict.fromkeys(keys_of(generator, 500, tagged=tagged), b"old")
            await node.store.put_many(model.items())
            await check(node, model, generator)
            for group in node.multi.groups():
                node.keeper.freeze(group)
            while not node.keeper.idle():
                await asyncio.sleep(0.001)
            for key in generator.sample(sorted(model), 200):
                await node.store.batch([Delete(key)])
                del model[key]
            newer = dict.fromkeys(keys_of(generator, 200, tagged=tagged), b"new")
            await node.store.put_many(newer.items())
            model |= newer
            await check(node, model, generator)

    arun(main())


def test_a_scan_of_large_values_holds_one_window(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many bytes there are, no more than two windows and the pages on their way are held at once."""
    monkeypatch.setattr(hash_scan, "WINDOW_BYTES", 1 << 20)
    monkeypatch.setattr(hash_scan, "PAGE_BYTES", 1 << 16)
    monkeypatch.setattr(hash_scan, "PAGE_SLOTS", 2048)
    held: list[int] = []
    take = Window.take

    def watched(window: Window, page: SlotPage) -> None:
        take(window, page)
        held.append(window.bytes)

    monkeypatch.setattr(Window, "take", watched)

    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path), shards=4)) as node:
            model = {b"k%03d" % n: bytes([n % 256]) * 50_000 for n in range(200)}
            await node.store.put_many(model.items())
            for reverse in (False, True):
                found = [pair async for pair in node.store.scan(reverse=reverse)]
                assert found == sorted(model.items(), reverse=reverse)
            assert 500_000 < max(held) <= 2 << 20

    arun(main())


def window_of(runs: list[list[int]], *, reverse: bool) -> Window:
    window = Window(b"", b"", reverse=reverse)
    for run in runs:
        entries = [(b"%04d" % n, b"v") for n in sorted(run, reverse=reverse)]
        window.take(SlotPage(entries, 0, None))
    return window


@pytest.mark.parametrize("reverse", [False, True])
def test_a_window_is_cut_where_it_is_told_to_end(reverse: bool) -> None:
    runs = [[1, 5, 9], [2, 3], [8]]
    window = window_of(runs, reverse=reverse)
    assert not window.cut and [int(key) for key, _ in window.merged()] == sorted(
        itertools.chain(*runs), reverse=reverse
    )
    window = window_of(runs, reverse=reverse)
    assert window.narrow(b"0005") and window.cut
    assert window.keys == 3 and window.bytes == 15
    assert not window.narrow(b"0005")
    assert [int(key) for key, _ in window.merged()] == ([9, 8, 5] if reverse else [1, 2, 3])
    window.take(SlotPage([(b"0000", b"v")] if reverse else [(b"0007", b"v")], 0, None))
    assert window.keys == 3  # it came too late for what the window is now


@pytest.mark.parametrize("reverse", [False, True])
def test_a_window_that_grows_too_large_keeps_its_beginning(
    monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    """At least one key stays, whatever its size, so that a scan gets on."""
    monkeypatch.setattr(hash_scan, "WINDOW_KEYS", 10)
    numbers = list(range(200))
    window = window_of([numbers[at::7] for at in range(7)], reverse=reverse)
    kept = [int(key) for key, _ in window.merged()]
    assert 1 <= len(kept) <= 20 and window.cut
    assert kept == sorted(numbers, reverse=reverse)[: len(kept)]
    monkeypatch.setattr(hash_scan, "WINDOW_BYTES", 1)
    assert window_of([[4], [2]], reverse=reverse).keys == 1


class Rounds:
    """Counts how often the loop comes round."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._round)

    def _round(self) -> None:
        self.count += 1
        self._handle = self._loop.call_soon(self._round)

    def stop(self) -> int:
        self._handle.cancel()
        return self.count


@pytest.mark.parametrize("shards", [None, 4], ids=["range", "hash"])
def test_p99_a_scan_lets_the_loop_round_with_every_page(
    arun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int | None
) -> None:
    monkeypatch.setattr(scanning, "PAGE_KEYS", 50)
    monkeypatch.setattr(hash_scan, "EMITTED_AT_ONCE", 50)
    monkeypatch.setattr(hash_scan, "PAGE_SLOTS", 1024)
    monkeypatch.setattr(store, "GET_MANY_AT_ONCE", 50)
    keys = [b"k%05d" % n for n in range(5000)]

    async def main() -> None:
        async with Node(Config(data_dir=str(tmp_path), shards=shards)) as node:
            await node.store.put_many((key, b"v") for key in keys)
            rounds = Rounds()
            assert [key async for key, _ in node.store.scan()] == keys
            assert rounds.stop() >= 100
            rounds = Rounds()
            assert await node.store.get_many(keys) == [b"v"] * 5000
            assert rounds.stop() >= 99

    arun(main())
