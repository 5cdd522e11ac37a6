"""Whom a node lets in, and whose word about its own directory ends it (pitfalls 10, 90)."""

from __future__ import annotations

from typing import Any

import pytest

from multiraft import Config
from multiraft._core import FORMAT_VERSION
from multiraft.errors import MultiRaftError, PeerProtocolError, WrongCluster, WrongStore
from multiraft.ids import ClusterId, NodeId, StoreId
from multiraft.interfaces import Hello
from multiraft.node.peers import Peers
from multiraft.transport.hello import StaleConnection

OURS, THEIRS = ClusterId(0xA), ClusterId(0xB)


def config(count: int = 3) -> Config:
    nodes = {node: f"127.0.0.1:{7400 + node}" for node in range(1, count + 1)}
    return Config(node_id=NodeId(1), listen=nodes[1], nodes=nodes, shards=4)


def hello(node: int = 2, **changes: Any) -> Hello:
    values: dict[str, Any] = {
        "cluster_id": OURS,
        "node": NodeId(node),
        "store_id": StoreId(20 + node),
        "boot_count": 3,
        "sequence": 100,
        "format_min": FORMAT_VERSION,
        "format_max": FORMAT_VERSION,
        "bootstrapped": True,
        "config_digest": config().digest(),
    }
    return Hello(**(values | changes))


def peers(count: int = 3) -> Peers:
    made = Peers(config(count), {}, lambda record: None)
    made.cluster_id = OURS
    return made


# -- letting others in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"format_min": FORMAT_VERSION + 1, "format_max": FORMAT_VERSION + 1}, PeerProtocolError),
        ({"node": NodeId(9)}, PeerProtocolError),
        ({"cluster_id": THEIRS}, WrongCluster),
        ({"config_digest": 1}, PeerProtocolError),
        ({"store_id": StoreId(99)}, WrongStore),
        ({"boot_count": 2}, WrongStore),
        ({"sequence": 99}, WrongStore),
        ({"boot_count": 4, "sequence": 99}, WrongStore),
    ],
)
def test_p90_another_store_or_an_older_one_is_refused(
    changes: dict[str, Any], kind: type[Exception]
) -> None:
    known = peers()
    known.admit(hello())
    with pytest.raises(kind):
        known.admit(hello(**changes))
    known.admit(hello(boot_count=4, sequence=101))


def test_a_hello_that_its_own_frames_have_overtaken_is_no_older_copy() -> None:
    """It was true when it was sent; meanwhile the standing link told of newer batches."""
    known = peers()
    known.admit(hello(sequence=100))
    known.link_up(NodeId(2))
    known.told(NodeId(2), 3, 250)
    with pytest.raises(StaleConnection):
        known.admit(hello(sequence=120))
    for other in (hello(boot_count=2), hello(boot_count=4, sequence=120)):
        with pytest.raises(WrongStore):
            known.admit(other)
    known.link_down(NodeId(2))
    with pytest.raises(WrongStore, match="older copy"):
        known.admit(hello(sequence=120))


# -- being refused ---------------------------------------------------------------------------------------------------------


def refused(
    known: Peers, node: int, error: MultiRaftError, bootstrapped: bool = True
) -> MultiRaftError | None:
    return known.refused(NodeId(node), error, bootstrapped=bootstrapped)


def test_p10_one_node_of_our_cluster_that_knows_another_store_is_enough() -> None:
    error = WrongStore("wiped", said_by=OURS)
    assert refused(peers(), 2, error) is error


def test_p10_a_fresh_store_ends_when_any_cluster_knows_another() -> None:
    error = WrongStore("wiped", said_by=THEIRS)
    fresh = Peers(config(), {}, lambda record: None)
    assert refused(fresh, 2, error, bootstrapped=False) is error


def test_what_we_say_of_another_ends_nobody_here() -> None:
    known = peers(2)
    for error in (WrongStore("theirs"), WrongCluster("theirs"), PeerProtocolError("other")):
        assert refused(known, 2, error) is None


@pytest.mark.parametrize("said_by", [0, THEIRS])
def test_a_node_that_may_be_of_another_cluster_ends_nobody_alone(said_by: int) -> None:
    """It was started with the wrong directory: it says of all the others that theirs are wrong."""
    known = peers()
    assert refused(known, 3, WrongStore("swapped", said_by=said_by)) is None
    assert refused(known, 3, WrongCluster("another", said_by=THEIRS)) is None
    assert refused(known, 3, WrongCluster("another", said_by=THEIRS)) is None


@pytest.mark.parametrize(("count", "needed"), [(2, 1), (3, 2), (4, 2), (5, 3)])
def test_so_many_that_no_majority_is_left_end_a_node(count: int, needed: int) -> None:
    known = peers(count)
    error = WrongCluster("another", said_by=THEIRS)
    ends = [refused(known, node, error) for node in range(2, 2 + needed)]
    assert ends == [None] * (needed - 1) + [error]


def test_a_link_that_stands_takes_a_refusal_back() -> None:
    known = peers()
    error = WrongCluster("another", said_by=THEIRS)
    assert refused(known, 2, error) is None
    known.admit(hello(2))
    known.link_up(NodeId(2))
    assert refused(known, 3, error) is None
    assert refused(known, 2, error) is error
