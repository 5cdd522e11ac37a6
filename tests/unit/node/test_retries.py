"""When the next snapshot goes to a member that did not take the last ones."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from multiraft.node.retries import PAUSE_TICKS_MAX, RETRY_TICKS, Retries

KEY = (7, 3)
NODE = 2


class Leading:
    """What a leader knows of its members: nothing else is asked of ``MultiRaft``."""

    def __init__(self) -> None:
        self.matches: dict[tuple[int, int], int] = {}
        self.base_index = 100

    def match_index(self, group: int, replica: int) -> int | None:
        return self.matches.get((group, replica))

    def indexes(self, group: int) -> tuple[int, int, int, int, int]:
        return self.base_index, 200, 200, 200, 200


@pytest.fixture
def leading() -> Leading:
    one = Leading()
    one.matches[KEY] = 10
    return one


@pytest.fixture
def retries(leading: Any) -> Retries:
    return Retries(leading)


def ticks_until_due(retries: Retries) -> int:
    for ticks in range(1, 10 * PAUSE_TICKS_MAX):
        if retries.tick() == [KEY]:
            return ticks
    raise AssertionError("it is never asked again")


def refuse(retries: Retries, times: int) -> list[int]:
    """The pauses after snapshots that leave whole, each of which is followed by a wish for another."""
    pauses = []
    for _ in range(times):
        assert not retries.must_wait(KEY, NODE)
        retries.sent(KEY, NODE, 150)
        assert retries.must_wait(KEY, NODE)
        pauses.append(ticks_until_due(retries))
    return pauses


def test_each_snapshot_that_is_not_taken_doubles_the_pause_up_to_a_limit(
    retries: Retries, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pauses = refuse(retries, 8)
    assert pauses == [5, 10, 20, 40, 80, 160, 160, 160]
    assert retries.failures == 8
    assert [vars(one)["group"] for one in caplog.records] == [7] * 8
    assert "150 was sent and is not taken; the next one not before 160 ticks" in caplog.text


def test_what_cannot_be_made_or_sent_counts_the_same(retries: Retries) -> None:
    retries.failed(KEY, NODE, "no file")
    assert retries.must_wait(KEY, NODE)
    assert ticks_until_due(retries) == RETRY_TICKS
    assert not retries.must_wait(KEY, NODE)
    retries.failed(KEY, NODE, "no link")
    assert ticks_until_due(retries) == 2 * RETRY_TICKS


def test_no_place_is_no_failure_and_shortens_no_pause(retries: Retries) -> None:
    retries.later(KEY)
    assert ticks_until_due(retries) == RETRY_TICKS
    assert retries.failures == 0
    refuse(retries, 3)
    retries.sent(KEY, NODE, 150)
    retries.must_wait(KEY, NODE)
    retries.later(KEY)
    assert ticks_until_due(retries) == 8 * RETRY_TICKS


def test_a_member_that_took_it_late_waits_for_one_tick_and_begins_anew(
    retries: Retries, leading: Leading
) -> None:
    refuse(retries, 6)
    retries.sent(KEY, NODE, 150)
    assert retries.must_wait(KEY, NODE)
    retries.tick()
    leading.matches[KEY] = 150  # it was only slow
    assert ticks_until_due(retries) == 1
    leading.matches[KEY] = 10
    assert refuse(retries, 1) == [RETRY_TICKS]


def test_a_member_that_took_it_and_is_behind_again_does_not_wait(
    retries: Retries, leading: Leading
) -> None:
    refuse(retries, 3)
    retries.sent(KEY, NODE, 150)
    leading.matches[KEY], leading.base_index = 150, 180
    assert not retries.must_wait(KEY, NODE)
    assert retries.failures == 3


def test_a_new_link_ends_the_pauses_of_its_node_alone(retries: Retries, leading: Leading) -> None:
    other = (8, 4)
    leading.matches[other] = 10
    refuse(retries, 5)
    for _ in range(4):
        retries.failed(other, 9, "no file")
    retries.sent(KEY, NODE, 150)
    retries.must_wait(KEY, NODE)
    retries.link_up(NODE)
    assert retries.tick() == [KEY]
    assert retries.tick() == []
    assert refuse(retries, 1) == [RETRY_TICKS]


def test_nothing_is_remembered_of_groups_that_are_led_elsewhere(
    retries: Retries, leading: Leading
) -> None:
    refuse(retries, 4)
    del leading.matches[KEY]
    assert retries.tick() == []
    leading.matches[KEY] = 10
    assert refuse(retries, 1) == [RETRY_TICKS]
