"""The command envelope: what is encoded is decoded, limits are kept, and no bytes of anybody make the decoder stumble."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.errors import FormatUnsupported, InvalidCommand, TooLarge
from multiraft.machine import commands as c
from multiraft.machine.commands import CommandFlag, CommandKind, ConditionKind, OperationKind

KEYS = st.binary(min_size=3, max_size=20)
VALUES = st.binary(max_size=40)
RANGES = st.tuples(KEYS, KEYS).filter(lambda r: r[0] < r[1])
OPERATIONS = st.one_of(
    st.tuples(st.just(OperationKind.OPERATION_PUT), KEYS, VALUES),
    st.tuples(st.just(OperationKind.OPERATION_DELETE), KEYS),
    RANGES.map(lambda r: (OperationKind.OPERATION_DELETE_RANGE, *r)),
)
CONDITIONS = st.one_of(
    st.tuples(st.just(ConditionKind.CONDITION_VALUE), KEYS, VALUES),
    st.tuples(st.just(ConditionKind.CONDITION_REVISION), KEYS, st.integers(0, 2**64 - 1)),
    st.tuples(st.just(ConditionKind.CONDITION_ABSENT), KEYS),
    st.tuples(st.just(ConditionKind.CONDITION_PRESENT), KEYS),
)


def samples() -> list[bytes]:
    """One of each kind, with and without every optional field."""
    plain = [
        c.encode_put(1, 2, b"\0\1key", b"value"),
        c.encode_put(1, 2, b"\0\1key", b"value", expiry_ms=99),
        c.encode_delete(1, 2, b"\0\1key"),
        c.encode_put_many(1, 2, [(b"\0\1a", b"1"), (b"\0\1b", b"")]),
        c.encode_delete_range(1, 2, b"\0\1a", b"\0\1b"),
        c.encode_delete_range(1, 2, b"\0\1a", b""),
        c.encode_batch(
            1,
            2,
            [
                (OperationKind.OPERATION_PUT, b"\0\1k", b"v"),
                (OperationKind.OPERATION_DELETE, b"\0\1k"),
                (OperationKind.OPERATION_DELETE_RANGE, b"\0\1k", b"\0\1l"),
            ],
            [
                (ConditionKind.CONDITION_VALUE, b"\0\1k", b"v"),
                (ConditionKind.CONDITION_REVISION, b"\0\1k", 7),
                (ConditionKind.CONDITION_ABSENT, b"\0\1k"),
                (ConditionKind.CONDITION_PRESENT, b"\0\1k"),
            ],
        ),
    ]
    timed = [c.with_time(command, time_ms=5) for command in plain]
    return plain + [
        c.with_session(command, session=3, sequence=4, acked_through=2) for command in plain + timed
    ]


def test_the_bytes_of_a_put_are_as_documented() -> None:
    command = c.encode_put(0x0102, 0x0A0B0C0D, b"\1\2k", b"value")
    assert command == struct.pack("<BBHHI", 1, 1, 0, 0x0102, 0x0A0B0C0D) + struct.pack(
        "<HI", 3, 5
    ) + b"\1\2k" + b"value"


@given(st.lists(OPERATIONS, min_size=1, max_size=5), st.lists(CONDITIONS, max_size=4))
def test_a_batch_comes_back_as_it_was(
    operations: list[tuple[Any, ...]], conditions: list[tuple[Any, ...]]
) -> None:
    found = c.decode(c.encode_batch(1, 2, operations, conditions, expiry_ms=5))
    assert found.kind == CommandKind.COMMAND_BATCH
    assert (found.space, found.epoch, found.expiry_ms) == (1, 2, 5)
    assert found.operations == operations
    assert found.conditions == conditions


@given(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=8))
def test_put_many_comes_back_as_it_was(items: list[tuple[bytes, bytes]]) -> None:
    found = c.decode(c.encode_put_many(9, 2**32 - 1, items))
    assert found.kind == CommandKind.COMMAND_PUT_MANY
    assert found.operations == [(OperationKind.OPERATION_PUT, *item) for item in items]


def test_optional_fields_come_back() -> None:
    command = c.encode_put(1, 2, b"\0\1k", b"v", expiry_ms=77)
    whole = c.with_session(
        c.with_time(command, time_ms=55), session=2**64 - 1, sequence=9, acked_through=8
    )
    found = c.decode(whole)
    assert found.flags == (
        CommandFlag.COMMAND_SESSION | CommandFlag.COMMAND_TIME | CommandFlag.COMMAND_EXPIRY
    )
    assert (found.session, found.sequence, found.acked_through) == (2**64 - 1, 9, 8)
    assert (found.time_ms, found.expiry_ms) == (55, 77)
    assert found.operations == [(OperationKind.OPERATION_PUT, b"\0\1k", b"v")]
    in_other_order = c.with_time(
        c.with_session(command, session=2**64 - 1, sequence=9, acked_through=8), time_ms=55
    )
    assert in_other_order == whole


@pytest.mark.parametrize("value", [bytearray(b"abc"), memoryview(b"abc")])
def test_values_may_be_any_buffer(value: Any) -> None:
    assert c.encode_put(1, 2, b"\0\1k", value) == c.encode_put(1, 2, b"\0\1k", b"abc")


REFUSED = (
    lambda: c.encode_put(1, 2, "text", b""),
    lambda: c.encode_put(1, 2, bytearray(b"\0\1k"), b""),
    lambda: c.encode_put(1, 2, b"\0\1", b""),
    lambda: c.encode_put(1, 2, b"", b""),
    lambda: c.encode_put(1, 2, b"\0\1k", "text"),
    lambda: c.encode_put(1, 2, b"\0\1k", 5),
    lambda: c.encode_put(1, 2, b"\0\1k", None),
    lambda: c.encode_delete(1, 2, None),
    lambda: c.encode_delete_range(1, 2, b"\0\1b", b"\0\1a"),
    lambda: c.encode_delete_range(1, 2, b"\0\1a", b"\0\1a"),
    lambda: c.encode_delete_range(1, 2, b"\0\1a", None),
    lambda: c.encode_put_many(1, 2, []),
    lambda: c.encode_batch(1, 2, []),
    lambda: c.encode_batch(1, 2, [(9, b"\0\1k")]),
    lambda: c.encode_batch(1, 2, [b"k"]),
    lambda: c.encode_batch(1, 2, [5]),
    lambda: c.encode_batch(1, 2, [(OperationKind.OPERATION_PUT, b"\0\1k")]),
    lambda: c.encode_batch(1, 2, [], [(ConditionKind.CONDITION_REVISION, b"\0\1k", -1)]),
    lambda: c.encode_batch(1, 2, [], [(ConditionKind.CONDITION_REVISION, b"\0\1k", b"1")]),
    lambda: c.encode_batch(1, 2, [], [(ConditionKind.CONDITION_VALUE, b"\0\1k")]),
    lambda: c.encode_batch(1, 2, [], [(0, b"\0\1k")]),
    lambda: c.with_session(b"", session=1, sequence=1, acked_through=0),
    lambda: c.with_time(c.with_time(samples()[0], time_ms=1), time_ms=1),
)


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_makes_no_command_is_refused(number: int) -> None:
    with pytest.raises(InvalidCommand):
        REFUSED[number]()


TOO_LARGE = (
    lambda: c.encode_put(1, 2, b"k" * (c.KEY_BYTES_LIMIT + 1), b""),
    lambda: c.encode_put(1, 2, b"\0\1k", b"v" * (c.VALUE_BYTES_MAX + 1)),
    lambda: c.encode_put(1, 2, b"\0\1k", b"v" * 11, 10),
    lambda: c.encode_put(1, 2, b"\0\1k", bytes(8 << 20), 16 << 20),
    lambda: c.encode_put_many(1, 2, [(b"\0\1k", bytes(1 << 20))] * 9),
    lambda: c.encode_put_many(1, 2, [(b"\0\1k", b"vv")], 1),
    lambda: c.encode_delete_range(1, 2, b"a", b"k" * (c.KEY_BYTES_LIMIT + 1)),
    lambda: c.encode_batch(1, 2, [], [(ConditionKind.CONDITION_ABSENT, b"\0\1k")] * 65536),
    lambda: c.encode_batch(1, 2, [(OperationKind.OPERATION_PUT, b"\0\1k", b"vv")], (), 1),
)


@pytest.mark.parametrize("number", range(len(TOO_LARGE)))
def test_what_is_over_a_limit_is_too_large(number: int) -> None:
    with pytest.raises(TooLarge):
        TOO_LARGE[number]()


def test_the_limits_themselves_are_allowed() -> None:
    key, value = b"k" * c.KEY_BYTES_LIMIT, b"v" * c.VALUE_BYTES_MAX
    found = c.decode(c.encode_put(1, 2, key, value))
    assert found.operations == [(OperationKind.OPERATION_PUT, key, value)]


@pytest.mark.parametrize("position", range(len(samples())))
def test_a_command_cut_short_anywhere_is_refused(position: int) -> None:
    command = samples()[position]
    c.decode(command)
    for size in range(len(command)):
        with pytest.raises(InvalidCommand):
            c.decode(command[:size])
    with pytest.raises(InvalidCommand):
        c.decode(command + b"\0")


@pytest.mark.parametrize(
    "change",
    [(0, 2), (0, 0), (1, 0), (1, 6), (1, 255), (2, 0x80), (3, 1)],
    ids=lambda change: f"byte {change[0]} = {change[1]}",
)
def test_versions_kinds_and_flags_that_are_not_known_are_refused(change: tuple[int, int]) -> None:
    command = bytearray(c.encode_put(1, 2, b"\0\1k", b"v"))
    command[change[0]] = change[1]
    with pytest.raises(FormatUnsupported):
        c.decode(bytes(command))


def test_kinds_inside_a_batch_that_are_not_known_are_refused() -> None:
    command = c.encode_batch(1, 2, [(OperationKind.OPERATION_DELETE, b"\0\1k")])
    assert command[16] == OperationKind.OPERATION_DELETE
    with pytest.raises(FormatUnsupported):
        c.decode(command[:16] + b"\4" + command[17:])
    command = c.encode_batch(1, 2, [], [(ConditionKind.CONDITION_ABSENT, b"\0\1k")])
    assert command[16] == ConditionKind.CONDITION_ABSENT
    with pytest.raises(FormatUnsupported):
        c.decode(command[:16] + b"\5" + command[17:])


def test_p82_bytes_of_anybody_are_decoded_or_refused() -> None:
    """Damaged commands, and noise behind a sound header: nothing else than a command or a refusal comes of them."""
    draw = random.Random(1)
    sound = samples()
    for number in range(20_000):
        if number % 2:
            command = bytearray(draw.choice(sound))
            for _ in range(draw.randint(1, 3)):
                command[draw.randrange(len(command))] ^= 1 << draw.randrange(8)
        else:
            command = bytearray(bytes([1, draw.randint(1, 5), draw.randrange(8), 0]))
            command += draw.randbytes(draw.randrange(40))
        try:
            found = c.decode(bytes(command))
        except (InvalidCommand, FormatUnsupported):
            continue
        for operation in found.operations:
            assert all(len(part) <= len(command) for part in operation[1:])


def test_a_count_that_promises_more_than_there_is_costs_nothing() -> None:
    command = struct.pack("<BBHHI", 1, CommandKind.COMMAND_PUT_MANY, 0, 1, 2)
    for count in (2**20, 2**32 - 1):
        with pytest.raises(InvalidCommand):
            c.decode(command + struct.pack("<I", count))
