"""Errors on their way: the other side raises the very class with its facts, and whatever is not known is an unknown outcome."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest

from multiraft import errors
from multiraft.errors import (
    BatchError,
    Closed,
    DeadlineExceeded,
    LeadershipLost,
    MultiRaftError,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    PeerProtocolError,
    PreconditionFailed,
    ShardMoved,
    SyncFailed,
)
from multiraft.node.refusals import OUTCOME_ERRORS_MAX, decode_refusal, encode_refusal

KINDS = """NotLeader NoLeader ShardMoved Overloaded NoSpace Quarantined OutcomeUnknown DeadlineExceeded LeadershipLost LinkLost
SessionExpired Rejected InvalidCommand TooLarge CommandError MembershipRefused FormatUnsupported""".split()


@pytest.mark.parametrize("name", KINDS)
def test_each_class_arrives_as_itself(name: str) -> None:
    error = decode_refusal(encode_refusal(getattr(errors, name)("why")))
    assert type(error) is getattr(errors, name) and str(error) == "why"


def test_facts_arrive() -> None:
    moved = decode_refusal(encode_refusal(ShardMoved(epoch=7)))
    assert isinstance(moved, ShardMoved) and moved.epoch == 7
    sent = NotLeader("not here", leader=3)
    arrived = decode_refusal(encode_refusal(sent))
    assert isinstance(arrived, NotLeader) and arrived.leader == 3 and str(arrived) == str(sent)
    failed = decode_refusal(encode_refusal(PreconditionFailed(key=b"k\0", revision=9)))
    assert isinstance(failed, PreconditionFailed)
    assert (failed.key, failed.revision) == (b"k\0", 9)


@pytest.mark.parametrize(
    "error", [Closed("c"), SyncFailed("s"), KeyError("k"), MultiRaftError("m")]
)
def test_p93_what_says_nothing_about_the_command_is_an_unknown_outcome(error: Exception) -> None:
    arrived = decode_refusal(encode_refusal(error))
    assert isinstance(arrived, OutcomeUnknown) and type(error).__name__ in str(arrived)


def test_many_outcomes_arrive_in_their_order() -> None:
    late, lost = DeadlineExceeded("late"), NoLeader("nobody")
    sent: list[int | MultiRaftError] = [5, late, lost, late, 2**62]
    arrived = decode_refusal(encode_refusal(BatchError("3 of 5", outcomes=sent)))
    assert isinstance(arrived, BatchError) and str(arrived) == "3 of 5"
    assert [one if isinstance(one, int) else (type(one), str(one)) for one in arrived.outcomes] == [
        5,
        (DeadlineExceeded, "late"),
        (NoLeader, "nobody"),
        (DeadlineExceeded, "late"),
        2**62,
    ]


def test_too_many_different_errors_are_unknown_outcomes() -> None:
    sent: list[int | MultiRaftError] = [NoLeader(str(n)) for n in range(OUTCOME_ERRORS_MAX + 5)]
    arrived = decode_refusal(encode_refusal(BatchError("all", outcomes=sent)))
    assert isinstance(arrived, BatchError)
    assert [str(one) for one in arrived.outcomes[:-5]] == [str(one) for one in sent[:-5]]
    assert {type(one) for one in arrived.outcomes[-5:]} == {LeadershipLost}


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        {},
        {"error": 5, "message": "m"},
        {"error": "NoLeader"},
        {"error": "PreconditionFailed", "message": "m", "key": 2**40, "revision": 1},
        {"error": "PreconditionFailed", "message": "m", "key": b"k", "revision": "1"},
        {"error": "NotLeader", "message": "m", "leader": b"3"},
        {"error": "ShardMoved", "message": "m"},
        {"error": "BatchError", "message": "m", "errors": [], "outcomes": struct.pack("<q", -1)},
        {"error": "BatchError", "message": "m", "errors": [], "outcomes": b"123"},
        {"error": "BatchError", "message": "m", "errors": [{}], "outcomes": b""},
        {"error": "BatchError", "message": "m", "errors": {}, "outcomes": b""},
        {"error": "BatchError", "message": "m"},
    ],
)
def test_p82_what_is_no_refusal_is_refused(facts: Any) -> None:
    with pytest.raises(PeerProtocolError):
        decode_refusal(msgpack.packb(facts))


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xdf\xff\xff\xff\xff", b"\x81" * 2000])
def test_p82_bytes_that_are_none_are_refused(body: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        decode_refusal(body)
