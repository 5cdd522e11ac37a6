"""Mutual TLS between nodes: who gets in, who does not, and what that costs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from multiraft.config import TlsConfig
from multiraft.errors import ConfigError, PeerProtocolError
from multiraft.ids import NodeId
from multiraft.transport.hello import Purpose, Step, encode_hello
from multiraft.transport.options import TransportOptions
from multiraft.transport.tls import check_certificate, client_context, node_name
from multiraft.transport.transport import LoopTransport
from tests.unit.transport.harness import (
    FAST,
    Arun,
    Cluster,
    Recorder,
    cluster,
    content,
    hello_of,
    make_frame,
    poll,
    seal,
)
from tests.unit.transport.peers import Raw


class Authority:
    """A CA with certificates for nodes, as PEM files."""

    def __init__(self, directory: Path):
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(directory / "ca.pem"))

    def config(self, *names: str) -> TlsConfig:
        label = names[0]
        certificate = self._authority.issue_cert(*names)
        certificate.private_key_pem.write_to_path(str(self._directory / f"{label}.key"))
        with open(self._directory / f"{label}.pem", "wb") as file:
            for blob in certificate.cert_chain_pems:
                file.write(blob.bytes())
        return TlsConfig(
            certificate=str(self._directory / f"{label}.pem"),
            key=str(self._directory / f"{label}.key"),
            authorities=str(self._directory / "ca.pem"),
        )

    def node(self, node: int) -> TlsConfig:
        return self.config(node_name(NodeId(node)))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def strange_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other-ca"))


@asynccontextmanager
async def pair_over_tls(
    authority: Authority, options: TransportOptions = FAST
) -> AsyncIterator[tuple[Cluster, Recorder, Recorder]]:
    async with cluster(options) as nodes:
        one, two = Recorder(1), Recorder(2)
        await nodes.add(one, tls=authority.node(1))
        await nodes.add(two, tls=authority.node(2))
        nodes.join(1, 2)
        await one.until_up(2)
        await two.until_up(1)
        yield nodes, one, two


@pytest.mark.slow
def test_frames_and_files_go_through_tls(arun: Arun, authority: Authority, tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one, tls=authority.node(1))
            nodes.addresses[2] = "0.0.0.0:0"  # no need to be insecure
            await nodes.add(two, tls=authority.node(2), directory=str(tmp_path / "incoming"))
            nodes.addresses[2] = nodes.addresses[2].replace("0.0.0.0", "127.0.0.1")
            nodes.join(1, 2)
            nodes.join(2, 1)
            await one.until_up(2)
            await two.until_up(1)
            chance = random.Random(4)
            sent = [chance.randbytes(size) for size in (0, 60, 4096, 262_144, 5_000_000, 1)]
            for payload in sent:
                assert nodes.transports[1].send(NodeId(2), make_frame(payload))
                await two.until(
                    lambda wanted=payload: two.received_count and two.payloads()[-1] == wanted,
                    "frame",
                )
            assert nodes.transports[2].send(NodeId(1), make_frame(b"back"))
            await one.until(lambda: one.payloads() == [b"back"], "frame back")
            path = tmp_path / "snapshot"
            path.write_bytes(chance.randbytes(1_000_000))
            await nodes.transports[1].send_file(NodeId(2), 1, str(path))
            assert content(two.files[0][2]) == content(path)
            connection = nodes.transports[1]._links.standing(NodeId(2))
            assert connection is not None and connection._transport is not None
            assert connection._transport.get_extra_info("cipher")[1] == "TLSv1.3"

    arun(main())


def test_a_node_restarts_under_tls(arun: Arun, authority: Authority) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one, tls=authority.node(1))
            await nodes.add(two, tls=authority.node(2))
            nodes.join(1, 2)
            await one.until_up(2)
            await nodes.transports[2].close()
            await one.until_down(2)
            again = Recorder(2, boot_count=2)
            await nodes.add(again, tls=authority.node(2))
            await one.until_up(2)
            await again.until_up(1)

    arun(main())


def test_a_certificate_of_another_ca_gets_nowhere(
    arun: Arun, authority: Authority, strange_authority: Authority
) -> None:
    async def main() -> None:
        async with cluster() as nodes:
            one, two = Recorder(1), Recorder(2)
            await nodes.add(one, tls=authority.node(1))
            await nodes.add(two, tls=strange_authority.node(2))
            nodes.join(1, 2)
            nodes.join(2, 1)
            for node, other in ((1, 2), (2, 1)):
                link = nodes.transports[node]._links.link(NodeId(other))
                await poll(lambda: link.failures >= 3, "failed dials")
            assert one.story == two.story == []
            assert one.admitted == two.admitted == []

    arun(main())


def test_a_certificate_speaks_for_its_own_node_only(arun: Arun, authority: Authority) -> None:
    """Node 3's key, and a web server's of the same CA, cannot be used to join as node 2 - by neither side's dial."""

    async def main() -> None:
        for stolen in (authority.node(3), authority.config("www.example.org", "multiraft-node-22")):
            async with cluster() as nodes:
                one, two = Recorder(1), Recorder(2)
                await nodes.add(one, tls=authority.node(1))
                await nodes.add(two, tls=stolen)
                nodes.join(2, 1)
                await one.until(lambda who=one: bool(who.refusals), "refusal")
                assert isinstance(one.refusals[0][1], PeerProtocolError)
                assert "certificate" in str(one.refusals[0][1])
                await two.until(lambda who=two: bool(who.refusals), "refusal")
                assert "certificate" in str(two.refusals[0][1])
                nodes.transports[2].remove(NodeId(1))
                nodes.join(1, 2)
                link = nodes.transports[1]._links.link(NodeId(2))
                await poll(lambda mine=link: mine.failures >= 2, "failed dials")
                assert one.story == two.story == []
                assert one.admitted == []

    arun(main())


@pytest.mark.slow
def test_a_plain_client_on_a_tls_port_and_the_reverse(arun: Arun, authority: Authority) -> None:
    async def main() -> None:
        async with cluster(replace(FAST, hello_timeout_s=0.3)) as nodes:
            secure, plain = Recorder(1), Recorder(2)
            await nodes.add(secure, tls=authority.node(1))
            await nodes.add(plain)
            nodes.join(1, 2)
            nodes.join(2, 1)
            for node, other in ((1, 2), (2, 1)):
                link = nodes.transports[node]._links.link(NodeId(other))
                await poll(lambda: link.failures >= 3, "failed dials")
            assert secure.story == plain.story == []
            raw = await Raw.dial(nodes.addresses[1])
            hello = encode_hello(hello_of(2), Step.OFFER, Purpose.LINK)
            await raw.say(seal(hello, source=2, target=1))
            await raw.rest()
            raw.close()
            silent = await Raw.dial(nodes.addresses[1])  # never begins its handshake
            assert await silent.rest() == b""
            silent.close()
            await poll(lambda: nodes.transports[1]._listener.strangers_count == 0, "no strangers")

    arun(main())


def test_a_client_without_a_certificate_or_with_an_old_protocol_is_refused(
    arun: Arun, authority: Authority
) -> None:
    async def main() -> None:
        config = authority.node(2)
        async with cluster() as nodes:
            one = Recorder(1)
            await nodes.add(one, tls=authority.node(1))
            bare = ssl.create_default_context(cafile=config.authorities)
            bare.check_hostname = False
            hello = seal(encode_hello(hello_of(2), Step.OFFER, Purpose.LINK), source=2, target=1)
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                raw = await Raw.dial(nodes.addresses[1], ssl=bare)
                await raw.say(hello)
                assert await raw.rest() == b""
                raw.close()
            old = client_context(config)
            old.check_hostname = False
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await Raw.dial(nodes.addresses[1], ssl=old)
            assert one.admitted == []
            await poll(lambda: nodes.transports[1]._listener.strangers_count == 0, "no strangers")

    arun(main())


@pytest.mark.slow
def test_garbage_inside_tls_costs_that_connection(arun: Arun, authority: Authority) -> None:
    async def main() -> None:
        context = client_context(authority.node(9))
        context.check_hostname = False
        chance = random.Random(6)
        async with pair_over_tls(authority) as (nodes, one, two):
            for _ in range(40):
                raw = await Raw.dial(nodes.addresses[1], ssl=context)
                await raw.say(chance.randbytes(2000))
                await raw.rest()
                raw.close()
            assert one.story == [("up", 2)] and two.story == [("up", 1)]
            await poll(lambda: nodes.transports[1]._listener.strangers_count == 0, "no strangers")

    arun(main())


def test_a_full_queue_is_bounded_under_tls_too(arun: Arun, authority: Authority) -> None:
    async def main() -> None:
        async with pair_over_tls(authority, replace(FAST, queue_bytes_max=1_000_000)) as (
            nodes,
            one,
            two,
        ):
            sender = nodes.transports[1]
            connection = nodes.transports[2]._links.standing(NodeId(1))
            assert connection is not None
            connection.pause_reading()
            taken = 0
            while sender.send(NodeId(2), make_frame(bytes(100_000))):
                taken += 1
                assert (
                    taken < 150
                )  # a megabyte waits, as much is in the encryption, the rest in the sockets
                await asyncio.sleep(0.001)
            connection.resume_reading()
            await two.until(lambda: two.received_count == taken, "all that was taken")
            assert one.story == [("up", 2)]

    arun(main())


def test_close_over_tls_leaves_nothing(arun: Arun, authority: Authority) -> None:
    async def main() -> None:
        async with pair_over_tls(authority) as (nodes, _, two):
            await nodes.transports[1].close()
            await two.until_down(1)
            assert two.downs == [(1, None)]
            assert not nodes.transports[1]._host.connections

    arun(main())


def test_unusable_files_are_config_errors(
    arun: Arun, authority: Authority, strange_authority: Authority, tmp_path: Path
) -> None:
    good = authority.node(1)
    other = strange_authority.node(1)
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")

    async def main() -> None:
        for bad, name in (
            (replace(good, authorities=str(tmp_path / "none")), "tls.authorities"),
            (replace(good, authorities=str(empty)), "tls.authorities"),
            (replace(good, certificate=str(empty)), "tls.certificate"),
            (replace(good, key=other.key), "tls.key"),
        ):
            with pytest.raises(ConfigError, match=name):
                LoopTransport(NodeId(1), Recorder(1), generator=random.Random(1), tls=bad)

    arun(main())


def test_names_are_compared_whole() -> None:
    certificate = {
        "subjectAltName": (
            ("DNS", "multiraft-node-12"),
            ("IP Address", "10.0.0.1"),
            ("URI", "multiraft-node-1"),
        )
    }
    check_certificate(certificate, NodeId(12))
    for node in (1, 2, 121):
        with pytest.raises(PeerProtocolError):
            check_certificate(certificate, NodeId(node))
    with pytest.raises(PeerProtocolError):
        check_certificate(None, NodeId(12))
