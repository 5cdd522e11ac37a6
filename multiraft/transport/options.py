"""The limits that a transport keeps. Values only; every queue, wait and count of this folder has its bound here."""

from __future__ import annotations

from dataclasses import dataclass, fields

from multiraft.config import Config
from multiraft.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Limits of links and of bulk connections. The defaults suit a local network."""

    hello_timeout_s: float = 5.0
    """From the accept or the dial of a connection, TLS included, until both sides have greeted each other."""
    strangers_max: int = 64
    """Accepted connections that have not; one more costs the oldest its place."""
    frame_timeout_s: float = 30.0
    """A connection to another node on which a frame was begun and not finished for so long (less than twice as long) is lost."""
    linger_s: float = 1.0
    """How long a goodbye may take to reach the other side."""

    queue_bytes_max: int = 16 * 1024 * 1024
    """What may wait for one link. A frame for an empty queue is always taken, so that a large one is not refused for ever.
    With TLS, up to as much again may be on its way through the encryption."""
    queue_reserve_bytes: int = 256 * 1024
    """What small frames (votes, heartbeats, acknowledgements) may use beyond it, so that bulky ones cannot starve them."""
    queue_calls_bytes: int = 32 * 1024 * 1024
    """What frames that carry forwarded calls and their answers may use beyond it: one that finds no room costs the link."""
    small_frame_bytes: int = 4096
    """Frames up to this size are small."""

    backoff_min_s: float = 0.05
    backoff_max_s: float = 2.0
    """The wait before a dial doubles from the first to the second of these; each wait is drawn from its upper half."""
    keepalive_s: int = 10
    user_timeout_s: int = 15
    """TCP gives a connection up when sent data is not acknowledged, or cannot be sent, for this long (Linux)."""

    chunk_bytes: int = 256 * 1024
    """Data in one frame of a file; at most 1 MiB."""
    file_bytes_per_s: int = 128 * 1024 * 1024
    """All outgoing files together."""
    file_bytes_max: int = 1024 * 1024 * 1024 * 1024
    """A file that another node may send here."""
    outgoing_max: int = 2
    incoming_max: int = 4
    """Files on their way at the same time, out of and into this node."""
    file_idle_s: float = 60.0
    """A file's connection that makes no progress for this long is given up."""
    file_tries_max: int = 3
    """Connections in a row that broke without any progress before a file is given up."""

    clients_max: int = 1024
    """Clients that may be connected to the client port."""
    calls_max: int = 1024
    calls_bytes_max: int = 64 * 1024 * 1024
    """Calls of one client that are not answered yet; beyond either, nothing more is read from it."""
    answers_bytes_max: int = 256 * 1024 * 1024
    """Answers that a client has not read; beyond, its connection ends."""
    clients_bytes_max: int = 512 * 1024 * 1024
    """Calls of all clients together, half-sent ones included, beyond which nothing is read from any; and their unread answers,
    beyond which the client that left most unread goes."""
    client_stall_s: float = 60.0
    """A client that has begun a frame and not finished it for this long goes; while all calls together are at their bound for so
    long, the one whose calls take most."""

    @classmethod
    def of(cls, config: Config) -> TransportOptions:
        """Those of a node."""
        return cls(
            queue_bytes_max=config.link_queue_bytes_max,
            clients_max=config.clients_max,
            clients_bytes_max=config.clients_bytes_max,
            client_stall_s=config.client_stall_s,
        )

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise ConfigError(
                    f"{item.name} is {getattr(self, item.name)!r}; it must be above 0"
                )
        if self.chunk_bytes > 1024 * 1024:
            raise ConfigError(
                f"chunk_bytes is {self.chunk_bytes}; at most 1 MiB goes into one frame"
            )
        if self.backoff_min_s > self.backoff_max_s:
            raise ConfigError(
                f"backoff_min_s is {self.backoff_min_s}, above backoff_max_s {self.backoff_max_s}"
            )
