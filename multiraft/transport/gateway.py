"""The client port of a node: programs that use the cluster from outside, each on one connection with many calls on its way.

Calls are handed to whoever ``opened`` put on the connection, in the order of their numbers; answers leave as they come. What
is bounded: connections, strangers, the size of a frame and the time that it may take to come, calls and bytes on their way per
connection (beyond, reading stops), answers that the other side does not read (beyond, the connection ends), and both of all
connections together (``ledger``). Listening where other machines can reach us needs
TLS, or ``insecure``: whoever gets in can read and change everything.

Never done here: knowing what a call means. A connection that breaks the rules ends; nothing else notices.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from multiraft.config import TlsConfig
from multiraft.errors import Closed, Overloaded, PeerProtocolError, WrongCluster
from multiraft.interfaces import Hello
from multiraft.transport.calls import (
    CALL_BYTES_MAX,
    CALL_VERSION,
    Welcome,
    Word,
    decode_call,
    decode_goodbye,
    decode_hello,
    encode_answer,
    encode_refusal,
    encode_welcome,
)
from multiraft.transport.conversation import Conversation
from multiraft.transport.hello import Farewell
from multiraft.transport.ledger import Ledger
from multiraft.transport.options import TransportOptions
from multiraft.transport.server import Listener
from multiraft.transport.sparing import Sparing
from multiraft.transport.tasks import Tasks
from multiraft.transport.tls import server_context

logger = logging.getLogger("multiraft.transport")

OnCall = Callable[[int, int, int, list[Any]], None]
"""(number, operation, milliseconds left, arguments). Raises PeerProtocolError for a call that is none."""


class GatewayConnection(Conversation):
    """One client. ``on_call`` and ``on_gone`` are set by whoever is told that it stands."""

    def __init__(self, gateway: Gateway):
        super().__init__(gateway.options)
        self.on_call: OnCall | None = None
        self.on_gone: Callable[[], None] | None = None
        self._gateway = gateway
        self._calls: dict[int, int] = {}
        """Number -> bytes of each call that has not been answered."""
        self._calls_bytes = 0
        self._leaving = False
        self._frames = 0
        """Frames that have come whole."""
        self._begun = (0, 0.0)
        """After so many frames the next one was seen to have begun, and when."""

    @property
    def calls_count(self) -> int:
        return len(self._calls)

    def _held(self) -> bool:
        options = self.options
        return (
            self._leaving
            or not self.writable
            or not self._gateway.ledger.may_read(self)
            or len(self._calls) >= options.calls_max
            or self._calls_bytes >= options.calls_bytes_max
        )

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._account()

    def _go_on(self) -> None:
        super()._go_on()
        self._account()

    def _account(self) -> None:
        if self.stood and not self.over:
            self._gateway.ledger.calls(self, self._calls_bytes + len(self._reader))

    def _on_frame(self, items: list[Any], size: int) -> None:
        self._frames += 1
        if items[0] == Word.HELLO and not self.stood:
            self._gateway.greeted(self, decode_hello(items))
        elif items[0] == Word.CALL:
            self.refuse_unsettled()
            number, operation, left_ms, arguments = decode_call(items)
            if number <= self.taken or self.on_call is None:
                raise PeerProtocolError("numbers of calls ascend")
            self.taken = number
            self._calls[number] = size
            self._calls_bytes += size
            self._gateway.ledger.took()
            self.on_call(number, operation, left_ms, arguments)
        elif items[0] == Word.GOODBYE:
            decode_goodbye(items)
            self.end(None)
        else:
            raise PeerProtocolError(f"a frame of kind {items[0]} has no place here")

    def answer(self, number: int, value: Any) -> None:
        """What came of a call. Raises TooLarge where it does not fit into a frame; then it still has no answer."""
        self._settle(number, encode_answer(number, value))

    def refuse(self, number: int, refusal: bytes) -> None:
        """Why it did not happen, or is not known to have."""
        self._settle(number, encode_refusal(number, refusal))

    def _settle(self, number: int, frame: bytes) -> None:
        size = self._calls.pop(number, None)
        if size is None or self.over:
            return
        self._gateway.ledger.unanswered -= 1
        self._calls_bytes -= size
        waiting = self.unread_bytes()
        if waiting > self.options.answers_bytes_max:
            self.end(Overloaded(f"the client left {waiting} bytes of answers unread"))
            return
        self.write(frame)
        self._gateway.ledger.answers(self, self.unread_bytes())
        if self._leaving and not self._calls:
            self._gateway.check_idle()
        self._go_on()

    def unread_bytes(self) -> int:
        """What it was sent and has not read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def shed(self, reason: str) -> None:
        """End it: it is the one that has to go."""
        self.end(Overloaded(reason))

    def hold(self) -> None:
        """Read nothing more, if something says so."""
        if not self.over:
            self._hold()

    def go_on(self) -> None:
        """Read again, if nothing else says otherwise."""
        self._go_on()

    def sweep(self, now: float, patience_s: float) -> None:
        """Now and then: end it where it has begun a frame and does not finish it. Time in which it is not read does not count."""
        frames, since = self._begun
        if not len(self._reader) or self._held_back or frames != self._frames:
            self._begun = self._frames, now
        elif now - since >= patience_s:
            error = PeerProtocolError(f"a frame was begun and not finished for {patience_s} s")
            self.leave(Farewell.PROTOCOL, str(error), error)

    def dismiss(self, reason: str) -> None:
        """Take no more calls and tell the client which was the last; those that were taken are still answered."""
        if not self._leaving and self.stood and not self.over:
            self._leaving = True
            self.say_goodbye(Farewell.CLOSING, reason)
            self._hold()

    def _ended(self, error: Exception | None) -> None:
        self._gateway.ledger.unanswered -= len(self._calls)
        self._calls.clear()
        self._gateway.ledger.forget(self)
        self._gateway.ended(self, error)
        if self.on_gone is not None:
            self.on_gone()


class Gateway:
    """The door for clients. ``hello`` says who we are, asked anew for each; ``opened`` is told of each that stands."""

    def __init__(
        self,
        hello: Callable[[], Hello],
        opened: Callable[[GatewayConnection], None],
        *,
        tls: TlsConfig | None = None,
        insecure: bool = False,
        options: TransportOptions | None = None,
    ):
        self.options = options or TransportOptions()
        self.connections: set[GatewayConnection] = set()
        self._hello = hello
        self._opened = opened
        self._tasks = Tasks()
        self._closing = False
        self._complaints = Sparing(logger)
        self._sweeping: asyncio.TimerHandle | None = None
        loop = asyncio.get_running_loop()
        self.ledger = Ledger(
            self.options.clients_bytes_max,
            self._hold_all,
            lambda: loop.call_soon(self._let_go_on),  # not from inside whoever freed some
        )
        self.address = ""
        self._idle = asyncio.Event()
        self._listener = Listener(
            lambda: GatewayConnection(self),
            self._tasks,
            self.options,
            server_context(tls) if tls is not None else None,
            insecure=insecure,
        )

    async def listen(self, address: str) -> None:
        """Accept clients at ``host:port``; ``address`` is where, with the port that was bound. Raises ConfigError, OSError."""
        self.address = await self._listener.listen(address)

    def greeted(self, connection: GatewayConnection, cluster_id: int) -> None:
        """Welcome a client whose hello is sound, or raise why not."""
        if self._closing:
            raise Closed("the node closes")
        if len(self.connections) >= self.options.clients_max:
            raise Overloaded(f"{self.options.clients_max} clients are here already")
        hello = self._hello()
        if cluster_id and hello.cluster_id and cluster_id != hello.cluster_id:
            raise WrongCluster(
                f"the client wants cluster {cluster_id:x}, node {hello.node} belongs to {hello.cluster_id:x}"
            )
        self.connections.add(connection)
        connection.write(
            encode_welcome(
                Welcome(
                    CALL_VERSION,
                    hello.cluster_id,
                    hello.node,
                    hello.store_id,
                    hello.boot_count,
                    hello.format_max,
                    CALL_BYTES_MAX,
                    self.options.calls_max,
                )
            )
        )
        connection.stand()
        self._opened(connection)
        if self._sweeping is None:
            self._sweep()

    def ended(self, connection: GatewayConnection, error: Exception | None) -> None:
        self.connections.discard(connection)
        if error is not None and not isinstance(error, OSError | Closed):
            if connection.stood:
                self._complaints.log(logging.WARNING, "a client's connection ended: %s", error)
            else:
                logger.debug("a stranger's connection ended: %s", error)
        self.check_idle()

    def _hold_all(self) -> None:
        for connection in tuple(self.connections):
            connection.hold()

    def _let_go_on(self) -> None:
        for connection in tuple(self.connections):
            connection.go_on()

    def _sweep(self) -> None:
        """Look for connections that hold what they do not use, while there are any."""
        loop, patience_s = asyncio.get_running_loop(), self.options.client_stall_s
        self._sweeping = None
        self.ledger.sweep(loop.time(), patience_s)
        for connection in tuple(self.connections):
            connection.sweep(loop.time(), patience_s)
        if self.connections:
            self._sweeping = loop.call_later(patience_s / 4, self._sweep)

    def check_idle(self) -> None:
        if not any(connection.calls_count for connection in self.connections):
            self._idle.set()

    def dismiss(self) -> None:
        """Take no more clients and no more calls, and tell everybody; what was taken is still answered. Idempotent."""
        self._closing = True
        self._listener.close()
        for connection in tuple(self.connections):
            connection.dismiss("the node closes")

    async def drain(self, timeout_s: float) -> None:
        """Take nothing more, and wait until what was taken is answered, for so long at most."""
        self.dismiss()
        self._idle.clear()
        self.check_idle()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            logger.warning("clients still wait for answers; their outcomes will not be known")

    async def close(self) -> None:
        """End every connection, with what was written to it and what is answered in a moment. Idempotent."""
        await self.drain(self.options.linger_s)
        ending = tuple(self.connections)
        for connection in ending:
            connection.leave(Farewell.CLOSING, "the node closes", Closed("the node was closed"))
        await self._tasks.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in ending:  # each ends by itself: after its last words, or a moment
            await connection.closed.wait()
