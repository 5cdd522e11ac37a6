"""Hellos, goodbyes and options as values."""

from __future__ import annotations

import contextlib
import random

import pytest

from multiraft._core import FrameKind
from multiraft.errors import (
    ConfigError,
    FormatUnsupported,
    MultiRaftError,
    Overloaded,
    PeerProtocolError,
    WrongCluster,
    WrongStore,
)
from multiraft.ids import NodeId
from multiraft.transport.address import format_address, is_loopback, parse_address
from multiraft.transport.hello import (
    FRAME_HEADER,
    CrossedDial,
    Farewell,
    Greeting,
    Purpose,
    StaleConnection,
    Step,
    build_frame,
    check_greeting,
    decode_goodbye,
    decode_hello,
    encode_goodbye,
    encode_hello,
    error_for,
    farewell_for,
)
from multiraft.transport.options import TransportOptions
from tests.unit.transport.harness import hello_of, seal


def greeting(node: int = 1, target: int = 2, **changes: object) -> Greeting:
    return Greeting(hello_of(node, **changes), Step.OFFER, Purpose.LINK, NodeId(target), 1, 1)


def test_a_golden_hello() -> None:
    """The bytes of docs/formats.md, written out by hand."""
    frame = seal(
        encode_hello(hello_of(1, boot_count=3), Step.ANSWER, Purpose.BULK), epoch=0x300000001
    )
    assert len(frame) == 96
    assert frame[:16].hex() == "4d524631" + "60000000" + "0100" + "0200" + "00000000"
    assert frame[16:56].hex() == (
        "c100000000000000"
        + "6500000000000000"
        + "01000000"
        + "02000000"
        + "0100000003000000"
        + "0100000000000000"
    )
    assert frame[64:].hex() == (
        "01"
        + "02"
        + "0200"
        + "03000000"
        + "0500000000000000"
        + "0100"
        + "0100"
        + "01"
        + "000000"
        + "4d00000000000000"
    )


def test_hellos_survive_encoding() -> None:
    hello = hello_of(
        4_000_000_000,
        boot_count=2**32 - 1,
        sequence=2**64 - 1,
        format_min=3,
        format_max=65535,
        bootstrapped=False,
        config_digest=2**64 - 1,
    )
    frame = seal(
        encode_hello(hello, Step.CONFIRM, Purpose.LINK),
        source=hello.node,
        target=9,
        epoch=5,
        sequence=2,
        store=hello.store_id,
    )
    read = decode_hello(memoryview(frame))
    assert read == Greeting(hello, Step.CONFIRM, Purpose.LINK, NodeId(9), 5, 2)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(64, 2), (65, 0), (65, 4), (66, 0), (66, 3), (84, 2), (12, 1)],
    ids=["version", "step 0", "step 4", "purpose 0", "purpose 3", "bootstrapped", "count"],
)
def test_a_hello_with_a_field_out_of_range_is_refused(offset: int, value: int) -> None:
    frame = bytearray(seal(encode_hello(hello_of(1), Step.OFFER, Purpose.LINK)))
    decode_hello(memoryview(bytes(frame)))
    frame[offset] = value
    with pytest.raises(PeerProtocolError):
        decode_hello(memoryview(bytes(frame)))


@pytest.mark.parametrize("names", [{"source": 0}, {"sequence": 0}, {"epoch": 0}], ids=str)
def test_a_hello_without_a_name_is_refused(names: dict[str, int]) -> None:
    frame = seal(encode_hello(hello_of(1), Step.OFFER, Purpose.LINK), **names)
    with pytest.raises(PeerProtocolError):
        decode_hello(memoryview(frame))


def test_check_greeting() -> None:
    own = hello_of(2, format_min=2, format_max=3)
    check_greeting(own, greeting(format_min=1, format_max=2), dialled=None)
    check_greeting(own, greeting(format_min=3, format_max=9), dialled=NodeId(1))
    for wrong, dialled, kind in (
        (greeting(format_min=1, format_max=1), None, FormatUnsupported),
        (greeting(format_min=4, format_max=9), None, FormatUnsupported),
        (greeting(cluster_id=6), None, WrongCluster),
        (greeting(node=2), None, PeerProtocolError),
        (greeting(target=3), None, PeerProtocolError),
        (greeting(target=0), None, PeerProtocolError),
        (greeting(), NodeId(4), PeerProtocolError),
    ):
        with pytest.raises(kind):
            check_greeting(own, wrong, dialled=dialled)
    check_greeting(own, greeting(cluster_id=0, format_min=2, format_max=2), dialled=None)
    check_greeting(hello_of(2, cluster_id=0), greeting(cluster_id=6), dialled=None)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (WrongCluster("c"), WrongCluster),
        (WrongStore("s"), WrongStore),
        (FormatUnsupported("f"), FormatUnsupported),
        (CrossedDial("x"), CrossedDial),
        (StaleConnection("o"), StaleConnection),
        (Overloaded("b"), Overloaded),
        (PeerProtocolError("p"), PeerProtocolError),
        (MultiRaftError("whatever"), MultiRaftError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_arrives_as_its_own_kind(
    error: MultiRaftError, kind: type[MultiRaftError]
) -> None:
    frame = seal(encode_goodbye(farewell_for(error), str(error)))
    arrived = error_for(*decode_goodbye(memoryview(frame)))
    assert type(arrived) is kind
    assert str(error) in str(arrived)


def test_goodbyes() -> None:
    assert error_for(Farewell.CLOSING, "bye") is None
    assert decode_goodbye(memoryview(encode_goodbye(Farewell.BUSY, "ü" * 1000)))[1].startswith(
        "üüü"
    )
    assert len(encode_goodbye(Farewell.BUSY, "x" * 100_000)) < 1024
    told = decode_goodbye(memoryview(encode_goodbye(Farewell.BUSY, "a\x1b[2J\nb\x00")))[1]
    assert told.isprintable()
    for body in (
        b"",
        b"\0" * 7,
        b"\x63\0\0\0\0\0\0\0",
        b"\1\0\1\0\0\0\0\0",
        b"\1\0\0\0\5\0\0\0ab",
        b"\1\0\0\0" + b"\xff" * 700,
    ):
        with pytest.raises(PeerProtocolError):
            decode_goodbye(memoryview(build_frame(FrameKind.FRAME_GOODBYE, body)))


def test_random_bodies_raise_nothing_but_protocol_errors() -> None:
    chance = random.Random(9)
    for _ in range(5000):
        size = chance.choice([0, 8, 31, 32, 33, chance.randrange(700)])
        frame = memoryview(
            FRAME_HEADER.pack(*[chance.randrange(60000)] * 13) + chance.randbytes(size)
        )
        for decode in (decode_hello, decode_goodbye):
            with contextlib.suppress(PeerProtocolError):
                decode(frame)


def test_options_check_themselves() -> None:
    for wrong in (
        {"chunk_bytes": 2 * 1024 * 1024},
        {"queue_bytes_max": 0},
        {"hello_timeout_s": -1.0},
        {"backoff_min_s": 3.0},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            TransportOptions(**wrong)  # type: ignore[arg-type]


def test_addresses() -> None:
    assert parse_address("[::1]:80") == ("::1", 80)
    assert parse_address("host.example:0") == ("host.example", 0)
    for host, port in (("::1", 5), ("10.0.0.1", 6)):
        assert parse_address(format_address(host, port)) == (host, port)
    assert [
        is_loopback(host)
        for host in ("127.0.0.9", "::1", "0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0")
    ] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
