"""(stand-in)"""
import struct
from multiraft.interfaces import *
def encode_membership(m):
    return struct.pack("<BBH", 1, m.auto_leave, len(m.members)) + b"".join(struct.pack("<III", x.replica, x.node, x.flags) for x in m.members)
def decode_membership(d):
    v, a, n = struct.unpack_from("<BBH", d)
    return Membership(tuple(Member(*struct.unpack_from("<III", d, 4+12*i)) for i in range(n)), bool(a))
def encode_base(b):
    h = b.hard_state
    return struct.pack("<IIQQQ", h.vote, h.leader, h.epoch, h.term, h.commit) + encode_membership(b.membership)
def decode_hard_state(run):
    from multiraft._core import decode_run
    r = decode_run(run)
    vote, leader, epoch, commit = struct.unpack("<IIQQ", r.entries[0])
    return HardState(r.term, vote, leader, epoch, commit)
