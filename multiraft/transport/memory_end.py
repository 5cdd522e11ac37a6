"""One node's end of one link in memory: sealing, hello and checks, all by the code that TCP links use.

Never done here: queues, delivery, deciding who is joined with whom - that is ``memory.py``.
"""

from __future__ import annotations

from multiraft._core import FrameKind, seal_frame
from multiraft.errors import MultiRaftError, PeerProtocolError
from multiraft.ids import NodeId
from multiraft.interfaces import TransportEvents
from multiraft.transport.hello import (
    Greeting,
    Purpose,
    Step,
    check_greeting,
    decode_hello,
    encode_hello,
)
from multiraft.transport.receive import Receiver


class MemoryEnd:
    """Made for one try of one link; a link that breaks is tried again with new ends and higher epochs."""

    def __init__(self, own: NodeId, node: NodeId, events: TransportEvents, counter: int):
        self.standing = False
        self._own = own
        self._node = node
        self._events = events
        self._hello = events.hello()
        self._sequence = 0
        self._greeting: Greeting | None = None
        self._error: PeerProtocolError | None = None
        self.epoch = (self._hello.boot_count & 0xFFFFFFFF) << 32 | counter
        self._receiver = Receiver(
            events.frame, self._on_control, self._on_fault, kinds=(FrameKind.FRAME_HELLO,)
        )

    def introduce(self) -> bytes:
        """Our hello, sealed."""
        return self.seal(encode_hello(self._hello, Step.OFFER, Purpose.LINK))

    def greet(self, frame: bytes) -> MultiRaftError | None:
        """Judge the other side's hello; returns why it is refused."""
        self._receiver.feed(frame)
        greeting = self._greeting
        if greeting is None:
            return self._error or PeerProtocolError("no hello came")
        try:
            check_greeting(self._hello, greeting, dialled=self._node)
            self._events.admit(greeting.hello)
        except MultiRaftError as error:
            return error
        self._receiver.expect(
            cluster_id=greeting.hello.cluster_id,
            store_id=greeting.hello.store_id,
            from_node=self._node,
            to_node=self._own,
            link_epoch=greeting.link_epoch,
            sequence=greeting.sequence,
        )
        self._receiver.open((FrameKind.FRAME_MESSAGES,))
        return None

    def seal(self, frame: bytes) -> bytes:
        self._sequence += 1
        seal_frame(
            frame,
            cluster_id=self._hello.cluster_id,
            store_id=self._hello.store_id,
            from_node=self._own,
            to_node=self._node,
            link_epoch=self.epoch,
            sequence=self._sequence,
        )
        return frame

    def receive(self, frame: bytes) -> PeerProtocolError | None:
        """Take one frame; returns what is wrong with it."""
        self._receiver.feed(frame)
        return self._error

    def stop(self) -> None:
        self._receiver.stop()

    def _on_control(self, kind: int, view: memoryview) -> None:
        self._greeting = decode_hello(view)

    def _on_fault(self, error: PeerProtocolError, fault: int) -> None:
        self._error = error
