from collections.abc import Callable, Iterable
from typing import final

from multiraft.errors import PeerProtocolError
from multiraft.ids import NodeId

@final
class Block:
    def __new__(cls, capacity: int) -> Block: ...

@final
class Span: ...

@final
class Receiver:
    frames_count: int
    dropped_count: int
    moved_bytes: int
    def __init__(
        self,
        on_frame: Callable[[NodeId, memoryview], None],
        on_control: Callable[[int, memoryview], None],
        on_fault: Callable[[PeerProtocolError, int], None],
        *,
        kinds: Iterable[int],
    ) -> None: ...
    @property
    def unfinished(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def feed(self, data: bytes | bytearray | memoryview) -> None: ...
    def expect(
        self,
        *,
        cluster_id: int,
        store_id: int,
        from_node: int,
        to_node: int,
        link_epoch: int,
        sequence: int,
    ) -> None: ...
    def open(self, kinds: Iterable[int]) -> None: ...
    def stop(self) -> None: ...
