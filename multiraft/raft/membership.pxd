# Who belongs to a group, and how one membership follows from another. Values only: nothing here knows a log or a message.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from multiraft._core cimport REPLICAS_MAX


cpdef enum ChangeOperation:
    ADD_VOTER = 1
    ADD_LEARNER = 2
    REMOVE = 3

cpdef enum Transition:
    AUTOMATIC = 0           # simple where one voter changes, else joint and left by itself
    JOINT_IMPLICIT = 1      # joint, left by itself
    JOINT_EXPLICIT = 2      # joint, left by a later change with no operations


cdef struct MemberItem:
    uint32_t replica
    uint32_t node
    uint32_t flags          # MemberFlag bits; never 0 in a finished membership


# Members ascend by replica id. Joint while any of them is an outgoing voter.
cdef struct Members:
    uint32_t count
    uint8_t auto_leave
    MemberItem items[REPLICAS_MAX + 1]


cdef struct ChangeItem:
    uint32_t operation
    uint32_t replica
    uint32_t node


cdef struct Change:
    uint32_t transition
    uint32_t count
    ChangeItem items[REPLICAS_MAX]
    const char* context
    uint32_t context_bytes


cdef bint members_joint(const Members* members) noexcept nogil
cdef int members_find(const Members* members, uint32_t replica) noexcept nogil      # position, or -1
cdef int members_from(object membership, Members* out) except -1                    # from interfaces.Membership
cdef object members_to(const Members* members)                                      # to interfaces.Membership

# The membership after `change`. Raises MembershipRefused where it cannot follow from `members`.
cdef int members_after(const Members* members, const Change* change, Members* out) except -1

cdef bint change_leaves(const Change* change) noexcept nogil
cdef int change_decode(const char* data, uint32_t length, Change* out) except -1    # `out.context` points into data
