"""A message of one replica to another as a Python value: what the Python door of a replica takes and gives.

The frame loop never makes these; there a message is a header and a run in the receive buffer. Both are the same bytes, as
docs/formats.md lays them out, and ``encode`` / ``decode`` are the way between them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from multiraft._core import MessageFlag, MessageKind, RunKind, decode_run, encode_run
from multiraft.errors import PeerProtocolError

_HEAD = struct.Struct("<HHIQIIQQQQQQ")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log. ``kind`` is ``_core.RunKind.RUN_ENTRIES`` or ``RUN_MEMBERSHIP``."""

    index: int
    term: int
    payload: bytes = b""
    kind: int = int(RunKind.RUN_ENTRIES)


@dataclass(frozen=True, slots=True)
class Message:
    """One message; which fields mean what is the table in docs/formats.md, section Frame.

    ``entries`` are adjacent, of one term and one kind: one run. ``body`` is what else follows the header.
    """

    kind: int
    from_replica: int
    to_replica: int
    term: int = 0
    index: int = 0
    log_term: int = 0
    commit: int = 0
    hint: int = 0
    context: int = 0
    reject: bool = False
    transfer: bool = False
    entries: tuple[Entry, ...] = ()
    body: bytes = b""
    group: int = 1

    def __repr__(self) -> str:
        name = MessageKind(self.kind).name.removeprefix("MSG_")
        shown = [f"{self.from_replica}->{self.to_replica} {name} term {self.term}"]
        for field in ("index", "log_term", "commit", "hint", "context"):
            if value := getattr(self, field):
                shown.append(f"{field} {value}")
        shown += [word for word in ("reject", "transfer") if getattr(self, word)]
        if self.entries:
            shown.append("entries " + " ".join(f"{e.index}/{e.term}" for e in self.entries))
        return f"<{' '.join(shown)}>"

    def encode(self) -> bytes:
        """Its bytes in a frame. Raises ValueError where the entries do not make one run."""
        flags = (MessageFlag.FLAG_REJECT if self.reject else 0) | (
            MessageFlag.FLAG_TRANSFER if self.transfer else 0
        )
        tail = self.body
        if self.entries:
            flags |= MessageFlag.FLAG_RUN
            tail = self._run()
        head = _HEAD.pack(
            self.kind,
            flags,
            _HEAD.size + len(tail),
            self.group,
            self.from_replica,
            self.to_replica,
            self.term,
            self.index,
            self.log_term,
            self.commit,
            self.hint,
            self.context,
        )
        return head + tail

    def _run(self) -> bytes:
        first = self.entries[0]
        for offset, entry in enumerate(self.entries):
            if (entry.index, entry.term, entry.kind) != (
                first.index + offset,
                first.term,
                first.kind,
            ):
                raise ValueError(
                    "the entries of one message are adjacent, of one term and of one kind"
                )
        return encode_run(
            group=self.group,
            first=first.index,
            term=first.term,
            prev_term=self.log_term,
            commit=self.commit,
            from_replica=self.from_replica,
            kind=first.kind,
            entries=[entry.payload for entry in self.entries],
        )


def decode_entries(run: bytes | memoryview) -> tuple[Entry, ...]:
    """The entries of an encoded run. Raises LogCorrupt."""
    decoded = decode_run(run)
    return tuple(
        Entry(decoded.first + offset, decoded.term, payload, decoded.kind)
        for offset, payload in enumerate(decoded.entries)
    )


def decode_messages(data: bytes) -> list[Message]:
    """The messages that stand back to back in ``data``. Raises PeerProtocolError, or LogCorrupt for a damaged run."""
    messages = []
    at = 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise PeerProtocolError(f"{len(data) - at} bytes are no message")
        (kind, flags, length, group, sender, to, term, index, log_term, commit, hint, context) = (
            _HEAD.unpack_from(data, at)
        )
        if not _HEAD.size <= length <= len(data) - at:
            raise PeerProtocolError(f"a message of {length} bytes where {len(data) - at} are left")
        tail = data[at + _HEAD.size : at + length]
        messages.append(
            Message(
                kind,
                sender,
                to,
                term,
                index,
                log_term,
                commit,
                hint,
                context,
                reject=bool(flags & MessageFlag.FLAG_REJECT),
                transfer=bool(flags & MessageFlag.FLAG_TRANSFER),
                entries=decode_entries(tail) if flags & MessageFlag.FLAG_RUN else (),
                body=b"" if flags & MessageFlag.FLAG_RUN else tail,
                group=group,
            )
        )
        at += length
    return messages
