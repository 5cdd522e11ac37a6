"""Results of users' machines on the wire: what went in comes out, and no bytes of anybody do harm."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiraft.errors import CommandError, PeerProtocolError
from multiraft.node.results import decode_results, encode_results

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=20)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(PLAIN)
def test_one_result_comes_out_as_it_went_in(value: Any) -> None:
    assert decode_results(encode_results(value, False), 0) == value


@given(st.lists(PLAIN, min_size=1, max_size=5), st.integers(0, 5))
def test_several_results_come_out_in_order_with_their_errors(values: list[Any], at: int) -> None:
    mixed = [*values[:at], CommandError("no"), *values[at:]]
    found = decode_results(encode_results(mixed, True), len(mixed))
    assert len(found) == len(mixed)
    for one, expected in zip(found, mixed, strict=True):
        if isinstance(expected, CommandError):
            assert type(one) is CommandError and str(one) == "no"
        else:
            assert one == expected


@given(st.binary(max_size=200), st.integers(0, 3))
def test_p82_any_bytes_are_read_or_refused(body: bytes, count: int) -> None:
    try:
        found = decode_results(body, count)
    except PeerProtocolError:
        return
    assert count == 0 or len(found) == count


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgpack.packb([[True, 1]]),
        msgpack.packb([[True, 1], [False, b"none"]]),
        msgpack.packb([[True], [True]]),
        msgpack.packb({"a": 1, "b": 2}),
        msgpack.packb([1, 2]),
        b"\x91" * 2000,
    ],
    ids=range(8),
)
def test_p82_what_is_no_list_of_results_is_refused(body: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        decode_results(body, 2)
