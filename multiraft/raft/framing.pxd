# Messages that were gathered for a node, made into frames.

from multiraft._core cimport Buffer


# Fresh frames of the messages in two buffers (`second` may be NULL), in order: one, unless that would be larger than a
# receiver likes. The link that sends a frame fills in whose it is and seals it.
cdef list frames_of(const Buffer* first, const Buffer* second)
