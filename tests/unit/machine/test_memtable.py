"""The memtable: found by hash, walked by key, deleted ranges that cut each other, and an order built a little at a time."""

from __future__ import annotations

import random

import pytest

from multiraft.errors import InvariantViolation
from multiraft.machine.memtable import Memtable
from multiraft.machine.pages import Walk, open_record


def names(count: int, seed: int = 0) -> list[bytes]:
    draw = random.Random(seed)
    return [b"%d" % draw.randrange(10**12) * draw.choice([1, 3]) for _ in range(count)]


def filled(keys: list[bytes]) -> Memtable:
    table = Memtable(seed=1)
    for revision, key in enumerate(keys, 1):
        table.put_key(key, b"value of " + key, revision)
    return table


def test_what_was_put_is_found_and_nothing_else() -> None:
    keys = names(20_000)
    table = filled(keys)
    assert table.count == len(set(keys))
    last = {key: revision for revision, key in enumerate(keys, 1)}
    for key in keys:
        assert table.get_key(key) == (last[key], 0, b"value of " + key)
    for key in names(2000, seed=1):
        assert table.get_key(key + b"?") is None


def test_keys_that_share_all_but_their_length_are_apart() -> None:
    table = Memtable(seed=3)
    keys = [b"\0" * length for length in range(1, 40)]
    for revision, key in enumerate(keys, 1):
        table.put_key(key, key, revision)
    assert [table.get_key(key) for key in keys] == [(len(key), 0, key) for key in keys]


def test_values_grow_and_shrink_in_place_or_beside() -> None:
    table = Memtable(seed=1)
    for size in (3, 8, 0, 100, 99, 100_000, 3_000_000, 1):
        value = bytes([size % 251]) * size
        table.put_key(b"key", value, 1 + size, expiry_ms=size)
        table.put_key(b"other", b"stays", 1)
        assert table.get_key(b"key") == (1 + size, size, value)
        assert table.get_key(b"other") == (1, 0, b"stays")


def test_what_it_holds_is_accounted() -> None:
    table = Memtable(seed=1)
    assert table.bytes == 0
    keys = names(10_000)
    for key in keys:
        table.put_key(key, b"v" * 100, 1)
    payload = sum(len(key) + 100 for key in set(keys))
    assert payload < table.bytes < payload + 150 * len(keys)
    before = table.bytes
    for key in keys:
        table.put_key(key, b"w" * 100, 2)
    assert table.bytes == before, "a value of the same size takes the place of the old one"


@pytest.mark.parametrize("arrival", ["random", "ascending", "descending"])
@pytest.mark.parametrize("steps", ["at once", "between puts", "on freeze"])
def test_keys_come_in_order(arrival: str, steps: str) -> None:
    keys = list(dict.fromkeys(names(5000, seed=4)))
    if arrival != "random":
        keys.sort(reverse=arrival == "descending")
    table = Memtable(seed=1)
    for number, key in enumerate(keys):
        table.put_key(key, b"", 1)
        if steps == "between puts" and number % 97 == 96:
            table.order_step(number % 13)
    if steps == "on freeze":
        table.freeze()
        table.sort()
    else:
        while table.order_step(500):
            pass
    assert table.keys() == sorted(keys)


def test_the_order_catches_up_with_any_stream_of_new_keys() -> None:
    """After one step, each new key brings an older one with it: a scan under full write load comes to its turn."""
    table = filled(names(3000, seed=5))
    assert table.order_step(1)
    for key in names(3100, seed=6):
        table.put_key(key, b"", 1)
    assert not table.order_step(0)
    assert table.keys() == sorted(set(names(3000, seed=5)) | set(names(3100, seed=6)))


def test_p99_one_step_of_ordering_does_no_more_than_it_was_told() -> None:
    table = filled(names(10_000, seed=7))
    steps = 1
    while table.order_step(100):
        steps += 1
    assert steps >= table.count // 100


def test_a_frozen_memtable_is_not_changed() -> None:
    table = filled([b"a"])
    table.freeze()
    for change in (
        lambda: table.put_key(b"b", b"", 1),
        lambda: table.delete_key(b"a", 1),
        lambda: table.delete_keys(b"a", b"b"),
    ):
        with pytest.raises(InvariantViolation):
            change()
    assert table.get_key(b"a") == (1, 0, b"value of a")


def test_only_a_frozen_memtable_is_sorted_at_once_or_written_out() -> None:
    table = filled([b"a"])
    with pytest.raises(InvariantViolation):
        table.sort()
    with pytest.raises(InvariantViolation):
        Walk(table)
    with pytest.raises(InvariantViolation):
        table.keys()


def test_deleted_ranges_against_a_plain_list() -> None:
    """Fragments ascend, never overlap, and say of each key whether a range was deleted after it was put."""
    draw = random.Random(8)
    for _ in range(150):
        table = Memtable(seed=1)
        alive: dict[int, int] = {}
        gone: set[int] = set()
        for revision in range(1, draw.randint(2, 40)):
            low, high = sorted(draw.sample(range(65, 91), 2))
            kind = draw.random()
            if kind < 0.5:
                table.put_key(bytes([low]), b"", revision)
                alive[low] = revision
            elif kind < 0.6:
                table.delete_key(bytes([low]), revision)
                alive.pop(low, None)
                gone.add(low)
            else:
                endless = draw.random() < 0.1
                table.delete_keys(bytes([low]), b"" if endless else bytes([high]))
                covered = range(low, 91 if endless else high)
                gone.update(covered)
                for letter in covered:
                    alive.pop(letter, None)
        for letter in range(65, 91):
            found = table.get_key(bytes([letter]))
            if letter in alive:
                assert found == (alive[letter], 0, b"")
            else:
                assert found is (False if letter in gone else None)
        ranges = table.ranges()
        for (_, end, endless), (start, _, _) in zip(ranges, ranges[1:], strict=False):
            assert not endless
            assert end <= start


def test_a_walk_hands_out_every_record_once_within_its_limits() -> None:
    keys = names(3000, seed=9)
    table = filled(keys)
    for key in keys[::3]:
        table.delete_key(key, 9999)
    table.freeze()
    walk, puts, deletes = Walk(table), [], []
    while True:
        more_puts, more_deletes = walk.chunk(100, 3000)
        if not more_puts and not more_deletes:
            break
        assert len(more_puts) + len(more_deletes) <= 100
        assert sum(len(record) for _, record in more_puts[:-1]) < 3000
        puts += more_puts
        deletes += more_deletes
    assert deletes == sorted(set(keys[::3]))
    assert [key for key, _ in puts] == sorted(set(keys) - set(keys[::3]))
    last = {key: revision for revision, key in enumerate(keys, 1)}
    for key, record in puts:
        assert open_record(key, record) == (last[key], b"value of " + key)
