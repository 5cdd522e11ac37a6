"""The table that finds a group's replica: it agrees with a dict, whatever comes and goes."""

from __future__ import annotations

import random

from multiraft.raft import MultiRaft

from .harness import PLAIN, voters


def test_groups_come_and_go_and_are_found() -> None:
    """Ids of 64 bits, many of them close together, so that places in the table are fought over."""
    draw = random.Random(11)
    ids = [draw.randrange(200) for _ in range(60)] + [draw.randrange(1 << 64) for _ in range(60)]
    multi = MultiRaft(PLAIN, store_id=1)
    here: dict[int, int] = {}
    for step in range(1200):
        group = draw.choice(ids)
        if group in here:
            multi.remove(group)
            del here[group]
        elif len(here) < 90 or step % 3:
            here[group] = step % 1000 + 1
            multi.create(group, replica=here[group], membership=voters(1, 2, 3))
        if step % 50 == 0:
            multi.ready()
            multi.persisted(multi.sequence)
        assert len(multi) == len(here)
        probe = draw.choice(ids)
        assert (probe in multi) == (probe in here)
        if step % 100 == 0:
            assert {one for one in ids if one in multi} == set(here)
            for one in here:
                assert multi.replica(one).status().replica == here[one]
