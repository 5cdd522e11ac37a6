"""multiraft: many Raft groups in one process, on one loop, one transport and one log."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
