"""Every error that multiraft raises, as one drawn tree.

The tree answers the two questions that a caller has: *may I try again?* and *could it have happened?*

    MultiRaftError
    ├── Retryable            nothing happened; the same call may be made again
    │   ├── NotLeader            another replica leads (``leader`` names its node where known)
    │   ├── NoLeader             nobody leads just now
    │   ├── ShardMoved           the keys are served elsewhere (``epoch`` of the newer map)
    │   ├── Overloaded           a queue is full; slow down
    │   ├── NoSpace              the disk is below its reserve; reads and deletes go on
    │   ├── GroupUnknown         no group of that name is known here (yet)
    │   └── Quarantined          the shard's replica here applies nothing more, and no other takes over
    ├── OutcomeUnknown       it may or may not have been applied
    │   ├── DeadlineExceeded     ... because the time was up (also a TimeoutError)
    │   ├── LeadershipLost       ... because another leads since the append
    │   ├── LinkLost             ... because the link to the leader broke
    │   └── SessionExpired       ... because the session's answers are gone
    ├── Rejected             it did not happen and will not
    │   ├── InvalidCommand  PreconditionFailed  TooLarge  MembershipRefused  GroupExists  WrongThread
    │   └── CommandError         a user's machine applied it, and this is its answer
    │       └── InvalidResult        ... in place of a result that is no plain value
    ├── BatchError           a call on many keys, of which some failed: says which and how
    ├── Closed               this node or client is closed
    ├── StorageError         the disk; the node ends
    │   ├── LogCorrupt  SyncFailed  FormatUnsupported  WrongCluster  WrongStore  DirectoryInUse
    ├── PeerProtocolError    the other side broke the protocol; its link is dropped
    ├── ConfigError          the configuration cannot work; says which field and why (also a ValueError)
    └── InvariantViolation   we are wrong; the node stops

Classes carry their facts as attributes. No code anywhere decides by the text of a message.
This module imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Mapping


class MultiRaftError(Exception):
    """The root: everything that multiraft raises on purpose."""


# -- nothing happened ---------------------------------------------------------------------------------------------------


class Retryable(MultiRaftError):
    """Nothing happened; the same call may be made again, now or a little later."""


class NotLeader(Retryable):
    """The replica asked does not lead its group; ``leader`` is the node that does, or None where that is unknown."""

    def __init__(
        self, message: str = "this node does not lead the group", *, leader: int | None = None
    ):
        super().__init__(message if leader is None else f"{message}; node {leader} does")
        self.leader = leader


class NoLeader(Retryable):
    """The group has no leader just now: an election is under way, or a majority of it cannot be reached."""


class ShardMoved(Retryable):
    """The key is served by another shard or with another range epoch than the caller believed; ``epoch`` is the newer."""

    def __init__(self, message: str = "the shard has moved", *, epoch: int = 0):
        super().__init__(message)
        self.epoch = epoch


class Overloaded(Retryable):
    """A bounded queue is full (proposals, memtable, link); nothing was taken from this call."""


class NoSpace(Retryable):
    """The disk is below its reserve. Reads, deletes and leadership transfer go on; writes do again once space is freed."""


class Quarantined(Retryable):
    """The group's replica on this node applies nothing more, for a reason that waiting does not mend (``node.status()`` has
    it), and no other replica serves in its place. Other groups go on."""


class GroupUnknown(Retryable):
    """No group of that name is known on this node; it may be known elsewhere, or soon."""


# -- it may have happened -----------------------------------------------------------------------------------------------


class OutcomeUnknown(MultiRaftError):
    """The call may or may not have been applied, or may yet be. Read before you try again what must not happen twice."""


class DeadlineExceeded(OutcomeUnknown, TimeoutError):
    """The time given to the call was up while its command was on its way."""


class LeadershipLost(OutcomeUnknown):
    """The leader that took the command stopped leading before the outcome was known here."""


class LinkLost(OutcomeUnknown):
    """The link to the node that took the command broke before its answer came."""


class SessionExpired(OutcomeUnknown):
    """The session is absent or older than its time to live, so its earlier answers are gone; nothing was executed now."""


# -- it did not happen and will not -------------------------------------------------------------------------------------


class Rejected(MultiRaftError):
    """It did not happen and will not, however often it is tried as it stands."""


class InvalidCommand(Rejected):
    """The call's arguments do not make a command (a wrong type, an empty key, operations over two shards ...)."""


class PreconditionFailed(Rejected):
    """A condition of the command did not hold; ``revision`` is that of the key that failed it (0 where it is absent)."""

    def __init__(
        self, message: str = "a condition did not hold", *, key: bytes = b"", revision: int = 0
    ):
        super().__init__(message)
        self.key = key
        self.revision = revision


class TooLarge(Rejected):
    """A key, value or command is over its limit; the message names the limit and the size given."""


class CommandError(Rejected):
    """Raised by a user's state machine: the command was applied and this is its answer, the same on every replica."""


class InvalidResult(CommandError):
    """The command was applied, but what the state machine answered is no plain value, or too large, so nobody gets it."""


class GroupExists(Rejected):
    """There is a group of that name already, whose state machine is of another kind."""


class MembershipRefused(Rejected):
    """The membership change cannot be made: one is pending, or it would leave the group without a voter."""


class WrongThread(Rejected):
    """A call of the synchronous face from a thread that runs an event loop, or in a fork of the process that opened it."""


# -- several at once ----------------------------------------------------------------------------------------------------


class BatchError(MultiRaftError):
    """A call on many keys of which some failed.

    ``outcomes`` has one item an input, in input order: the revision where the write happened, the exception where it did
    not or where the outcome is unknown.
    """

    def __init__(self, message: str, *, outcomes: list[int | MultiRaftError]):
        super().__init__(message)
        self.outcomes = outcomes


# -- this node, its disk, its peers -------------------------------------------------------------------------------------


class Closed(MultiRaftError):
    """This node or client is closed, or was closed before the call was sent: nothing happened."""


class StorageError(MultiRaftError):
    """The disk failed or does not hold what it must. Final for the process: it stops acknowledging and ends."""


class LogCorrupt(StorageError):
    """A checksum or a rule of the format fails; ``damage`` maps group -> (first, last) index where that is known."""

    def __init__(self, message: str, *, damage: Mapping[int, tuple[int, int]] | None = None):
        super().__init__(message)
        self.damage = dict(damage or {})


class SyncFailed(StorageError):
    """A commit or sync returned an error. What it carried was not acknowledged and never will be by this process.

    Raised by a start, too, that cannot tell what of an earlier process's failed sync is on the disk; it says what to do.
    """


class FormatUnsupported(StorageError):
    """The data was written in a format, or by a feature level, that this version cannot read. Nothing was skipped."""


class WrongCluster(StorageError):
    """The data directory or the other side belongs to another cluster.

    ``said_by`` is the cluster of the node that we dialled, where it is that node which says so of us; else None.
    """

    def __init__(self, message: str, *, said_by: int | None = None):
        super().__init__(message)
        self.said_by = said_by


class WrongStore(StorageError):
    """The data directory is not the one that the cluster knows for this node: wiped, swapped, or an older copy.

    ``said_by`` is the cluster of the node that we dialled (0: it knows none yet), where it says so of us; else None.
    """

    def __init__(self, message: str, *, said_by: int | None = None):
        super().__init__(message)
        self.said_by = said_by


class DirectoryInUse(StorageError):
    """Another process holds the data directory."""


class PeerProtocolError(MultiRaftError):
    """The other side of a link broke the protocol (damage, a wrong version, a length over its limit); the link is dropped."""


class ConfigError(MultiRaftError, ValueError):
    """The configuration cannot work; the message names the field, the value and what would be right."""


class InvariantViolation(MultiRaftError):
    """A safety property does not hold: we are wrong, and the node stops before it can do harm."""
