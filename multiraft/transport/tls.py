"""Mutual TLS between nodes, and whose certificate is whose.

Both sides of every connection show a certificate and check the other's against the authorities of the
configuration; TLS 1.3 only. A certificate speaks
for one node: it must carry the DNS name ``multiraft-node-<id>`` among its subject alternative names, whatever other names
it has. A dialler demands that name in the handshake; a listener compares it with the node id of the hello. So a service
that happens to hold a certificate of the same CA cannot join, and one node's stolen key cannot speak for another node.
The host names that nodes are dialled by do not matter: addresses may change without new certificates.

Never done here: making certificates, or falling back to plain text.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from multiraft.config import TlsConfig
from multiraft.errors import ConfigError, PeerProtocolError
from multiraft.ids import NodeId


def server_context(config: TlsConfig) -> ssl.SSLContext:
    """For accepted connections: a client without a certificate of the authorities is refused."""
    context = _context(config, ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    return context


def client_context(config: TlsConfig) -> ssl.SSLContext:
    """For dialled connections; to be used with ``server_hostname=node_name(node)``."""
    context = _context(config, ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = True
    return context


def node_name(node: NodeId) -> str:
    """The DNS name by which a certificate speaks for a node."""
    return f"multiraft-node-{node}"


def check_certificate(certificate: Mapping[str, Any] | None, node: NodeId) -> None:
    """Raise PeerProtocolError unless the certificate (as ``getpeercert`` gives it) speaks for ``node``."""
    names = [name for kind, name in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]
    if node_name(node) not in names:
        raise PeerProtocolError(
            f"the other side says that it is node {node}, but its certificate speaks for {names}"
        )


def _context(config: TlsConfig, side: int) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=config.authorities)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"tls.authorities {config.authorities!r} cannot be used: {error}"
        ) from error
    try:
        context.load_cert_chain(config.certificate, config.key)
    except OSError as error:
        raise ConfigError(
            f"tls.certificate {config.certificate!r} with tls.key {config.key!r} cannot be used: {error}"
        ) from error
    return context
