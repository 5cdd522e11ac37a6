"""Tests of the ticket and its waker: every way to wait that asyncio knows, on both loops, with debug off and on."""
