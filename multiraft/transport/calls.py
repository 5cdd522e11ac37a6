"""What a client and a node say to each other, as bytes and as rules: frames of one msgpack array each, behind a short header.

The client says hello, the node welcomes it or says goodbye; then calls go one way and answers the other, each with the number
of its call, in any order. What a call's operation means, ``node/dispatch.py`` says; here it is a number with plain arguments.
The layouts stand in ``docs/formats.md``. Pure functions over values: no socket, no clock.

Every length is bounded before anything is allocated. Arrays and maps of a frame are small; what may be long (keys and values
of many) is packed into one byte string (``pack_many``), so that no nesting of announced lengths can ask for memory.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgpack

from multiraft._core import FRAME_BYTES_MAX, HELLO_BYTES_MAX, crc32c
from multiraft.errors import FormatUnsupported, PeerProtocolError, TooLarge
from multiraft.ids import ClusterId, NodeId, StoreId
from multiraft.transport.hello import Farewell

CALL_VERSION = 1
CALL_NAME = "multiraft"
CALL_BYTES_MAX = FRAME_BYTES_MAX
CALL_NUMBER_MAX = 2**64 - 1
LEFT_MS_MAX = 7 * 24 * 3600 * 1000
ITEMS_MAX = 32
"""Items of an array or a map in a frame."""
REASON_CHARS_MAX = 512
NOTHING = 0xFFFFFFFF
"""The length that stands for None in what ``pack_many`` packs."""

HEADER = struct.Struct("<II")
_LENGTH = struct.Struct("<I")


class Word(enum.IntEnum):
    """What a frame is: the first item of its array."""

    HELLO = 1
    WELCOME = 2
    CALL = 3
    ANSWER = 4
    REFUSAL = 5
    GOODBYE = 6


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a node says of itself to a client, and what it takes from it."""

    version: int
    cluster_id: ClusterId
    """0 where the node does not know its cluster yet."""
    node: NodeId
    store_id: StoreId
    boot_count: int
    format_version: int
    frame_bytes_max: int
    calls_max: int
    """Calls that may be on their way on one connection."""


# -- frames -------------------------------------------------------------------------------------------------------------


def encode_frame(items: list[Any]) -> bytes:
    """One frame. Raises TooLarge for one that no other side would take."""
    body = msgpack.packb(items)
    if len(body) > CALL_BYTES_MAX - HEADER.size:
        raise TooLarge(
            f"a call or an answer of {len(body)} bytes; at most {CALL_BYTES_MAX - HEADER.size} fit into one frame"
        )
    return HEADER.pack(len(body), crc32c(body)) + body


class FrameReader:
    """Bytes in, frames out. ``bytes_max`` bounds the next frame, its header included: little until the hello is done."""

    __slots__ = ("_buffer", "_start", "bytes_max")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0
        self.bytes_max = HELLO_BYTES_MAX

    def __len__(self) -> int:
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Take what arrived. Holds what is not read yet, so whoever feeds stops when ``next`` is not called."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next(self) -> tuple[list[Any], int] | None:
        """The next whole frame and its size; None where it has not arrived. Raises PeerProtocolError."""
        if len(self) < HEADER.size:
            return None
        length, crc = HEADER.unpack_from(self._buffer, self._start)
        if not length or length > self.bytes_max - HEADER.size:
            raise PeerProtocolError(
                f"a frame of {length} bytes where {self.bytes_max} are the most"
            )
        size = HEADER.size + length
        if len(self) < size:
            return None
        body = bytes(self._buffer[self._start + HEADER.size : self._start + size])
        self._start += size
        if crc32c(body) != crc:
            raise PeerProtocolError("a frame with a wrong checksum")
        return decode_body(body), size


def decode_body(body: bytes) -> list[Any]:
    """The array in a frame. Raises PeerProtocolError for anything else."""
    try:
        items = msgpack.unpackb(
            body,
            strict_map_key=True,
            max_array_len=ITEMS_MAX,
            max_map_len=ITEMS_MAX,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise PeerProtocolError(f"a frame that cannot be read: {error!r:.200}") from error
    if not isinstance(items, list) or not items or type(items[0]) is not int:
        raise PeerProtocolError("a frame that is not an array with a word at its head")
    return items


# -- hello and goodbye --------------------------------------------------------------------------------------------------


def encode_hello(cluster_id: int) -> bytes:
    """A client's first words; ``cluster_id`` 0 takes any cluster."""
    return encode_frame([int(Word.HELLO), CALL_NAME, CALL_VERSION, CALL_VERSION, cluster_id])


def decode_hello(items: list[Any]) -> int:
    """The cluster that a client wants. Raises FormatUnsupported where there is no common version."""
    _check(items, (int, str, int, int, int), "hello")
    _, name, lowest, highest, cluster_id = items
    if name != CALL_NAME or not 0 <= cluster_id < 2**64:
        raise PeerProtocolError("a hello of another protocol")
    if not lowest <= CALL_VERSION <= highest:
        raise FormatUnsupported(
            f"the client speaks versions {lowest} to {highest}, this node {CALL_VERSION}"
        )
    return int(cluster_id)


def encode_welcome(welcome: Welcome) -> bytes:
    return encode_frame(
        [
            int(Word.WELCOME),
            CALL_NAME,
            welcome.version,
            welcome.cluster_id,
            welcome.node,
            welcome.store_id,
            welcome.boot_count,
            welcome.format_version,
            welcome.frame_bytes_max,
            welcome.calls_max,
        ]
    )


def decode_welcome(items: list[Any]) -> Welcome:
    """What the node says of itself. Raises PeerProtocolError, or FormatUnsupported for a version that is not known here."""
    _check(items, (int, str, int, int, int, int, int, int, int, int), "welcome")
    _, name, version, cluster_id, node, store_id, boots, formats, bytes_max, calls_max = items
    if name != CALL_NAME:
        raise PeerProtocolError("a welcome of another protocol")
    if version != CALL_VERSION:
        raise FormatUnsupported(f"the node speaks version {version}, this client {CALL_VERSION}")
    if min(cluster_id, store_id, boots, formats) < 0 or node < 1 or calls_max < 1:
        raise PeerProtocolError("a welcome with a field out of its range")
    if not HELLO_BYTES_MAX <= bytes_max <= CALL_BYTES_MAX:
        raise PeerProtocolError(f"a welcome that takes frames of {bytes_max} bytes")
    return Welcome(
        version,
        ClusterId(cluster_id),
        NodeId(node),
        StoreId(store_id),
        boots,
        formats,
        bytes_max,
        calls_max,
    )


def encode_goodbye(taken: int, farewell: Farewell, reason: str) -> bytes:
    """The last words of a side; ``taken`` is the number of the last call that it took, and no later one was looked at."""
    return encode_frame([int(Word.GOODBYE), taken, int(farewell), reason[:REASON_CHARS_MAX]])


def decode_goodbye(items: list[Any]) -> tuple[int, Farewell, str]:
    """(last call taken, why, reason for people). Raises PeerProtocolError."""
    _check(items, (int, int, int, str), "goodbye")
    _, taken, code, reason = items
    try:
        farewell = Farewell(code)
    except ValueError as error:
        raise PeerProtocolError(f"a goodbye of a kind that is not known here: {code}") from error
    reason = reason[:REASON_CHARS_MAX]
    return taken, farewell, "".join(one if one.isprintable() else "?" for one in reason)


# -- calls and answers --------------------------------------------------------------------------------------------------


def encode_call(number: int, operation: int, left_ms: int, arguments: list[Any]) -> bytes:
    return encode_frame([int(Word.CALL), number, operation, left_ms, arguments])


def decode_call(items: list[Any]) -> tuple[int, int, int, list[Any]]:
    """(number, operation, milliseconds left, arguments). Raises PeerProtocolError."""
    _check(items, (int, int, int, int, list), "call")
    _, number, operation, left_ms, arguments = items
    if not 0 < number <= CALL_NUMBER_MAX or not 0 < left_ms <= LEFT_MS_MAX:
        raise PeerProtocolError("a call with a number or a time out of its range")
    return number, operation, left_ms, arguments


def encode_answer(number: int, value: Any) -> bytes:
    return encode_frame([int(Word.ANSWER), number, value])


def encode_refusal(number: int, refusal: bytes) -> bytes:
    return encode_frame([int(Word.REFUSAL), number, refusal])


def decode_answer(items: list[Any]) -> tuple[int, Any]:
    """(number, value) of an answer or (number, bytes) of a refusal. Raises PeerProtocolError."""
    if len(items) != 3 or type(items[1]) is not int:
        raise PeerProtocolError("an answer of a wrong shape")
    if items[0] == Word.REFUSAL and type(items[2]) is not bytes:
        raise PeerProtocolError("a refusal that is not bytes")
    return items[1], items[2]


def _check(items: list[Any], kinds: tuple[type, ...], what: str) -> None:
    if len(items) != len(kinds) or any(
        type(one) is not kind for one, kind in zip(items, kinds, strict=True)
    ):
        raise PeerProtocolError(f"a {what} of a wrong shape")


# -- many byte strings in one -------------------------------------------------------------------------------------------


def pack_many(items: Iterable[bytes | None]) -> bytes:
    """Byte strings, or None, one behind the other, each behind its length."""
    parts: list[bytes] = []
    for item in items:
        if item is None:
            parts.append(_LENGTH.pack(NOTHING))
        else:
            parts += (_LENGTH.pack(len(item)), item)
    return b"".join(parts)


def unpack_many(data: object) -> list[bytes | None]:
    """The byte strings again. Raises PeerProtocolError where the lengths do not add up."""
    if type(data) is not bytes:
        raise PeerProtocolError("a list of byte strings that is not packed")
    items: list[bytes | None] = []
    at, end = 0, len(data)
    while at < end:
        if end - at < _LENGTH.size:
            raise PeerProtocolError("a packed list that is cut short")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length == NOTHING:
            items.append(None)
            continue
        if length > end - at:
            raise PeerProtocolError("a packed list that is cut short")
        items.append(data[at : at + length])
        at += length
    return items


def unpack_whole(data: object) -> list[bytes]:
    """The same where None has no place."""
    items = unpack_many(data)
    if any(item is None for item in items):
        raise PeerProtocolError("nothing stands where a byte string must")
    return items  # type: ignore[return-value]
