"""One connection between a client and a node: what both ends do alike. Frames in, frames out, an end with a reason.

``gateway`` (the node's end) and ``caller`` (the client's) say what the frames mean. Reading stops while ``_held`` says so, and
with it the other side: nothing is buffered here beyond what one read of the socket brought. No exception leaves for anything
that the other side sends: it costs that connection and nothing else.

Invariants: ``_ended`` is called once for each connection that was made, and no frame is taken afterwards; ``settled`` is set
when it stands or has ended, ``closed`` when its socket is gone.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from multiraft.errors import MultiRaftError, PeerProtocolError
from multiraft.transport.address import part_from, tune
from multiraft.transport.calls import CALL_BYTES_MAX, FrameReader, encode_goodbye
from multiraft.transport.hello import Farewell, farewell_for
from multiraft.transport.options import TransportOptions


class Conversation(asyncio.Protocol):
    """The half that both ends share."""

    def __init__(self, options: TransportOptions):
        self.options = options
        self.settled = asyncio.Event()
        self.closed = asyncio.Event()
        self.stood = False
        """Whether hello and welcome were exchanged."""
        self.over = False
        """Whether no frame is taken any more."""
        self.error: Exception | None = None
        """Why it ended; None for an end in peace."""
        self.taken = 0
        """The number of the last call that was taken from the other side."""
        self.writable = True
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._reading = False
        self._held_back = False
        self._said_goodbye = False
        self._lingering: asyncio.TimerHandle | None = None

    # -- what an end does in its own way ---------------------------------------------------------------------------------

    def _on_frame(self, items: list[Any], size: int) -> None:
        """One frame. Raise a MultiRaftError to end the connection with that reason."""
        raise NotImplementedError

    def _held(self) -> bool:
        """Must the other side wait?"""
        return False

    def _ended(self, error: Exception | None) -> None:
        """No more frames will come or go."""

    def _writable_again(self) -> None:
        """What waited to be written is on its way."""

    # -- what the loop calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self.over:
            self._transport.abort()
            return
        tune(self._transport.get_extra_info("socket"), self.options)

    def data_received(self, data: bytes) -> None:
        if not self.over:
            self._reader.feed(data)
            self._read()

    def abandoned(self) -> None:
        """See ``connection.Connection.abandoned``."""
        self.end(None)
        self.connection_lost(None)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._writable_again()
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self.finish(
            exc or ConnectionResetError("the other side closed the connection without a goodbye")
        )
        if self._lingering is not None:
            self._lingering.cancel()
        self._transport = None
        self.closed.set()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if self._reading:  # a frame was answered while it was taken
            return
        self._reading = True
        try:
            while not self.over and not self._hold():
                found = self._reader.next()
                if found is None:
                    return
                self._on_frame(*found)
        except MultiRaftError as error:
            self.leave(farewell_for(error), str(error), error)
        finally:
            self._reading = False

    def _hold(self) -> bool:
        """Stop reading where the other side must wait."""
        held = self._held()
        if held and not self._held_back and self._transport is not None:
            self._held_back = True
            if not self._transport.is_closing():
                self._transport.pause_reading()
        return held

    def _go_on(self) -> None:
        """Read again, if nothing holds the other side back any more."""
        if self._held_back and not self.over and not self._held():
            self._held_back = False
            self._read()
            if not self._held_back and self._transport is not None:
                if not self._transport.is_closing():
                    self._transport.resume_reading()

    def stand(self) -> None:
        """The hello is done: frames may be as large as calls are."""
        self.stood = True
        self._reader.bytes_max = CALL_BYTES_MAX
        self.settled.set()

    def certificate(self) -> Any:
        """The other side's certificate, as ``getpeercert`` gives it; None without TLS."""
        return None if self._transport is None else self._transport.get_extra_info("peercert")

    # -- writing and the end -------------------------------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def leave(self, farewell: Farewell, reason: str, error: Exception | None) -> None:
        """Say goodbye; the socket is closed once that is written, or after a moment in any case."""
        transport = self._transport
        if self.over:
            return
        if transport is None or transport.is_closing():
            self.end(error)
            return
        if not self._said_goodbye:
            self.say_goodbye(farewell, reason)
        if self._held_back:
            transport.resume_reading()
        self._lingering = part_from(transport, self.options.linger_s)
        self.finish(error)

    def say_goodbye(self, farewell: Farewell, reason: str) -> None:
        """Tell the other side why, and which of its calls was the last to be taken."""
        self._said_goodbye = True
        self.write(encode_goodbye(self.taken, farewell, reason))

    def end(self, error: Exception | None) -> None:
        """Be done with it at once: what waits to be written is lost. Idempotent."""
        self.finish(error)
        if self._transport is not None:
            self._transport.abort()

    def finish(self, error: Exception | None) -> None:
        if self.over:
            return
        self.over = True
        self.error = error
        self.settled.set()
        self._ended(error)

    def refuse_unsettled(self) -> None:
        """Frames that come before the hello is done have no place. Raises PeerProtocolError."""
        if not self.stood:
            raise PeerProtocolError("a call before the hello")
