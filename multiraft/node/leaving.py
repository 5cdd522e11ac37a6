"""How a node leaves: leaderships are handed over, calls on their way get their answers, and only then is anything closed.

Each step has an election timeout at most; what is not done by then is answered with OutcomeUnknown by whoever closes. Nothing
here closes anything, and a node that has failed does not leave: it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from multiraft.node.wiring import Parts


class Leaving:
    """The way out of one node. ``ended`` says that it failed meanwhile."""

    def __init__(self, parts: Parts, *, ended: Callable[[], bool]) -> None:
        self._parts = parts
        self._config = parts.config
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self.draining = False
        """Leaderships are handed over: from here on every turn may change what is waited for."""

    async def hand_over(self) -> None:
        """Give every leadership here to a member that can take it, within one election timeout."""
        self._parts.admission.leave()
        until = self._loop.time() + self._config.election_ms / 1000
        while not self._ended() and self._loop.time() < until:
            if not self._hand_over_what_is_led():
                return
            await self._something_changes()

    def _hand_over_what_is_led(self) -> bool:
        """Is anything led here that another could take? It is on its way then."""
        if not self._others_linked():
            return False
        multi = self._parts.multi
        led = [group for group in multi.groups() if multi.leads(group)]
        begun = [multi.hand_over(group, self._parts.peers.linked) for group in led]
        if any(
            begun
        ):  # else the turn that told us of a change would be followed by another, and so on
            self._parts.turn.kick()
        return bool(led)

    def _others_linked(self) -> bool:
        me, linked = self._config.node_id, self._parts.peers.linked
        return any(node != me and linked(node) for node in self._config.voters)

    async def finish_calls(self) -> None:
        """Let calls that are on their way get their answers, within one election timeout.

        Others forward here until they have heard who leads now: a link that broke before would make each such call unknown. So
        this node stays, and says that it does not lead, until nobody has asked for as long as it takes to hear of a leader.
        """
        self.draining = True
        parts, config = self._parts, self._config
        now = quiet_since = self._loop.time()
        until, asked = now + config.election_ms / 1000, parts.forwarding.asked
        quiet_s = 2 * config.heartbeat_ms / 1000
        while not self._ended() and now < until:
            calls = parts.waiters.waiting or len(parts.forwarding) or len(parts.reads)
            if calls or parts.forwarding.asked != asked or self._hand_over_what_is_led():
                quiet_since, asked = now, parts.forwarding.asked
            elif not self._others_linked() or now - quiet_since >= quiet_s:
                return
            await self._something_changes()
            now = self._loop.time()

    async def _something_changes(self) -> None:
        """Wait for the next change of a role - or, once the node is draining, for the next turn - but no longer than a tick."""
        changed = self._parts.changes.next()
        await asyncio.wait({changed}, timeout=self._config.tick_ms / 1000)
