"""Errors as they travel: from the leader's node to the one that forwarded a command, and from a node to its clients.

A refusal is a msgpack map of the class's name, the message, and the facts that the class carries; the other side raises the
very class again. What is not known there, or says nothing about what happened here (a closed node, a failed disk), arrives
as an outcome that is not known. Plain functions over bytes.
"""

from __future__ import annotations

import struct
from typing import Any, TypeVar

import msgpack

from multiraft.errors import (
    BatchError,
    CommandError,
    DeadlineExceeded,
    FormatUnsupported,
    InvalidCommand,
    InvalidResult,
    LeadershipLost,
    LinkLost,
    MembershipRefused,
    MultiRaftError,
    NoLeader,
    NoSpace,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PeerProtocolError,
    PreconditionFailed,
    Quarantined,
    Rejected,
    SessionExpired,
    ShardMoved,
    TooLarge,
)

T = TypeVar("T")

MESSAGE_CHARS_MAX = 4096
OUTCOME_CHARS_MAX = 200
"""Of each key's message in a BatchError: there may be many."""
OUTCOME_ERRORS_MAX = 1000
"""Different errors in one BatchError; further ones arrive as outcomes that are not known."""

# What is not in here travels as its nearest kin: see ``decode_refusal``.
_CARRIED: tuple[type[MultiRaftError], ...] = (
    NotLeader,
    NoLeader,
    Overloaded,
    NoSpace,
    Quarantined,
    ShardMoved,
    TooLarge,
    InvalidCommand,
    CommandError,
    InvalidResult,
    MembershipRefused,
    Rejected,
    OutcomeUnknown,
    DeadlineExceeded,
    LeadershipLost,
    LinkLost,
    SessionExpired,
    FormatUnsupported,
)
_BY_NAME = {kind.__name__: kind for kind in _CARRIED}


def encode_refusal(error: BaseException) -> bytes:
    """An exception as bytes."""
    return msgpack.packb(_facts_of(error, MESSAGE_CHARS_MAX))


def decode_refusal(body: bytes) -> MultiRaftError:
    """The exception again. Raises PeerProtocolError where the body is none; one of a class not known is an unknown outcome."""
    try:
        facts = msgpack.unpackb(
            body, strict_map_key=True, max_map_len=16, max_array_len=OUTCOME_ERRORS_MAX + 1
        )
        if _fact(facts, "error", str) != "BatchError":
            return _error_of(facts)
        return BatchError(_fact(facts, "message", str), outcomes=_outcomes_from(facts))
    except (ValueError, KeyError, TypeError, msgpack.UnpackException) as error:
        raise PeerProtocolError(f"a refusal that cannot be read: {error!r:.200}") from error


def _facts_of(error: BaseException, chars_max: int) -> dict[str, Any]:
    message = str(error)
    facts: dict[str, Any] = {"error": type(error).__name__}
    if isinstance(error, PreconditionFailed):
        facts |= {"key": error.key, "revision": error.revision}
    elif isinstance(error, NotLeader) and error.leader is not None:
        facts["leader"] = error.leader
        message = message.removesuffix(f"; node {error.leader} does")  # its class says it again
    elif isinstance(error, ShardMoved):
        facts["epoch"] = error.epoch
    elif isinstance(error, BatchError):
        facts |= _outcomes_of(error.outcomes)
    return facts | {"message": message[:chars_max]}


def _error_of(facts: Any) -> MultiRaftError:
    name, message = _fact(facts, "error", str), _fact(facts, "message", str)
    if name == "PreconditionFailed":
        return PreconditionFailed(
            message, key=_fact(facts, "key", bytes), revision=_fact(facts, "revision", int)
        )
    if name == "NotLeader" and "leader" in facts:
        return NotLeader(message, leader=_fact(facts, "leader", int))
    if name == "ShardMoved":
        return ShardMoved(message, epoch=_fact(facts, "epoch", int))
    if name in _BY_NAME:
        return _BY_NAME[name](message)
    return LeadershipLost(f"the other node answered {name}: {message}")


def _fact(facts: Any, name: str, kind: type[T]) -> T:
    """One fact of its kind, and of no other: a number is not bytes of that length."""
    value = facts[name]
    if type(value) is not kind:
        raise TypeError(f"{name} is {value!r:.50}")
    return value


# Many keys share few errors: each error stands once and each key has a number, which is a revision or, below zero, an error's.


def _outcomes_of(outcomes: list[int | MultiRaftError]) -> dict[str, Any]:
    numbers: dict[tuple[str, str], int] = {}
    errors: list[dict[str, Any]] = []
    answers: list[int] = []
    for one in outcomes:
        if isinstance(one, int):
            answers.append(one)
            continue
        named = type(one).__name__, str(one)[:OUTCOME_CHARS_MAX]
        if named not in numbers and len(errors) < OUTCOME_ERRORS_MAX:
            numbers[named] = len(errors)
            errors.append(_facts_of(one, OUTCOME_CHARS_MAX))
        answers.append(-1 - numbers.get(named, len(errors)))
    if any(answer < -len(errors) for answer in answers):
        errors.append(_facts_of(LeadershipLost("one of too many different errors"), 100))
    return {"errors": errors, "outcomes": struct.pack(f"<{len(answers)}q", *answers)}


def _outcomes_from(facts: Any) -> list[int | MultiRaftError]:
    errors = [_error_of(one) for one in _fact(facts, "errors", list)]
    packed = _fact(facts, "outcomes", bytes)
    if len(packed) % 8:
        raise ValueError("outcomes that are cut short")
    outcomes: list[int | MultiRaftError] = []
    for answer in struct.unpack(f"<{len(packed) // 8}q", packed):
        if answer < -len(errors):
            raise ValueError("an outcome that is no revision and no error")
        outcomes.append(answer if answer >= 0 else errors[-1 - answer])
    return outcomes
