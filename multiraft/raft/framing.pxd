# Messages that were gathered for a node, made into frames.

from libc.stdint cimport uint32_t, uint64_t
from multiraft._core cimport Buffer
from multiraft.raft.progress cimport Outbox


# Fresh frames of the messages in two buffers (`second` may be NULL), in order: one, unless that would be larger than a
# receiver likes. The link that sends a frame fills in whose it is and seals it.
cdef list frames_of(const Buffer* first, const Buffer* second)

# With every frame goes what this node has synced when it leaves: a peer refuses a store that comes back below it. The message
# goes into that half of the outbox, unless the node was told as much already, or nobody counts our boots.
cdef int tell_status(Outbox* box, Buffer* buffer, uint32_t boot_count, uint64_t sequence) except -1
