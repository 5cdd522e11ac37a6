"""The Python doors of the wire; what they do stands in ``_frames.pyx``, the layouts in ``docs/formats.md``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from multiraft._core import FrameKind, MessageKind

_Buffer = bytes | bytearray | memoryview

class Message(NamedTuple):
    kind: MessageKind
    flags: int
    group: int
    from_replica: int
    to_replica: int
    term: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    log_term: int
    commit: int
    hint: int
    context: int
    body: bytes

class Frame(NamedTuple):
    kind: FrameKind
    cluster_id: int
    store_id: int
    from_node: int
    to_node: int
    link_epoch: int
    sequence: int
    messages: tuple[Message, ...]
    body: bytes

def encode_message(
    *,
    kind: int,
    flags: int = 0,
    group: int = 0,
    from_replica: int = 0,
    to_replica: int = 0,
    term: int = 0,
    index: int = 0,
    log_term: int = 0,
    commit: int = 0,
    hint: int = 0,
    context: int = 0,
    body: _Buffer = b"",
) -> bytes: ...
def encode_frame(
    parts: Iterable[_Buffer],
    *,
    kind: int = 1,
    cluster_id: int = 0,
    store_id: int = 0,
    from_node: int = 0,
    to_node: int = 0,
    link_epoch: int = 0,
    sequence: int = 0,
    sealed: bool = True,
) -> bytes: ...
def decode_frame(data: _Buffer, length_max: int = 33554432) -> Frame: ...
