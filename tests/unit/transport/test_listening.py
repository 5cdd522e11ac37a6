"""Where a node may listen, which addresses work, and that removing and closing leave nothing behind."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import time

import pytest

from multiraft.errors import (
    Closed,
    ConfigError,
)
from multiraft.ids import NodeId
from multiraft.transport.options import TransportOptions
from multiraft.transport.transport import LoopTransport
from tests.unit.transport.harness import Arun, Recorder, cluster, fill, make_frame, pair, poll
from tests.unit.transport.peers import Raw, Relay

# -- listening, addresses, closing -----------------------------------------------------------------------------------------


def test_an_address_in_use_is_a_plain_os_error(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            await nodes.add(Recorder(1))
            second = LoopTransport(NodeId(2), Recorder(2), generator=random.Random(2))
            with pytest.raises(OSError) as caught:
                await second.listen(nodes.addresses[1])
            assert caught.value.errno == errno.EADDRINUSE
            await second.close()

    arun(main())


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_listening_beyond_loopback_needs_tls_or_insecure(arun: Arun, address: str) -> None:
    async def main() -> None:
        transport = LoopTransport(NodeId(1), Recorder(1), generator=random.Random(1))
        with pytest.raises(ConfigError, match="insecure=True"):
            await transport.listen(address)
        await transport.close()
        if address.startswith("0.0.0.0"):
            trusting = LoopTransport(
                NodeId(1), Recorder(1), generator=random.Random(1), insecure=True
            )
            bound = await trusting.listen(address)
            assert bound.startswith("0.0.0.0:") and not bound.endswith(":0")
            await trusting.close()

    arun(main())


@pytest.mark.parametrize(
    "address", ["", "7000", "host", "host:", ":7000", "host:70000", "::1:7000", "h:-1", "a..b:1"]
)
def test_an_address_that_cannot_work_is_a_config_error(arun: Arun, address: str) -> None:
    async def main() -> None:
        transport = LoopTransport(NodeId(1), Recorder(1), generator=random.Random(1))
        with pytest.raises(ConfigError):
            await transport.listen(address)
        with pytest.raises(ConfigError):
            transport.set_address(NodeId(2), address)
        await transport.close()

    arun(main())


def test_localhost_and_ipv6_addresses_work(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            nodes.addresses[1] = "localhost:0"
            nodes.addresses[2] = "[::1]:0" if socket.has_ipv6 and ipv6_works() else "127.0.0.1:0"
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(1, 2)
            await one.until_up(2)

    arun(main())


def ipv6_works() -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_a_changed_address_is_dialled_without_waiting(arun: Arun) -> None:
    async def main() -> None:
        slow = TransportOptions(backoff_min_s=30, backoff_max_s=60)
        async with cluster(slow) as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            nobody = LoopTransport(NodeId(9), Recorder(9), generator=random.Random(9))
            empty = await nobody.listen("127.0.0.1:0")
            await nobody.close()
            nodes.transports[1].set_address(NodeId(2), empty)
            link = nodes.transports[1]._links.link(NodeId(2))
            await poll(lambda: link.failures == 1, "a failed dial")
            nodes.join(1, 2)
            await one.until_up(2)

    arun(main())


def test_remove_ends_the_link_and_the_dialling(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            nodes.join(1, 2)
            await two.until_up(1)
            nodes.transports[1].remove(NodeId(2))
            nodes.transports[1].remove(NodeId(2))
            assert one.story == [("up", 2), ("down", 2)]
            await two.until_down(1)
            assert two.downs == [(1, None)]
            await poll(lambda: not nodes.transports[1]._host.connections, "no connection")
            await poll(lambda: not len(nodes.transports[1]._tasks), "no task")
            assert not nodes.transports[1].send(NodeId(2), make_frame(b"x"))

    arun(main())


def test_close_is_idempotent_says_goodbye_and_leaves_nothing(arun: Arun) -> None:
    async def main() -> None:
        async with pair() as (nodes, one, two):
            transport = nodes.transports[1]
            await asyncio.gather(transport.close(), transport.close())
            await transport.close()
            await two.until_down(1)
            assert two.downs[0] == (1, None)
            assert one.story == [("up", 2), ("down", 2)]
            assert not len(transport._tasks) and not transport._host.connections
            assert not transport.send(NodeId(2), make_frame(b"x"))
            with pytest.raises(Closed):
                transport.set_address(NodeId(2), nodes.addresses[2])
            with pytest.raises(Closed):
                await transport.listen("127.0.0.1:0")
            with pytest.raises(Closed):
                await transport.send_file(NodeId(2), 1, "/nonexistent")

    arun(main())


@pytest.mark.slow
def test_close_does_not_wait_for_a_peer_that_reads_nothing(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            relay = Relay(nodes.addresses[2])
            sender = nodes.transports[1]
            sender.set_address(NodeId(2), await relay.open())
            await one.until_up(2)
            relay.running.clear()
            await fill(sender, 2)
            async with asyncio.timeout(10):
                await sender.close()
            relay.running.set()
            await relay.close()

    arun(main())


def test_close_in_the_middle_of_dials_and_hellos(arun: Arun) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one)
            await nodes.add(two)
            mute = socket.socket()
            mute.bind(("127.0.0.1", 0))
            mute.listen(1)
            for node in range(3, 8):  # connected by the kernel, never answered
                nodes.transports[1].set_address(NodeId(node), f"127.0.0.1:{mute.getsockname()[1]}")
            raw = [await Raw.dial(nodes.addresses[1]) for _ in range(5)]
            nodes.join(2, 1)
            nodes.join(1, 2)
            await asyncio.sleep(0)
            async with asyncio.timeout(10):
                await nodes.transports[1].close()
            for stranger in raw:
                assert await stranger.rest() == b""
                stranger.close()
            mute.close()

    arun(main())


@pytest.mark.slow
def test_an_idle_link_costs_no_turns_of_the_loop(arun: Arun) -> None:
    async def main() -> None:
        async with pair():
            await asyncio.sleep(0.05)
            begin = time.process_time()
            await asyncio.sleep(0.5)
            assert time.process_time() - begin < 0.1

    arun(main())
