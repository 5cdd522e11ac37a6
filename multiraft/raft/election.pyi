"""Elections: only the kinds of campaign are seen from Python."""

from __future__ import annotations

from enum import IntEnum

class Campaign(IntEnum):
    CAMPAIGN_PRE = 0
    CAMPAIGN = 1
    CAMPAIGN_TRANSFER = 2
