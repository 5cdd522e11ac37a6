"""A client's end of a connection to a node: it dials, says hello, and sends calls whose answers come in any order.

A call that was not written yet can be made elsewhere: ``Unsent``. One that was written and whose connection broke may have
happened: ``LinkLost``. A node that closes says which call was the last that it took; later ones are ``Unsent``, too. A call
whose caller gave up the wait keeps its place until the answer comes, so that the node's bound on calls holds.

Never done here: choosing a node, or trying again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

from multiraft.config import TlsConfig
from multiraft.errors import (
    DeadlineExceeded,
    LinkLost,
    MultiRaftError,
    PeerProtocolError,
    Retryable,
    TooLarge,
)
from multiraft.transport.address import parse_address
from multiraft.transport.calls import (
    LEFT_MS_MAX,
    Welcome,
    Word,
    decode_answer,
    decode_goodbye,
    decode_welcome,
    encode_call,
    encode_hello,
)
from multiraft.transport.conversation import Conversation
from multiraft.transport.hello import Farewell, error_for
from multiraft.transport.options import TransportOptions
from multiraft.transport.tls import check_certificate, client_context

TELL_MS = 10_000


class Unsent(Retryable):
    """The call did not leave, or was not taken: nothing happened, and another node may be asked."""


class CallerConnection(Conversation):
    """One connection to one node. ``decode`` makes an exception of a refusal's bytes, or raises PeerProtocolError."""

    def __init__(
        self,
        options: TransportOptions,
        decode: Callable[[bytes], MultiRaftError],
        *,
        cluster_id: int,
        secure: bool,
    ):
        super().__init__(options)
        self.welcome: Welcome
        self._decode = decode
        self._cluster_id = cluster_id
        self._secure = secure
        self._numbers = 0
        self._heard = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._queue: deque[asyncio.Future[None]] = deque()
        self._leaving: Exception | None = None
        """Why the node takes no more calls."""

    @property
    def usable(self) -> bool:
        """Can another call be sent?"""
        return self.stood and not self.over and self._leaving is None

    # -- calls ---------------------------------------------------------------------------------------------------------

    async def call(self, operation: int, arguments: list[Any], deadline: float) -> Any:
        """Send one call and wait for its answer until ``deadline`` by the loop's clock.

        Raises what the node answered; Unsent, LinkLost, DeadlineExceeded, or TooLarge.
        """
        loop = asyncio.get_running_loop()
        while not self._room():
            await self._place(deadline)
        try:
            frame = self._encode(operation, arguments, deadline - loop.time())
        except MultiRaftError:
            self._next()  # the room that was found is for somebody else
            raise
        self._numbers += 1
        waiting = self._waiting[self._numbers] = loop.create_future()
        self.write(frame)
        timer = loop.call_at(deadline, self._time_is_up, waiting, self._heard)
        try:
            return await waiting
        finally:
            timer.cancel()

    def tell(self, operation: int, arguments: list[Any]) -> None:
        """Send a call whose answer nobody waits for, whatever is on its way already; nothing where it cannot be sent."""
        if not self.usable:
            return
        self._numbers += 1
        waiting = self._waiting[self._numbers] = asyncio.get_running_loop().create_future()
        waiting.cancel()
        self.write(encode_call(self._numbers, operation, TELL_MS, arguments))

    def _encode(self, operation: int, arguments: list[Any], left_s: float) -> bytes:
        """The next call as a frame. Raises DeadlineExceeded or TooLarge."""
        left_ms = min(round(left_s * 1000), LEFT_MS_MAX)
        if left_ms < 1:
            raise DeadlineExceeded("the time was up before the call could be sent")
        frame = encode_call(self._numbers + 1, operation, left_ms, arguments)
        if len(frame) > self.welcome.frame_bytes_max:
            raise TooLarge(
                f"a call of {len(frame)} bytes; node {self.welcome.node} takes {self.welcome.frame_bytes_max}"
            )
        return frame

    def _time_is_up(self, waiting: asyncio.Future[Any], heard: int) -> None:
        """End a wait. A node that said nothing at all meanwhile gets no more calls from here."""
        if waiting.done():
            return
        waiting.set_exception(DeadlineExceeded("the time was up while a node had the call"))
        if self._heard == heard and self._leaving is None:
            self._leaving = Unsent("the node was silent until a call's time was up")
            self._release_queue()

    def _room(self) -> bool:
        if not self.usable:
            raise Unsent(f"the connection is gone: {self._leaving or self.error}")
        return self.writable and len(self._waiting) < self.welcome.calls_max

    async def _place(self, deadline: float) -> None:
        """Wait until there may be room, behind those who wait already."""
        waiting = asyncio.get_running_loop().create_future()
        self._queue.append(waiting)
        try:
            async with asyncio.timeout_at(deadline):
                await waiting
        except BaseException as error:
            if waiting.cancelled():
                with contextlib.suppress(ValueError):  # ``_next`` has passed over it already
                    self._queue.remove(waiting)
            else:
                self._next()  # its turn had come, and is for somebody else
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("the time was up before the call could be sent") from error
            raise

    def _next(self) -> None:
        """Let whoever waits for room look again."""
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return

    # -- what the node says ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.write(encode_hello(self._cluster_id))

    def _on_frame(self, items: list[Any], size: int) -> None:
        word = items[0]
        self._heard += 1
        if word == Word.WELCOME and not self.stood:
            self._welcomed(decode_welcome(items))
        elif word in (Word.ANSWER, Word.REFUSAL):
            self.refuse_unsettled()
            self._answered(word, *decode_answer(items))
        elif word == Word.GOODBYE:
            taken, farewell, reason = decode_goodbye(items)
            self._dismissed(taken, farewell, reason)
        else:
            raise PeerProtocolError(f"a frame of kind {word} has no place here")

    def _welcomed(self, welcome: Welcome) -> None:
        if self._secure:
            check_certificate(self.certificate(), welcome.node)
        self.welcome = welcome
        self.stand()

    def _answered(self, word: int, number: int, value: Any) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            raise PeerProtocolError(f"an answer to call {number}, which does not wait for one")
        if word == Word.REFUSAL:
            try:
                refusal = self._decode(value)
            except PeerProtocolError:
                self._waiting[number] = waiting  # it may have happened: it ends with the connection
                raise
            if not waiting.done():
                waiting.set_exception(refusal)
        elif not waiting.done():
            waiting.set_result(value)
        self._next()
        if self._leaving is not None and not self._waiting:
            self.end(self._leaving)

    def _dismissed(self, taken: int, farewell: Farewell, reason: str) -> None:
        """The node takes no more calls. Those that it took are still answered, if it closes in peace."""
        error = error_for(farewell, reason)
        self._leaving = error or Unsent(f"the node said goodbye: {reason}")
        for number in [one for one in self._waiting if one > taken]:
            waiting = self._waiting.pop(number)
            if not waiting.done():
                waiting.set_exception(Unsent(f"the node did not take the call: {reason}"))
        self._release_queue()
        if error is not None or not self._waiting:
            self.end(self._leaving)

    def _writable_again(self) -> None:
        self._next()

    def _ended(self, error: Exception | None) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(
                    LinkLost(f"the connection to the node broke before its answer came: {error}")
                )
        self._waiting.clear()
        self._release_queue()

    def _release_queue(self) -> None:
        while self._queue:
            self._next()


class Dialler:
    """Makes connections to nodes, under one set of TLS settings. It keeps none."""

    def __init__(
        self,
        decode: Callable[[bytes], MultiRaftError],
        *,
        tls: TlsConfig | None = None,
        options: TransportOptions | None = None,
    ):
        self._decode = decode
        self._options = options or TransportOptions()
        self._secure: ssl.SSLContext | None = None
        if tls is not None:
            self._secure = client_context(tls)
            # The name to expect is the node's, which only its welcome tells: it is compared then.
            self._secure.check_hostname = False

    async def dial(self, address: str, cluster_id: int) -> CallerConnection:
        """A connection that stands. Raises OSError for what the network does, a MultiRaftError for what the node says."""
        loop = asyncio.get_running_loop()
        host, port = parse_address(address)
        connection = CallerConnection(
            self._options, self._decode, cluster_id=cluster_id, secure=self._secure is not None
        )
        try:
            async with asyncio.timeout(self._options.hello_timeout_s):
                await loop.create_connection(
                    lambda: connection, host, port, ssl=self._secure, server_hostname=None
                )
                await connection.settled.wait()
        except BaseException:
            connection.end(None)
            raise
        if not connection.usable:
            error = connection.error
            if isinstance(error, MultiRaftError | OSError):
                raise error
            raise ConnectionError(f"the node at {address} ended the connection: {error}")
        return connection
