"""Groups of users' machines as a program sees them: made by name, used through a handle, from whichever node.

``create_group`` writes one record into group 0 under the condition that nobody did: whoever asks, and however often, gets the same
group. A handle proposes - the command goes to the leader in one hop, and its result comes back - and reads here, once this replica
is known to be as new as the call. Every answer to a proposal is a plain value (``machine/plain``), the same for every caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from multiraft._ticket import Ticket, Waker
from multiraft.config import TIMEOUT_S_MAX, Config
from multiraft.errors import (
    BatchError,
    Closed,
    DeadlineExceeded,
    GroupExists,
    GroupUnknown,
    InvalidCommand,
    MultiRaftError,
    OutcomeUnknown,
    PreconditionFailed,
    TooLarge,
)
from multiraft.ids import META_GROUP, GroupId
from multiraft.machine import commands
from multiraft.machine.commands import ConditionKind, OperationKind
from multiraft.machine.running import COMMAND_BYTES_MAX, Factory, encode_command
from multiraft.machine.user import UserMachines
from multiraft.node.hosting import Hosting
from multiraft.node.meta import (
    GROUP_NAME_BYTES_MAX,
    META_SPACE,
    NEXT_GROUP_KEY,
    GroupRecord,
    encode_group,
    encode_next_group,
    group_key,
    replicas_for,
    space_prefix,
)
from multiraft.node.placing import Placing
from multiraft.node.reads import Reads
from multiraft.node.waiters import Call, Waiters
from multiraft.raft import MultiRaft


class Groups:
    """The users' groups of a cluster, from one node."""

    def __init__(
        self,
        *,
        config: Config,
        multi: MultiRaft,
        machines: UserMachines,
        hosting: Hosting,
        waiters: Waiters,
        reads: Reads,
        waker: Waker,
        now_ns: Callable[[], int],
    ) -> None:
        self._config = config
        self.multi = multi
        self._machines = machines
        self.hosting = hosting
        self.waiters = waiters
        self.reads = reads
        self.waker = waker
        self._now_ns = now_ns
        self._timeout_ns = round(config.timeout_s * 1e9)
        self._closed = False
        self.placing: Placing

    def deadline(self, timeout: float | None) -> int:
        if self._closed:
            raise Closed("this node is closed")
        if timeout is None:
            return self._now_ns() + self._timeout_ns
        return self._now_ns() + round(min(timeout, TIMEOUT_S_MAX) * 1e9)

    def close(self) -> None:
        """Refuse every call from here on; the node does this."""
        self._closed = True

    def group(self, name: str) -> Group:
        """The handle of a group that this node knows. Raises GroupUnknown."""
        shard_map = self.placing.map
        record = shard_map.group_named(name) if shard_map is not None else None
        if record is None:
            raise GroupUnknown(f"this node knows no group of the name {name!r}")
        return Group(self, record)

    async def create(self, name: str, machine: str | Factory, timeout: float | None) -> Group:
        """The group of that name, made if there is none. See ``Node.create_group``."""
        kind = self._machines.kind_of(machine)
        if kind is None:
            raise InvalidCommand(
                f"{machine!r} is no registered machine: name it in Node(config, machines={{...}})"
            )
        if not isinstance(name, str) or not 1 <= len(name.encode()) <= GROUP_NAME_BYTES_MAX:
            raise InvalidCommand(f"a group's name is text of 1 to {GROUP_NAME_BYTES_MAX} bytes")
        deadline_ns = self.deadline(timeout)
        while True:
            await self._up_to_date(deadline_ns)
            shard_map = self.placing.map
            record = shard_map.group_named(name) if shard_map is not None else None
            if record is not None and record.kind != kind:
                raise GroupExists(f"group {name!r} is of kind {record.kind!r}, not {kind!r}")
            if record is not None:
                return Group(self, record)
            try:
                await self._propose(name, kind, deadline_ns)
            except (PreconditionFailed, OutcomeUnknown) as error:
                # Somebody was first, or may have been us: group 0 says, and asking it again changes nothing (pitfall 80).
                if self._now_ns() >= deadline_ns:
                    raise DeadlineExceeded("the time was up before the group was made") from error

    def _up_to_date(self, deadline_ns: int) -> Ticket[None]:
        """Wait until this node's copy of group 0 is as new as the call."""

        def run(ticket: Ticket[Any]) -> None:
            self.placing.refresh()
            self.waker.settle(ticket, None)

        return self.reads.submit(META_GROUP, run, deadline_ns)

    def _propose(self, name: str, kind: str, deadline_ns: int) -> Ticket[int]:
        """One batch in group 0: the record, and the counter that gave its id, on the condition that both are as seen."""
        shard_map = self.placing.map
        if shard_map is None:
            raise PreconditionFailed("group 0 is not made yet")
        group = shard_map.next_group
        record = GroupRecord(group, name, kind, replicas_for(self._config, group - 1))
        prefix = space_prefix(META_SPACE)
        put = OperationKind.OPERATION_PUT
        following = encode_next_group(GroupId(group + 1))
        operations = [
            (put, prefix + group_key(name), encode_group(record)),
            (put, prefix + NEXT_GROUP_KEY, following),
        ]
        conditions: list[tuple[int, bytes] | tuple[int, bytes, bytes]] = [
            (ConditionKind.CONDITION_ABSENT, prefix + group_key(name)),
            (ConditionKind.CONDITION_VALUE, prefix + NEXT_GROUP_KEY, encode_next_group(group)),
        ]
        command = commands.encode_batch(META_SPACE, 1, operations, conditions)
        return self.waiters.submit(META_GROUP, command, deadline_ns)


class Group:
    """A replicated machine, by its handle. ``node.create_group`` and ``node.group`` give it; it may be kept and shared."""

    def __init__(self, groups: Groups, record: GroupRecord) -> None:
        self._groups = groups
        self._record = record

    def __repr__(self) -> str:
        return f"<Group {self.name!r} of kind {self.kind!r}, id {self.id}>"

    @property
    def name(self) -> str:
        return self._record.name

    @property
    def kind(self) -> str:
        return self._record.kind

    @property
    def id(self) -> int:
        """The id of its Raft group, which is never used for another."""
        return self._record.group

    @property
    def leads(self) -> bool:
        """Does this node lead the group just now?"""
        return self._groups.multi.leads(self.id)

    @property
    def leader(self) -> int | None:
        """The node that leads, as far as this node knows."""
        return self._groups.multi.leader_node(self.id)

    def propose(
        self, command: bytes, *, timeout: float | None = None, nowait: bool = False
    ) -> Ticket[Any]:
        """Have a command applied by every replica; what ``apply`` returned where it leads, as a plain value.

        Raises CommandError where ``apply`` did, InvalidResult where it returned what cannot travel: it was applied in both.
        OutcomeUnknown and its kin say that it may have been; everything else that it was not.
        """
        return self._submit(_checked(command), timeout, nowait, None)

    def propose_many(
        self, commands: Sequence[bytes], *, timeout: float | None = None, nowait: bool = False
    ) -> Ticket[list[Any]]:
        """Have commands applied in this order, one entry each, other entries perhaps between them; their results in order.

        They are taken all or none, but a change of leaders may cut them off (OutcomeUnknown). Raises BatchError, which says for
        each what happened, where ``apply`` raised CommandError for any.
        """
        payloads = [_checked(command) for command in commands]
        if not payloads:
            return self._groups.waker.answered([])
        return self._submit(payloads, timeout, nowait, _all_or_error)

    def _submit(
        self,
        payload: bytes | list[bytes],
        timeout: float | None,
        nowait: bool,
        lead: Callable[[Call, Any], Any] | None,
    ) -> Ticket[Any]:
        groups = self._groups
        deadline_ns = groups.deadline(timeout)
        return groups.waiters.submit(self.id, payload, deadline_ns, nowait, lead)

    def read(
        self, query: Any = None, *, timeout: float | None = None, stale: bool = False
    ) -> Ticket[Any]:
        """What this node's machine answers to a query: not older than the call, or with ``stale`` whatever it has applied.

        The query and the answer are handed over as they are, and what ``read`` raises is raised here. Raises Quarantined where the
        machine does not run on this node.
        """
        groups, group = self._groups, self.id
        deadline_ns = groups.deadline(timeout)

        def run(ticket: Ticket[Any]) -> None:
            groups.hosting.read(group, query, ticket, deadline_ns)

        if not stale and not groups.multi.reads_at_once(group):
            return groups.reads.submit(group, run, deadline_ns)
        ticket: Ticket[Any] = groups.waker.ticket()
        run(ticket)
        return ticket


def _checked(command: bytes) -> bytes:
    if not isinstance(command, bytes):
        raise InvalidCommand(f"a command is bytes, not {type(command).__name__}")
    if len(command) > COMMAND_BYTES_MAX:
        raise TooLarge(f"a command of {len(command)} bytes; the limit is {COMMAND_BYTES_MAX}")
    return encode_command(command)


def _all_or_error(_: Call, results: list[Any]) -> Any:
    """All results, or the error that says for each command what happened."""
    failed = [one for one in results if isinstance(one, MultiRaftError)]
    if not failed:
        return results
    return BatchError(
        f"{len(failed)} of {len(results)} commands failed: {failed[0]}", outcomes=results
    )
