"""Memberships and the changes between them: simple, joint, learners.

A change never depends on anything but the membership before it, so every replica computes the same one. Source: Ongaro's
thesis, chapter 4 (joint consensus, section 4.3), with learners as in etcd: a voter that becomes a learner while it still
votes in the outgoing half waits as "learner next" until the joint membership is left.
"""

import struct

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove

from multiraft._core cimport MEMBER_LEARNER, MEMBER_LEARNER_NEXT, MEMBER_OUTGOING, MEMBER_VOTER, REPLICAS_MAX

from dataclasses import dataclass

from multiraft.errors import FormatUnsupported, InvalidCommand, LogCorrupt, MembershipRefused
from multiraft.interfaces import Member, Membership

_HEAD = struct.Struct("<BBH")
_ITEM = struct.Struct("<III")
_VERSION = 1


cdef bint members_joint(const Members* members) noexcept nogil:
    cdef uint32_t at
    for at in range(members.count):
        if members.items[at].flags & MEMBER_OUTGOING:
            return True
    return False


cdef int members_find(const Members* members, uint32_t replica) noexcept nogil:
    cdef uint32_t at
    for at in range(members.count):
        if members.items[at].replica == replica:
            return <int>at
    return -1


cdef int members_from(object membership, Members* out) except -1:
    out.count = 0
    out.auto_leave = bool(membership.auto_leave)
    previous = 0
    if len(membership.members) > REPLICAS_MAX:
        raise MembershipRefused(f"{len(membership.members)} members; a group has at most {REPLICAS_MAX}")
    for member in membership.members:
        if member.replica <= previous:
            raise MembershipRefused(f"replica ids of a membership ascend from 1; {member.replica} follows {previous}")
        if not check_flags(member.flags):
            raise MembershipRefused(f"replica {member.replica} has flags {member.flags}, which make no part in a group")
        previous = member.replica
        out.items[out.count].replica = member.replica
        out.items[out.count].node = member.node
        out.items[out.count].flags = member.flags
        out.count += 1
    return 0


cdef bint check_flags(uint32_t flags) noexcept nogil:
    if flags == 0 or flags > 15:
        return False
    if flags & MEMBER_LEARNER:               # a learner is nothing else
        return flags == MEMBER_LEARNER
    if flags & MEMBER_LEARNER_NEXT:          # it still votes in the outgoing half, and only there
        return flags == (MEMBER_LEARNER_NEXT | MEMBER_OUTGOING)
    return True


cdef object members_to(const Members* members):
    return Membership(
        tuple(
            Member(members.items[at].replica, members.items[at].node, members.items[at].flags) for at in range(members.count)
        ),
        bool(members.auto_leave),
    )


# -- changes ----------------------------------------------------------------------------------------------------------------


cdef int insert(Members* members, uint32_t replica, uint32_t node) except -1:
    """Make room for a new member, in order, with no part yet; its position."""
    cdef uint32_t at = 0
    if members.count >= REPLICAS_MAX:
        raise MembershipRefused(f"a group has at most {REPLICAS_MAX} members")
    while at < members.count and members.items[at].replica < replica:
        at += 1
    memmove(&members.items[at + 1], &members.items[at], (members.count - at) * sizeof(MemberItem))
    members.items[at].replica = replica
    members.items[at].node = node
    members.items[at].flags = 0
    members.count += 1
    return <int>at


cdef int drop_absent(Members* members) except -1:
    """Forget those that have no part any more; at least one voter must be left."""
    cdef uint32_t at, kept = 0, voters = 0
    for at in range(members.count):
        if members.items[at].flags:
            members.items[kept] = members.items[at]
            kept += 1
            voters += (members.items[at].flags & MEMBER_VOTER) != 0
    members.count = kept
    if voters == 0:
        raise MembershipRefused("the change would leave the group without a voter")
    return 0


cdef int apply_item(Members* members, const ChangeItem* item) except -1:
    cdef int at = members_find(members, item.replica)
    cdef MemberItem* member
    if item.operation == REMOVE:
        if at >= 0:
            members.items[at].flags &= MEMBER_OUTGOING
        return 0
    if at < 0:
        if item.node == 0:
            raise MembershipRefused(f"replica {item.replica} would join the group on no node")
        at = insert(members, item.replica, item.node)
    member = &members.items[at]
    if item.node:
        member.node = item.node
    if item.operation == ADD_VOTER:
        member.flags = (member.flags & MEMBER_OUTGOING) | MEMBER_VOTER
    elif member.flags & MEMBER_OUTGOING:
        member.flags = MEMBER_OUTGOING | MEMBER_LEARNER_NEXT
    else:
        member.flags = MEMBER_LEARNER
    return 0


cdef int apply_items(Members* members, const Change* change) except -1:
    cdef uint32_t at
    for at in range(change.count):
        apply_item(members, &change.items[at])
    drop_absent(members)
    return 0


cdef int enter_joint(const Members* members, const Change* change, Members* out) except -1:
    cdef uint32_t at
    if members_joint(members):
        raise MembershipRefused("the membership is joint already; it must be left first")
    memcpy(out, members, sizeof(Members))
    for at in range(out.count):
        if out.items[at].flags & MEMBER_VOTER:
            out.items[at].flags |= MEMBER_OUTGOING
    apply_items(out, change)
    out.auto_leave = change.transition != JOINT_EXPLICIT
    return 0


cdef int leave_joint(const Members* members, Members* out) except -1:
    cdef uint32_t at, flags
    if not members_joint(members):
        raise MembershipRefused("the membership is not joint; there is nothing to leave")
    memcpy(out, members, sizeof(Members))
    for at in range(out.count):
        flags = out.items[at].flags
        out.items[at].flags = MEMBER_LEARNER if flags & MEMBER_LEARNER_NEXT else flags & ~MEMBER_OUTGOING
    drop_absent(out)
    out.auto_leave = False
    return 0


cdef uint32_t voters_changed(const Members* before, const Members* after) noexcept nogil:
    cdef uint32_t at, changed = 0
    cdef int there
    for at in range(before.count):
        if before.items[at].flags & MEMBER_VOTER:
            there = members_find(after, before.items[at].replica)
            changed += there < 0 or not (after.items[there].flags & MEMBER_VOTER)
    for at in range(after.count):
        if after.items[at].flags & MEMBER_VOTER:
            there = members_find(before, after.items[at].replica)
            changed += there < 0 or not (before.items[there].flags & MEMBER_VOTER)
    return changed


cdef bint change_leaves(const Change* change) noexcept nogil:
    return change.count == 0 and change.transition == AUTOMATIC


cdef int members_after(const Members* members, const Change* change, Members* out) except -1:
    if change_leaves(change):
        return leave_joint(members, out)
    if change.transition != AUTOMATIC or change.count > 1:
        return enter_joint(members, change, out)
    if members_joint(members):
        raise MembershipRefused("the membership is joint; it must be left before another change")
    memcpy(out, members, sizeof(Members))
    apply_items(out, change)
    if voters_changed(members, out) > 1:
        raise MembershipRefused("more than one voter would change without a joint membership")
    return 0


# -- the payload of a membership entry --------------------------------------------------------------------------------------


cdef int change_decode(const char* data, uint32_t length, Change* out) except -1:
    cdef uint16_t count
    cdef uint32_t at, context_bytes
    if length < 8:
        raise LogCorrupt(f"a membership change of {length} bytes")
    memcpy(&count, data + 2, 2)
    out.transition = <uint8_t>data[1]
    if <uint8_t>data[0] != _VERSION:
        raise FormatUnsupported(f"a membership change of version {<uint8_t>data[0]}; this version reads {_VERSION}")
    if out.transition > JOINT_EXPLICIT or count > REPLICAS_MAX or length < 8 + 12 * <uint32_t>count:
        raise LogCorrupt("a membership change whose counts and lengths contradict each other")
    memcpy(&context_bytes, data + 4 + 12 * <uint32_t>count, 4)
    if context_bytes != length - 8 - 12 * <uint32_t>count:
        raise LogCorrupt("a membership change whose context is not as long as it says")
    out.count = count
    for at in range(count):
        memcpy(&out.items[at], data + 4 + 12 * at, 12)
        if not ADD_VOTER <= out.items[at].operation <= REMOVE or out.items[at].replica == 0:
            raise LogCorrupt(f"a membership change with operation {out.items[at].operation}")
    out.context = data + 8 + 12 * <uint32_t>count
    out.context_bytes = context_bytes
    return 0


@dataclass(frozen=True, slots=True)
class MembershipChange:
    """A change to propose: ``operations`` are (operation, replica id, node id), in order; none at all leaves a joint one.

    ``transition`` says how: AUTOMATIC is simple for one operation and joint for more, JOINT_IMPLICIT and JOINT_EXPLICIT are
    joint always, left by itself or by a later change. ``context`` is handed through to whoever applies it.
    """

    operations: tuple = ()
    transition: int = 0
    context: bytes = b""

    def encode(self) -> bytes:
        """Its bytes in the log. Raises InvalidCommand where an operation or a transition is not one."""
        if len(self.operations) > REPLICAS_MAX or self.transition not in (0, 1, 2):
            raise InvalidCommand(f"a membership change with {len(self.operations)} operations, transition {self.transition}")
        parts = [_HEAD.pack(_VERSION, self.transition, len(self.operations))]
        for operation, replica, node in self.operations:
            if operation not in (ADD_VOTER, ADD_LEARNER, REMOVE) or not 0 < replica < 2**32 or not 0 <= node < 2**32:
                raise InvalidCommand(f"no membership operation: {operation} of replica {replica} on node {node}")
            parts.append(_ITEM.pack(operation, replica, node))
        parts.append(struct.pack("<I", len(self.context)))
        return b"".join(parts) + self.context

    @staticmethod
    def decode(payload: bytes) -> "MembershipChange":
        """Raises LogCorrupt or FormatUnsupported."""
        cdef Change change
        cdef bytes data = bytes(payload)
        change_decode(data, <uint32_t>len(data), &change)
        return MembershipChange(
            tuple((change.items[at].operation, change.items[at].replica, change.items[at].node) for at in range(change.count)),
            change.transition,
            change.context[: change.context_bytes],
        )


def membership_after(membership, change):
    """The membership that follows from ``membership`` by ``change``. Raises MembershipRefused."""
    cdef Members before, after
    cdef Change decoded
    cdef bytes payload = change.encode()
    members_from(membership, &before)
    change_decode(payload, <uint32_t>len(payload), &decoded)
    members_after(&before, &decoded, &after)
    return members_to(&after)
