"""The listener: it binds, accepts, and gives each stranger a few seconds to say who it is.

It accepts by itself rather than through ``create_server``, so that the strangers are counted from the accept on, TLS
handshakes included. Past ``strangers_max`` of them the oldest one goes: sixty-four silent connections cannot keep a node
out for longer than its own hello takes. Listening where other machines can reach us needs TLS, or ``insecure``.

Never done here: deciding who is welcome. An address in use is the OSError of ``bind``, with the address.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from multiraft.errors import ConfigError, PeerProtocolError
from multiraft.transport.address import format_address, is_loopback, parse_address, resolve
from multiraft.transport.connection import Connection
from multiraft.transport.options import TransportOptions
from multiraft.transport.sparing import Sparing
from multiraft.transport.tasks import Tasks

if TYPE_CHECKING:
    from multiraft.transport.conversation import Conversation

logger = logging.getLogger("multiraft.transport")

_BACKLOG = 128
_PAUSE_S = 0.2
"""Before accepting again when the process has run out of descriptors or memory."""


class Listener:
    """The listening sockets of a node, and the connections that came through them but are not settled yet.

    ``connection`` makes one for each: to another node, or to a client.
    """

    def __init__(
        self,
        connection: Callable[[], Connection | Conversation],
        tasks: Tasks,
        options: TransportOptions,
        secure: ssl.SSLContext | None,
        *,
        insecure: bool,
    ):
        self._connection = connection
        self._tasks = tasks
        self._options = options
        self._secure = secure
        self._insecure = insecure
        self._sockets: list[socket.socket] = []
        self._pauses: list[asyncio.TimerHandle] = []
        self._complaints = Sparing(logger)
        self._strangers: dict[asyncio.Task[None], None] = {}  # in the order of their coming
        self._unclaimed: dict[
            asyncio.Task[None], socket.socket
        ] = {}  # of tasks that have not begun

    @property
    def strangers_count(self) -> int:
        return len(self._strangers)

    async def listen(self, address: str) -> str:
        """Listen at ``host:port`` and return the address with the port that was bound (0 asks for any free one)."""
        host, port = parse_address(address)
        found = await resolve(host, port)
        if self._secure is None and not self._insecure:
            for _, (numeric, _) in found:
                if not is_loopback(numeric):
                    raise ConfigError(
                        f"listening at {address!r} ({numeric}) lets other machines in: give tls=TlsConfig(...), "
                        f"or insecure=True where the network is trusted"
                    )
        if port == 0:
            found = found[:1]  # two sockets would get two ports
        sockets = _bind_all(found)
        self._sockets += sockets
        for sock in sockets:
            self._accept_from(sock)
        return format_address(host, sockets[0].getsockname()[1])

    def close(self) -> None:
        """Accept no more. Strangers end with the transport's tasks. Idempotent."""
        loop = asyncio.get_running_loop()
        for pause in self._pauses:
            pause.cancel()
        for sock in self._sockets:
            loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()

    def _accept_from(self, listening: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listening, self._on_readable, listening)

    def _on_readable(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_BACKLOG):
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._complaints.log(logging.ERROR, "no connection can be accepted: %s", error)
                loop.remove_reader(listening)
                self._pauses = [pause for pause in self._pauses if pause.when() > loop.time()]
                self._pauses.append(loop.call_later(_PAUSE_S, self._accept_from, listening))
                return
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        """One more stranger, at the cost of the oldest where there are too many."""
        sock.setblocking(False)
        if len(self._strangers) >= self._options.strangers_max:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cancel()
        task = self._tasks.start(self._welcome(sock), "welcome of an accepted connection")
        self._strangers[task] = None
        self._unclaimed[task] = sock
        task.add_done_callback(self._on_settled)

    def _on_settled(self, task: asyncio.Task[None]) -> None:
        self._strangers.pop(task, None)
        sock = self._unclaimed.pop(task, None)
        if sock is not None:  # cancelled before its first step
            sock.close()

    async def _welcome(self, sock: socket.socket) -> None:
        """See one accepted connection through TLS and hellos, or to its end."""
        loop = asyncio.get_running_loop()
        del self._unclaimed[cast("asyncio.Task[None]", asyncio.current_task())]
        connection = self._connection()
        try:
            async with asyncio.timeout(self._options.hello_timeout_s):
                try:
                    await loop.connect_accepted_socket(lambda: connection, sock, ssl=self._secure)
                except asyncio.CancelledError:
                    connection.abandoned()
                    raise
                await connection.settled.wait()
                if not connection.stood:  # it was told why; what lingers still counts as a stranger
                    await connection.closed.wait()
        except TimeoutError:
            connection.end(PeerProtocolError("the hello took too long"))
        except OSError as error:  # ssl.SSLError among them
            logger.debug("an accepted connection came to nothing: %s", error)
        finally:
            if not connection.stood:
                connection.end(None)


def _bind_all(
    found: list[tuple[socket.AddressFamily, tuple[str, int]]],
) -> list[socket.socket]:
    """Listening sockets at all addresses; those of a family that this machine does not have are left out."""
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in found:
        try:
            sockets.append(_bind(family, address))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                failure = error
                continue
            for sock in sockets:
                sock.close()
            raise
    if not sockets:
        raise failure or OSError(errno.EADDRNOTAVAIL, "no address to listen at")
    return sockets


def _bind(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"{error.strerror} ({format_address(*address)})") from error
    return sock
