"""Sealing a frame in place: what it writes, and when it refuses to touch bytes that Python says never change."""

from __future__ import annotations

from typing import Any

import pytest

from multiraft import _core, _frames
from multiraft._core import FrameKind, seal_frame
from multiraft.errors import InvariantViolation
from tests.spec import codec
from tests.unit.core import cases, strategies

LINK = cases.LINK


def fresh(size: int = 50) -> bytes:
    message = _frames.encode_message(kind=14, body=bytes(size))
    return _frames.encode_frame([message, message], sealed=False)


def test_a_sealed_frame_is_the_same_object_with_the_bytes_of_the_spec() -> None:
    frame = fresh()
    kept = memoryview(frame)
    seal_frame(frame, **LINK)
    assert bytes(kept) == frame
    message = codec.Message(14, body=bytes(50))
    assert frame == codec.encode_frame(codec.Frame(1, **LINK, messages=(message, message)))
    assert _core.check_frame(frame) == _core.Fault.FAULT_NONE


@pytest.mark.parametrize("kind", FrameKind)
def test_frames_of_every_kind_can_be_sealed(kind: FrameKind) -> None:
    frame = _frames.encode_frame([], kind=kind, sealed=False)
    seal_frame(frame, **LINK)
    assert _frames.decode_frame(frame).sequence == LINK["sequence"]


def test_a_frame_is_sealed_once_so_that_no_two_links_share_it() -> None:
    frame = fresh()
    seal_frame(frame, **LINK)
    before = bytes(bytearray(frame))
    with pytest.raises(InvariantViolation):
        seal_frame(frame, **LINK | {"to_node": 4, "sequence": 1})
    assert frame == before, "what one link queued is not changed by another"


@pytest.mark.parametrize("at", range(16, 64))
def test_every_field_of_the_link_must_be_empty(at: int) -> None:
    frame = bytearray(fresh())
    frame[at] = 1
    with pytest.raises(InvariantViolation):
        seal_frame(bytes(frame), **LINK)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"x",
        bytes(63),
        bytes(64),
        fresh()[:-1],
        fresh() + b"\0",
        strategies.patched(fresh(), codec.FRAME_HEADER, 0, codec.BATCH_MAGIC),
        strategies.patched(fresh(), codec.FRAME_HEADER, 2, 2),
    ],
    ids=["empty", "short", "almost", "zeros", "cut", "followed", "magic", "version"],
)
def test_bytes_that_are_no_frame_are_not_touched(wrong: bytes) -> None:
    before = bytes(bytearray(wrong))
    with pytest.raises(InvariantViolation):
        seal_frame(wrong, **LINK)
    assert wrong == before


def test_a_frame_that_others_hold_is_not_touched() -> None:
    frame = fresh()
    holders = [frame] * 16
    before = bytes(bytearray(frame))
    with pytest.raises(InvariantViolation):
        seal_frame(frame, **LINK)
    assert frame == before
    holders.clear()
    seal_frame(frame, **LINK)


def test_a_frame_that_went_through_a_chain_of_calls_can_be_sealed() -> None:
    """As a turn does it: out of a list of pairs, through the transport and the link, to whoever seals."""

    def write(frame: bytes, **link: int) -> None:
        seal_frame(frame, **link)

    def send(node: int, frame: bytes) -> None:
        write(frame, **LINK)

    def transport(node: int, frame: bytes) -> bool:
        send(node, frame)
        return True

    for node, frame in [(1, fresh()), (2, fresh())]:
        assert transport(node, frame)


@pytest.mark.parametrize(
    "wrong", [{"cluster_id": -1}, {"from_node": 2**32}, {"sequence": 2**64}, {"to_node": "3"}]
)
def test_numbers_that_do_not_fit_are_refused_before_anything_is_written(
    wrong: dict[str, Any],
) -> None:
    frame = fresh()
    with pytest.raises((OverflowError, TypeError)):
        seal_frame(frame, **{**LINK, **wrong})
    seal_frame(frame, **LINK)


@pytest.mark.parametrize("other", [bytearray(fresh()), memoryview(fresh()), None, 5])
def test_only_plain_bytes_are_sealed(other: Any) -> None:
    with pytest.raises(TypeError):
        seal_frame(other, **LINK)
