"""What two nodes say to each other before and after frames of messages: hello and goodbye, as bytes and as rules.

A connection begins with three hellos: the dialler's offer, the other side's answer, the dialler's confirmation. Only then
has each side judged the other, and the connection stands. A goodbye says why a side leaves, so that the other can tell
its operator. Pure functions over values: no socket, no clock, no state. The layouts stand in ``docs/formats.md``.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from multiraft._core import FORMAT_VERSION, FRAME_MAGIC, FrameKind
from multiraft.errors import (
    FormatUnsupported,
    MultiRaftError,
    Overloaded,
    PeerProtocolError,
    WrongCluster,
    WrongStore,
)
from multiraft.ids import ClusterId, NodeId, StoreId
from multiraft.interfaces import Hello

FRAME_HEADER = struct.Struct("<IIHHIQQIIQQII")

_HELLO = struct.Struct("<BBHIQHHB3xQ")
_HELLO_VERSION = 1
_GOODBYE = struct.Struct("<HHI")
_REASON_BYTES_MAX = 512


class Step(enum.IntEnum):
    """Which of the three hellos of a connection this one is."""

    OFFER = 1
    ANSWER = 2
    CONFIRM = 3


class Purpose(enum.IntEnum):
    """What the connection is for, as its dialler offers it."""

    LINK = 1
    BULK = 2


class Farewell(enum.IntEnum):
    """Why a side leaves."""

    CLOSING = 1
    PROTOCOL = 2
    WRONG_CLUSTER = 3
    WRONG_STORE = 4
    FORMAT = 5
    REFUSED = 6
    CROSSED = 7
    STALE = 8
    BUSY = 9


class Stage(enum.Enum):
    """How far a connection has come; it only moves downwards in this list."""

    CONNECTING = enum.auto()
    OFFERED = enum.auto()
    """We dialled and sent an offer; the answer is awaited."""
    EXPECTING = enum.auto()
    """We were dialled; the offer is awaited."""
    ANSWERED = enum.auto()
    """We answered the offer; the confirmation is awaited."""
    STANDING = enum.auto()
    ENDED = enum.auto()


class CrossedDial(MultiRaftError):
    """Both nodes dialled; this connection is the one to give up. Nothing is wrong, and nobody is told."""


class StaleConnection(MultiRaftError):
    """A newer connection of the same node stands. Nothing is wrong, and nobody is told."""


_ERRORS: tuple[tuple[Farewell, type[MultiRaftError]], ...] = (
    (Farewell.WRONG_CLUSTER, WrongCluster),
    (Farewell.WRONG_STORE, WrongStore),
    (Farewell.FORMAT, FormatUnsupported),
    (Farewell.CROSSED, CrossedDial),
    (Farewell.STALE, StaleConnection),
    (Farewell.BUSY, Overloaded),
    (Farewell.PROTOCOL, PeerProtocolError),
    (Farewell.REFUSED, MultiRaftError),
)


@dataclass(frozen=True, slots=True)
class Greeting:
    """One received hello with what its frame's header said."""

    hello: Hello
    step: Step
    purpose: Purpose
    to_node: NodeId
    link_epoch: int
    sequence: int


def build_frame(kind: FrameKind, body: bytes) -> bytes:
    """A frame without messages, yet to be sealed: a bytes object that nobody else has seen."""
    length = FRAME_HEADER.size + len(body)
    header = FRAME_HEADER.pack(FRAME_MAGIC, length, FORMAT_VERSION, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    return header + body if body else header


def encode_hello(hello: Hello, step: Step, purpose: Purpose) -> bytes:
    """A hello to be sealed; cluster, store and node ids travel in the frame's header."""
    body = _HELLO.pack(
        _HELLO_VERSION,
        step,
        purpose,
        hello.boot_count,
        hello.sequence,
        hello.format_min,
        hello.format_max,
        hello.bootstrapped,
        hello.config_digest,
    )
    return build_frame(FrameKind.FRAME_HELLO, body)


def decode_hello(frame: memoryview) -> Greeting:
    """Read a checked frame of kind hello. Raises PeerProtocolError."""
    if len(frame) != FRAME_HEADER.size + _HELLO.size:
        raise PeerProtocolError(f"a hello of {len(frame)} bytes")
    _, _, _, _, count, cluster, store, from_node, to_node, epoch, sequence, _, _ = (
        FRAME_HEADER.unpack_from(frame)
    )
    version, step, purpose, boots, synced, lowest, highest, bootstrapped, digest = (
        _HELLO.unpack_from(frame, FRAME_HEADER.size)
    )
    if version != _HELLO_VERSION:
        raise PeerProtocolError(f"a hello of version {version}; known here is {_HELLO_VERSION}")
    if count or bootstrapped > 1 or not from_node or not sequence or not epoch:
        raise PeerProtocolError("a hello with a field out of its range")
    try:
        step, purpose = Step(step), Purpose(purpose)
    except ValueError as error:
        raise PeerProtocolError(f"a hello of a kind that is not known here: {error}") from error
    hello = Hello(
        cluster_id=ClusterId(cluster),
        node=NodeId(from_node),
        store_id=StoreId(store),
        boot_count=boots,
        sequence=synced,
        format_min=lowest,
        format_max=highest,
        bootstrapped=bool(bootstrapped),
        config_digest=digest,
    )
    return Greeting(hello, step, purpose, NodeId(to_node), epoch, sequence)


def check_greeting(own: Hello, greeting: Greeting, *, dialled: NodeId | None) -> None:
    """What every node demands of every other, before its own ``admit`` is asked. Raises why it is refused."""
    other = greeting.hello
    if dialled is not None and other.node != dialled:
        raise PeerProtocolError(f"node {other.node} answers at the address of node {dialled}")
    if other.node == own.node:
        raise PeerProtocolError(f"the other side says that it is node {own.node}, as we are")
    if greeting.to_node != own.node:
        raise PeerProtocolError(
            f"node {other.node} wants node {greeting.to_node}; this is {own.node}"
        )
    if own.cluster_id and other.cluster_id and own.cluster_id != other.cluster_id:
        raise WrongCluster(
            f"node {other.node} belongs to cluster {other.cluster_id:x}, node {own.node} to "
            f"{own.cluster_id:x}"
        )
    if other.format_min > own.format_max or other.format_max < own.format_min:
        raise FormatUnsupported(
            f"node {other.node} reads formats {other.format_min}..{other.format_max}, "
            f"node {own.node} {own.format_min}..{own.format_max}"
        )


def encode_goodbye(farewell: Farewell, reason: str) -> bytes:
    """A goodbye to be sealed; a reason that is too long is cut."""
    text = reason.encode("utf-8", "replace")[:_REASON_BYTES_MAX]
    return build_frame(FrameKind.FRAME_GOODBYE, _GOODBYE.pack(farewell, 0, len(text)) + text)


def decode_goodbye(frame: memoryview) -> tuple[Farewell, str]:
    """Read a checked frame of kind goodbye. The reason is for people: unprintable characters are replaced."""
    body = frame[FRAME_HEADER.size :]
    if not _GOODBYE.size <= len(body) <= _GOODBYE.size + _REASON_BYTES_MAX:
        raise PeerProtocolError(f"a goodbye of {len(frame)} bytes")
    code, zero, length = _GOODBYE.unpack_from(body)
    if zero or length != len(body) - _GOODBYE.size:
        raise PeerProtocolError("a goodbye whose lengths contradict each other")
    try:
        farewell = Farewell(code)
    except ValueError as error:
        raise PeerProtocolError(f"a goodbye of a kind that is not known here: {code}") from error
    text = bytes(body[_GOODBYE.size :]).decode("utf-8", "replace")
    return farewell, "".join(letter if letter.isprintable() else "?" for letter in text)


def cluster_of(frame: memoryview) -> int:
    """The cluster that the sender of a checked frame belongs to; 0 where it does not know yet."""
    return int(FRAME_HEADER.unpack_from(frame)[5])


def farewell_for(error: MultiRaftError) -> Farewell:
    """How to say ``error`` to the other side."""
    for farewell, kind in _ERRORS:
        if isinstance(error, kind):
            return farewell
    return Farewell.REFUSED


def error_for(farewell: Farewell, reason: str) -> MultiRaftError | None:
    """What the other side's goodbye means here; None where it just leaves."""
    for known, kind in _ERRORS:
        if known is farewell:
            return kind(f"the other side refused: {reason}")
    return None
