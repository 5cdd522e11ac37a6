"""Memberships and the changes between them; the rules stand in ``membership.pyx``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from multiraft.interfaces import Membership

class ChangeOperation(IntEnum):
    ADD_VOTER = 1
    ADD_LEARNER = 2
    REMOVE = 3

class Transition(IntEnum):
    AUTOMATIC = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2

@dataclass(frozen=True, slots=True)
class MembershipChange:
    operations: tuple[tuple[int, int, int], ...] = ()
    transition: int = 0
    context: bytes = b""

    def encode(self) -> bytes: ...
    @staticmethod
    def decode(payload: bytes) -> MembershipChange: ...

def membership_after(membership: Membership, change: MembershipChange) -> Membership: ...
