"""What a node says when it ends, to whoever looks after it."""

from __future__ import annotations

from multiraft.cli.exits import Exit, exit_of
from multiraft.errors import LogCorrupt, SyncFailed


def test_a_failed_sync_is_no_reason_to_throw_a_node_away() -> None:
    code, line = exit_of(SyncFailed("restart the machine"))
    assert code is Exit.DAMAGED
    assert line.startswith("restart the machine") and "restore" not in line


def test_damage_is() -> None:
    code, line = exit_of(LogCorrupt("batch 7 is damaged"))
    assert code is Exit.DAMAGED and "restore this node from the others" in line
