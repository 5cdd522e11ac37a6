"""Pages of a scan while the shard changes between them, each against a plain sorted dict."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from multiraft.machine.commands import (
    encode_delete,
    encode_delete_range,
    encode_put,
    encode_put_many,
)
from multiraft.machine.kv import KeyValueStore
from multiraft.machine.scans import ScanPage
from tests.unit.machine.harness import (
    DESCRIPTOR,
    EPOCH,
    GROUP,
    PREFIX,
    apply_all,
    open_with_shard,
    scan_all,
)

SPACE = 1


class Filled:
    """A shard, and the dict that it should show."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.draw = random.Random(seed)
        self.store: KeyValueStore = open_with_shard(folder)
        self.model: dict[bytes, bytes] = {}
        self.index = 0

    def apply(self, *commands: bytes) -> None:
        apply_all(self.store, commands, self.index + 1)
        self.index += len(commands)

    def key(self) -> bytes:
        """Few enough to be met again, at both ends of what a key may be: its length and its bytes."""
        alphabet = b"a\x00\xff\xfe"
        return PREFIX + bytes(
            self.draw.choice(alphabet) for _ in range(self.draw.choice([1, 2, 3, 4]))
        ) * self.draw.choice([1, 1, 120])

    def change(self) -> None:
        kind = self.draw.random()
        if kind < 0.5:
            pairs = {
                self.key(): self.draw.randbytes(self.draw.choice([0, 1, 60])) for _ in range(9)
            }
            self.model |= pairs
            self.apply(encode_put_many(SPACE, EPOCH, pairs.items()))
        elif kind < 0.7:
            key = self.key()
            self.model.pop(key, None)
            self.apply(encode_delete(SPACE, EPOCH, key))
        elif kind < 0.8:
            start = self.key()
            end = start + b"\0" if self.draw.random() < 0.5 else max(self.key(), start + b"\0")
            for key in [key for key in self.model if start <= key < end]:
                del self.model[key]
            self.apply(encode_delete_range(SPACE, EPOCH, start, end))
        elif kind < 0.9:
            self.store.freeze(GROUP)
        else:
            self.store.freeze(GROUP)
            self.store.flush(GROUP)

    def scan(self, limit: int, bytes_max: int, *, reverse: bool) -> None:
        """From end to end, with changes between the pages."""
        bounds = sorted({DESCRIPTOR.start, DESCRIPTOR.end, self.key(), self.key()})
        start, end = self.draw.choice([(bounds[0], bounds[-1]), (bounds[-3], bounds[-2])])
        for _ in range(5000):
            page = self.store.scan_page(GROUP, start, end, limit, bytes_max, reverse, on_loop=True)
            assert isinstance(page, ScanPage)
            low, high = start, end
            if page.resume is not None and reverse:
                low = page.resume
            elif page.resume is not None:
                high = page.resume
            expected = sorted(pair for pair in self.model.items() if low <= pair[0] < high)
            found = [(key, value) for key, _, value in page.entries]
            assert found == (expected[::-1] if reverse else expected)
            if page.resume is None:
                return
            assert page.resume < end if reverse else page.resume > start, "it got no further"
            start, end = (start, page.resume) if reverse else (page.resume, end)
            if self.draw.random() < 0.5:
                self.change()
        raise AssertionError("the scan does not end")


@pytest.mark.parametrize("seed", range(30))
def test_every_page_is_what_a_dict_shows_while_the_shard_changes(seed: int, tmp_path: Path) -> None:
    shard = Filled(tmp_path, seed)
    try:
        for _ in range(60):
            for _ in range(shard.draw.choice([1, 5])):
                shard.change()
            shard.scan(
                shard.draw.choice([1, 2, 7, 1000]),
                shard.draw.choice([1, 500, 1 << 20]),
                reverse=shard.draw.random() < 0.5,
            )
    finally:
        shard.store.close()


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_gets_past_any_number_of_deleted_ranges(reverse: bool, tmp_path: Path) -> None:
    """A page has a number of visits; ranges spend some before the first key, and a key in memory stands before them."""
    store = open_with_shard(tmp_path)
    try:
        keys = [PREFIX + b"m%04d" % number for number in range(900)]
        apply_all(store, [encode_put_many(SPACE, EPOCH, [(key, b"v") for key in keys])], 1)
        store.freeze(GROUP)
        store.flush(GROUP)
        ends = [PREFIX + b"a", PREFIX + b"z"]
        commands = [encode_put(SPACE, EPOCH, key, b"v") for key in ends]
        commands += [encode_delete_range(SPACE, EPOCH, key, key + b"\0") for key in keys]
        apply_all(store, commands, 2)
        found = [key for key, _, _ in scan_all(store, ends[0], reverse=reverse, limit=512)]
        assert found == (ends[::-1] if reverse else ends)
    finally:
        store.close()
