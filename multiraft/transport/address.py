"""Addresses of nodes as people write them (``host:port``, ``[v6]:port``), and the settings of a link's socket.

The one thing here that waits is the resolver of the loop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys

from multiraft.errors import ConfigError
from multiraft.transport.options import TransportOptions


def parse_address(address: str) -> tuple[str, int]:
    """``"host:port"`` or ``"[v6]:port"`` -> host and port. Raises ConfigError."""
    host, colon, digits = address.rpartition(":")
    if not colon or not host or not digits.isascii() or not digits.isdigit() or int(digits) > 65535:
        raise ConfigError(f"address {address!r} is not of the form host:port or [v6]:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"address {address!r}: an IPv6 host stands in brackets, as in [::1]:7000")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise ConfigError(f"address {address!r} has no usable host name: {error}") from error
    return host, int(digits)


def format_address(host: str, port: int) -> str:
    """The inverse of ``parse_address``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a numeric host can be reached from this machine only."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


async def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """The numeric addresses of a host, without repeats, in the resolver's order. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
    )
    # The flow and scope of an IPv6 address are left out: nodes are not dialled by link-local ones.
    unique = dict.fromkeys(
        (family, (str(item[0]), int(item[1]))) for family, _, _, _, item in found
    )
    return [(socket.AddressFamily(family), item) for family, item in unique]


def free_addresses(count: int) -> list[str]:
    """Loopback addresses at which nobody listens just now: for programs that start nodes on this machine, to look or to test."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sockets.append(socket.socket())
            sockets[-1].bind(("127.0.0.1", 0))
        return [format_address("127.0.0.1", one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def part_from(transport: asyncio.Transport, linger_s: float) -> asyncio.TimerHandle:
    """Close a connection once everything is written, or after ``linger_s`` in any case; the handle of that.

    A plain socket is closed in one direction first: closing it with unread bytes would send a reset, which may overtake the last
    words. What still comes is read and forgotten until the other side closes, too.
    """
    lingering = asyncio.get_running_loop().call_later(linger_s, transport.abort)
    try:
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()
    except OSError:  # the other side was faster: there is nobody to close it for
        transport.abort()
    return lingering


def tune(sock: socket.socket, options: TransportOptions) -> None:
    """No delay for small frames, and an end for connections whose other side is gone without a word."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, options.keepalive_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, options.keepalive_s // 3))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, options.user_timeout_s * 1000)
