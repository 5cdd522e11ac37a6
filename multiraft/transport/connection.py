"""One TCP connection to another node, from its first hello to its end.

Either side may have dialled it; both run the same three steps (``hello.py``), after which it *stands*: frames go both ways
until one side says goodbye, breaks a rule, or is gone. What a connection is used for, and whether it may stand beside
others, its ``Host`` decides; whether the other node is welcome, ``TransportEvents.admit``.

Never done here: dialling, waiting, trying again. No exception leaves for anything that the other side sends.

Invariants: ``Host.ended`` is called once for each connection that was made, and nothing is taken from or written to it
afterwards; ``settled`` is set when it stands or has ended, ``closed`` when its socket is gone too; frames are sealed under
the identity that our hello on this connection had, with sequences from 1 without gaps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from multiraft._core import FRAME_BYTES_MAX, Fault, FrameKind, seal_frame
from multiraft.errors import (
    InvariantViolation,
    LinkLost,
    MultiRaftError,
    PeerProtocolError,
    WrongCluster,
    WrongStore,
)
from multiraft.ids import NodeId
from multiraft.interfaces import Hello, TransportEvents
from multiraft.transport.address import part_from, tune
from multiraft.transport.hello import (
    Farewell,
    Greeting,
    Purpose,
    Stage,
    Step,
    check_greeting,
    cluster_of,
    decode_goodbye,
    decode_hello,
    encode_goodbye,
    encode_hello,
    error_for,
    farewell_for,
)
from multiraft.transport.options import TransportOptions
from multiraft.transport.patience import Patience
from multiraft.transport.receive import Receiver
from multiraft.transport.tls import check_certificate

_HELLO_KINDS = (FrameKind.FRAME_HELLO, FrameKind.FRAME_GOODBYE)
_KINDS = {
    Purpose.LINK: (FrameKind.FRAME_MESSAGES, FrameKind.FRAME_GOODBYE),
    Purpose.BULK: (FrameKind.FRAME_BULK, FrameKind.FRAME_GOODBYE),
}


class Host:
    """What all connections of one transport share, and who decides about them.

    ``greeted`` raises to refuse a greeting that is sound in itself. ``refused`` is told why a connection came to nothing
    where one of the two sides said so; ``stood`` and ``ended`` are told once each.
    """

    __slots__ = (
        "_epochs",
        "connections",
        "ended",
        "events",
        "greeted",
        "node",
        "options",
        "refused",
        "secure",
        "stood",
    )

    def __init__(
        self,
        node: NodeId,
        events: TransportEvents,
        options: TransportOptions,
        *,
        secure: bool,
        greeted: Callable[[Connection], None],
        refused: Callable[[Connection, MultiRaftError], None],
        stood: Callable[[Connection], None],
        ended: Callable[[Connection, Exception | None], None],
    ):
        self.node = node
        self.events = events
        self.options = options
        self.secure = secure
        self.greeted = greeted
        self.refused = refused
        self.stood = stood
        self.ended = ended
        self.connections: set[Connection] = set()
        self._epochs = 0

    def next_epoch(self, boot_count: int) -> int:
        """Rises with every connection of this transport, and over restarts with the boot count."""
        self._epochs += 1
        return (boot_count & 0xFFFFFFFF) << 32 | self._epochs


class Connection(asyncio.BufferedProtocol):
    """One connection. ``peer`` and what follows from it are known from the stage OFFERED or ANSWERED on."""

    def __init__(self, host: Host, *, dialled: NodeId | None, purpose: Purpose = Purpose.LINK):
        self.dialled = dialled
        self.node = dialled
        """The node at the other end, or the one that we dialled and hope for."""
        self.purpose = purpose
        self.stage = Stage.CONNECTING
        self.error: Exception | None = None
        """Why it ended; None for a goodbye in peace."""
        self.peer: Greeting | None = None
        self.link_epoch = 0
        self.stood = False
        """Whether it stands or ever stood."""
        self.on_bulk: Callable[[memoryview], None] | None = None
        """Takes frames of kind bulk; set by whoever is told that a bulk connection stands."""
        self.settled = asyncio.Event()
        self.closed = asyncio.Event()
        self.writable = asyncio.Event()
        """Clear while more waits to be written than the transport's high-water mark."""
        self.writable.set()
        self._host = host
        self._own: Hello | None = None
        self._sequence = 0
        self._overdrawn = False
        """Whether calls use the room that is theirs alone."""
        self._transport: asyncio.Transport | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._receiver = Receiver(
            host.events.frame, self._on_control, self._on_fault, kinds=_HELLO_KINDS
        )
        self._patience = Patience(
            host.options.frame_timeout_s, lambda: self._receiver.unfinished, self._lose_patience
        )
        # Bound compiled methods on the instance: the loop calls them without a Python frame in between.
        self.get_buffer = self._receiver.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = self._receiver.buffer_updated  # type: ignore[method-assign]

    @property
    def wanted(self) -> NodeId | None:
        """The node that this connection is about: the one we dialled, whoever answered, else the one that dialled us."""
        return self.dialled if self.dialled is not None else self.node

    @property
    def queued_bytes(self) -> int:
        """What waits to be written."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def is_newer(self, other: Connection) -> bool:
        """Whether the other node made this connection after ``other``, or has become another store since."""
        if self.peer is None or other.peer is None:
            raise InvariantViolation("connections were compared before their hellos")
        if self.peer.hello.store_id != other.peer.hello.store_id:
            return True
        return self.peer.link_epoch > other.peer.link_epoch

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._host.connections.add(self)
        if self.stage is Stage.ENDED:  # given up while it was being made
            self._transport.abort()
            return
        tune(self._transport.get_extra_info("socket"), self._host.options)
        if self.dialled is None:
            self.stage = Stage.EXPECTING
            return
        self.stage = Stage.OFFERED
        self._introduce(Step.OFFER)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.connections.discard(self)
        self.end(
            exc or ConnectionResetError("the other side closed the connection without a goodbye")
        )
        if self._lingering is not None:
            self._lingering.cancel()
        self._transport = None
        self.closed.set()

    def abandoned(self) -> None:
        """The attempt that made it was cancelled. uvloop then closes the socket without telling the protocol of it, even
        when it had told of the connection; other loops do tell, and a second word changes nothing.
        """
        self.end(None)
        self.connection_lost(None)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, frame: bytes, calls: bool = False) -> bool:
        """Seal and write a frame of messages. False: no room, and nothing was written. On the path of a put."""
        transport = self._transport
        if self.stage is not Stage.STANDING or transport is None or transport.is_closing():
            return False
        size = len(frame)
        if size > FRAME_BYTES_MAX:
            raise InvariantViolation(f"a frame of {size} bytes, which would cost the link")
        queued = transport.get_write_buffer_size()
        if queued and size > self._host.options.queue_bytes_max - queued:
            if not self._fits_beyond(size, queued, calls):
                return False
        else:
            self._overdrawn = False
        self.write(frame)
        return True

    def _fits_beyond(self, size: int, queued: int, calls: bool) -> bool:
        """May a frame leave though the queue is full? Calls have room of their own, and small frames some behind it."""
        options = self._host.options
        room = options.queue_bytes_max - queued
        if calls and size <= room + options.queue_calls_bytes:
            self._overdrawn = True
            return True
        if self._overdrawn:
            room += options.queue_calls_bytes
        return size <= options.small_frame_bytes and size <= room + options.queue_reserve_bytes

    def write(self, frame: bytes) -> None:
        """Seal and write a frame of any kind, whatever waits already."""
        transport, own, node = self._transport, self._own or self._identity(), self.node
        if transport is None or node is None:
            raise InvariantViolation("a frame was written to a connection that was not made")
        self._sequence += 1
        seal_frame(
            frame,
            cluster_id=own.cluster_id,
            store_id=own.store_id,
            from_node=own.node,
            to_node=node,
            link_epoch=self.link_epoch,
            sequence=self._sequence,
        )
        transport.write(frame)

    def pause_reading(self) -> None:
        """Let the other side wait: what arrived has not been worked off."""
        if self._transport is not None and not self._transport.is_closing():
            self._patience.hold(True)
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._patience.hold(False)
            self._transport.resume_reading()

    def _identity(self) -> Hello:
        """Our own hello, the same for the whole connection; with it the connection gets its epoch."""
        if self._own is None:
            self._own = self._host.events.hello()
            self.link_epoch = self._host.next_epoch(self._own.boot_count)
        return self._own

    def _introduce(self, step: Step) -> None:
        self.write(encode_hello(self._identity(), step, self.purpose))

    # -- the hello -----------------------------------------------------------------------------------------------------

    def _on_control(self, kind: int, frame: memoryview) -> None:
        if kind == FrameKind.FRAME_BULK and self.on_bulk is not None:
            self.on_bulk(frame)
        elif kind == FrameKind.FRAME_GOODBYE:
            self._on_goodbye(frame)
        elif kind == FrameKind.FRAME_HELLO:
            self._on_hello(decode_hello(frame))
        else:
            raise PeerProtocolError(f"a frame of kind {kind} has no place here")

    def _on_hello(self, greeting: Greeting) -> None:
        wanted = {
            Stage.OFFERED: Step.ANSWER,
            Stage.EXPECTING: Step.OFFER,
            Stage.ANSWERED: Step.CONFIRM,
        }.get(self.stage)
        if greeting.step is not wanted:
            raise PeerProtocolError(f"a hello of step {greeting.step.name}, not {wanted}")
        if self.stage is Stage.ANSWERED:
            if self.peer is None or greeting.hello != self.peer.hello:
                raise PeerProtocolError("a confirmation that differs from its offer")
            self._stand()
            return
        if self.dialled is None:
            self.purpose = greeting.purpose
        elif greeting.purpose is not self.purpose:
            raise PeerProtocolError("an answer for another purpose than the offer's")
        self.peer = greeting
        self.node = greeting.hello.node
        try:
            self._judge(greeting)
        except MultiRaftError as error:
            self.refuse(error)
            return
        self._receiver.expect(
            cluster_id=greeting.hello.cluster_id,
            store_id=greeting.hello.store_id,
            from_node=greeting.hello.node,
            to_node=self._host.node,
            link_epoch=greeting.link_epoch,
            sequence=greeting.sequence,
        )
        if self.stage is Stage.OFFERED:
            self._introduce(Step.CONFIRM)
            self._stand()
        else:
            self.stage = Stage.ANSWERED
            self._introduce(Step.ANSWER)

    def _judge(self, greeting: Greeting) -> None:
        """Raise why the other side is refused: first what all nodes demand, then the node, then the host."""
        check_greeting(self._identity(), greeting, dialled=self.dialled)
        if self._host.secure and self._transport is not None:
            check_certificate(self._transport.get_extra_info("peercert"), greeting.hello.node)
        self._host.events.admit(greeting.hello)
        self._host.greeted(self)

    def _stand(self) -> None:
        self.stage = Stage.STANDING
        self.stood = True
        self._receiver.open(_KINDS[self.purpose])
        self._patience.begin()
        self.settled.set()
        self._host.stood(self)

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, error: Exception | None) -> None:
        """Be done with it at once: what waits to be written is lost. Idempotent."""
        self._finish(error)
        if self._transport is not None:
            self._transport.abort()

    def refuse(self, error: MultiRaftError) -> None:
        """Say why the other side is not welcome, there and here, and part."""
        self.leave(farewell_for(error), str(error), error)
        self._host.refused(self, error)

    def leave(self, farewell: Farewell, reason: str, error: Exception | None) -> None:
        """Say goodbye; the socket is closed once that is written, or after a moment in any case."""
        transport = self._transport
        if self.stage is Stage.ENDED:
            return
        if transport is None or transport.is_closing() or self.node is None:
            self.end(error)
            return
        self.write(encode_goodbye(farewell, reason))
        self._finish(error)
        self._lingering = part_from(transport, self._host.options.linger_s)

    def _finish(self, error: Exception | None) -> None:
        if self.stage is Stage.ENDED:
            return
        self.stage = Stage.ENDED
        self.error = error
        self._receiver.stop()
        self._patience.end()
        self.on_bulk = None
        self.settled.set()
        self.writable.set()
        self._host.ended(self, error)

    def _on_goodbye(self, frame: memoryview) -> None:
        farewell, reason = decode_goodbye(frame)
        error = error_for(farewell, reason)
        if isinstance(error, WrongCluster | WrongStore) and self.dialled is not None:
            error.said_by = cluster_of(frame)
        stood = self.stage is Stage.STANDING
        self.end(error)
        if error is not None and not stood:
            self._host.refused(self, error)

    def _lose_patience(self) -> None:
        seconds = self._host.options.frame_timeout_s
        self.end(LinkLost(f"a frame was begun and not finished within {seconds:g} s"))

    def _on_fault(self, error: PeerProtocolError, fault: int) -> None:
        stood = self.stage is Stage.STANDING
        if fault == Fault.FAULT_MAGIC and not stood:  # a stranger that does not speak our language
            self.end(error)
        else:
            self.leave(Farewell.PROTOCOL, str(error), error)
        if not stood:
            self._host.refused(self, error)
