# Elections: who campaigns, who may be voted for, and what a new leader does first.

from libc.stdint cimport uint32_t, uint64_t
from multiraft.raft.state cimport Engine, Message, Replica


cpdef enum Campaign:
    CAMPAIGN_PRE = 0        # ask whether an election could be won, without disturbing anybody
    CAMPAIGN = 1
    CAMPAIGN_TRANSFER = 2   # the leader asked us to: nobody holds our votes back because they hear a leader


cdef int hup(Engine engine, Replica* replica, Campaign how) except -1              # campaign, if we may
cdef bint ignores_vote(Engine engine, const Replica* replica, const Message* message) noexcept     # a leader is heard (pitfall 25)
cdef int handle_vote(Engine engine, Replica* replica, const Message* message) except -1            # VOTE and PRE_VOTE
cdef int handle_vote_ack(Engine engine, Replica* replica, const Message* message) except -1        # of our own kind of candidacy
cdef int own_vote_synced(Engine engine, Replica* replica, uint64_t term) except -1
