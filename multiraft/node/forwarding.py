"""Commands that another node must take: sent to the leader's node in the same frames, one hop, and answered the same way.

A forwarded command is sent once per link incarnation and never again by itself: a link that breaks before the answer came
makes the outcome unknown, whatever it was (pitfalls 80, 93). An answer that says "nothing happened" puts the call back where
it came from, to be tried again until its deadline. Calls that have no place to go just now wait here, too.

The body of a FORWARD is the command as it goes into the log; of a FORWARD_ACK nothing, a refusal in msgpack, or what a user's
machine answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from multiraft._core import MessageFlag, MessageKind
from multiraft.errors import (
    DeadlineExceeded,
    InvalidCommand,
    LinkLost,
    MultiRaftError,
    NoLeader,
    NoSpace,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PeerProtocolError,
    Quarantined,
    Retryable,
)
from multiraft.node.refusals import decode_refusal, encode_refusal
from multiraft.node.waiters import Call, Waiters
from multiraft.raft import MultiRaft

REJECT = int(MessageFlag.FLAG_REJECT)
RESULT = int(MessageFlag.FLAG_TRANSFER)
"""In an answer: the body holds what a user's machine answered."""
PARKED_MAX = 1_000_000

WAITING_HELPS_NOT = (NoSpace, Quarantined)
"""Nothing happened, and nothing will within a call's time: said at once, before it turns into an unknown outcome."""


def encode_results(value: Any, several: bool) -> bytes:
    """What a user's machine answered to one command, or to several of which each may have failed by itself."""
    if not several:
        return msgpack.packb(value)
    return msgpack.packb(
        [
            [False, encode_refusal(one)] if isinstance(one, BaseException) else [True, one]
            for one in value
        ]
    )


def decode_results(body: bytes, several: bool) -> Any:
    """The answer again; of several, a list of answers and errors. Raises PeerProtocolError where the body is none."""
    try:
        value = msgpack.unpackb(body, strict_map_key=False, use_list=True)
        if not several:
            return value
        return [one if good else decode_refusal(one) for good, one in value]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise PeerProtocolError(f"a result that cannot be read: {error}") from error


class Forwarding:
    """The calls of a node that are not proposed here: on their way to another node, or waiting for a leader.

    ``contexts`` are ``ids.message_ids``.
    """

    def __init__(
        self,
        multi: MultiRaft,
        node: int,
        clock_ns: Callable[[], int],
        *,
        timeout_ns: int,
        contexts: Iterator[int],
    ) -> None:
        self._multi = multi
        self._node = node
        self._clock_ns = clock_ns
        self._timeout_ns = timeout_ns
        self._contexts = contexts
        self._away: dict[int, Call] = {}
        self._parked: dict[int, list[Call]] = {}
        self._parked_count = 0
        self.waiters: Waiters
        self.kick: Callable[[], None]
        self.linked: Callable[[int], bool]
        self.is_users: Callable[[int], bool] = lambda group: False
        """Has the group a machine of a user, whose results travel as they are?"""
        self.forwarded = 0

    def __len__(self) -> int:
        return len(self._away) + self._parked_count

    # -- calls from here ----------------------------------------------------------------------------------------------------

    def homeless(self, call: Call, error: Retryable) -> None:
        """A call could not be proposed here: send it to the leader's node, or let it wait for one - or for room."""
        if isinstance(error, WAITING_HELPS_NOT) or (call.nowait and isinstance(error, Overloaded)):
            self.waiters.end(call, error)
            return
        leader = self._multi.leader_node(call.group)
        if (
            isinstance(error, NotLeader)
            and leader is not None
            and leader != self._node
            and self.linked(leader)
        ):
            self._send(call, leader)
        elif self._parked_count >= PARKED_MAX:
            self.waiters.end(call, Overloaded(f"{PARKED_MAX} calls wait for a leader"))
        else:
            self._parked.setdefault(call.group, []).append(call)
            self._parked_count += 1

    def _send(self, call: Call, node: int) -> None:
        if type(call.payload) is not bytes:
            body = msgpack.packb(call.payload)
            flags = int(MessageFlag.FLAG_TRANSFER)  # several entries for one call
        else:
            body, flags = call.payload, 0
        context = next(self._contexts)
        self._multi.post(
            node, MessageKind.MSG_FORWARD, group=call.group, context=context, body=body, flags=flags
        )
        call.forwarded_to = node
        self._away[context] = call
        self.forwarded += 1
        self.kick()

    def retry(self, group: int | None = None) -> None:
        """A leader may be known now, or there may be room: try what waits, of one group or of all."""
        groups = [group] if group is not None else list(self._parked)
        for one in groups:
            calls = self._parked.pop(one, None)
            if calls:
                self._parked_count -= len(calls)
                for call in calls:
                    self.waiters.again(call)

    def expire(self, now_ns: int) -> None:
        """End what is past its deadline. What never left here did not happen, but one answer for all is easier to handle."""
        for group, calls in list(self._parked.items()):
            kept = []
            for call in calls:
                if self.waiters.given_up(call):
                    continue
                if call.deadline_ns <= now_ns:
                    self.waiters.end(
                        call,
                        DeadlineExceeded("the time was up while no leader could take the command"),
                    )
                else:
                    kept.append(call)
            self._parked_count -= len(calls) - len(kept)
            if kept:
                self._parked[group] = kept
            else:
                del self._parked[group]
        for context, call in list(self._away.items()):
            if call.deadline_ns <= now_ns:
                del self._away[context]
                self.waiters.end(
                    call, DeadlineExceeded("the time was up while another node had the command")
                )

    def link_down(self, node: int) -> None:
        """The link is gone: what was on its way there may have happened, and who asked us from there has heard the same."""
        self.waiters.disown(node)
        for context, call in list(self._away.items()):
            if call.forwarded_to == node:
                del self._away[context]
                self.waiters.end(
                    call, LinkLost(f"the link to node {node} broke before its answer came")
                )

    def close(self, error: MultiRaftError) -> None:
        """The node ends because of ``error``: what waits here did not happen, what another node has may have (pitfall 93)."""
        for calls in self._parked.values():
            for call in calls:
                self.waiters.end(call, error)
        unknown = OutcomeUnknown("this node ended while another node had the command")
        unknown.__cause__ = error
        for call in self._away.values():
            self.waiters.end(call, unknown)
        self._away.clear()
        self._parked.clear()
        self._parked_count = 0

    # -- messages -------------------------------------------------------------------------------------------------------------

    def received(self, node: int, group: int, context: int, flags: int, body: bytes) -> None:
        """Another node forwards a command. Raises PeerProtocolError for a body that is none."""
        payload: Any = body
        if flags & MessageFlag.FLAG_TRANSFER:
            try:
                payload = msgpack.unpackb(body, use_list=True)
            except (ValueError, msgpack.UnpackException) as error:
                raise PeerProtocolError(f"a forwarded call that cannot be read: {error}") from error
            if (
                not isinstance(payload, list)
                or not all(isinstance(one, bytes) for one in payload)
                or not payload
            ):
                raise PeerProtocolError("a forwarded call that is no list of commands")
        self.waiters.submit_for(node, context, group, payload, self._clock_ns() + self._timeout_ns)

    def answer(self, call: Call, value: object) -> None:
        """What became of another node's call goes back to it."""
        if self.is_users(call.group) and not isinstance(value, BaseException):
            self._multi.post(
                call.origin,
                MessageKind.MSG_FORWARD_ACK,
                context=call.context,
                flags=RESULT,
                body=encode_results(value, type(call.payload) is list),
            )
        elif isinstance(value, int):
            self._multi.post(
                call.origin,
                MessageKind.MSG_FORWARD_ACK,
                context=call.context,
                index=value,
                term=call.term,
            )
        else:
            error = (
                value
                if isinstance(value, BaseException)
                else InvalidCommand("the answer cannot be sent to another node")
            )
            body = encode_refusal(error)
            self._multi.post(
                call.origin,
                MessageKind.MSG_FORWARD_ACK,
                context=call.context,
                flags=REJECT,
                body=body,
            )
        self.kick()

    def answered(self, node: int, context: int, index: int, flags: int, body: bytes) -> None:
        """The answer to a call of ours. One that nobody waits for any more is dropped."""
        call = self._away.get(context)
        if call is None or call.forwarded_to != node:
            return
        del self._away[context]
        if flags & RESULT:
            self.waiters.end(call, decode_results(body, type(call.payload) is list))
            return
        if not flags & REJECT:
            self.waiters.end(call, index)
            return
        refusal = decode_refusal(body)
        if isinstance(refusal, Retryable):
            call.forwarded_to = 0
            # A leader that has moved on is looked for again; what it says of its own state is passed on as it is.
            moved = isinstance(refusal, NotLeader)
            self.homeless(call, NoLeader(str(refusal)) if moved else refusal)
        else:
            self.waiters.end(call, refusal)
