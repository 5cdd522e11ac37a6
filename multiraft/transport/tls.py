"""Mutual TLS between nodes, and whose certificate is whose.

Both sides of every connection show a certificate and check the other's against one CA; TLS 1.3 only. A certificate speaks
for one node: it must carry the DNS name ``multiraft-node-<id>`` among its subject alternative names, whatever other names
it has. A dialler demands that name in the handshake; a listener compares it with the node id of the hello. So a service
that happens to hold a certificate of the same CA cannot join, and one node's stolen key cannot speak for another node.
The host names that nodes are dialled by do not matter: addresses may change without new certificates.

Never done here: making certificates, or falling back to plain text.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multiraft.errors import ConfigError, PeerProtocolError
from multiraft.ids import NodeId


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Paths of PEM files: this node's certificate (with its chain), its key, and the CA that all nodes trust."""

    cert: str
    key: str
    ca: str

    def server_context(self) -> ssl.SSLContext:
        """For accepted connections: a client without a certificate of the CA is refused."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0
        return context

    def client_context(self) -> ssl.SSLContext:
        """For dialled connections; to be used with ``server_hostname=node_name(node)``."""
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = True
        return context

    def _context(self, side: int) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"tls.ca {self.ca!r} cannot be used: {error}") from error
        try:
            context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"tls.cert {self.cert!r} with tls.key {self.key!r} cannot be used: {error}"
            ) from error
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
