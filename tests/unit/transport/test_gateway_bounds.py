"""What all clients of a node together may hold, how long one may take over a frame, and how much they may make a node log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from multiraft import Config, ConfigError
from multiraft.errors import Overloaded
from multiraft.transport import calls
from multiraft.transport.calls import Word
from multiraft.transport.gateway import GatewayConnection
from multiraft.transport.hello import Farewell
from multiraft.transport.options import TransportOptions
from multiraft.transport.sparing import Sparing
from tests.unit.transport.harness import Arun
from tests.unit.transport.test_gateway import (
    OPTIONS,
    Plain,
    Server,
    call,
    plain,
    serving,
    until,
)

KIB = 1024


@asynccontextmanager
async def clients(server: Server, count: int) -> AsyncIterator[list[Plain]]:
    """Plain sockets that the node has welcomed."""
    async with AsyncExitStack() as stack:
        found = [
            await stack.enter_async_context(plain(server.gateway.address)) for _ in range(count)
        ]
        for one in found:
            one.writer.write(calls.encode_hello(0))
            assert (await one.frame() or [])[0] == Word.WELCOME
        yield found


def test_calls_of_all_clients_share_one_bound_and_wait_for_each_other(arun: Arun) -> None:
    async def main() -> None:
        options = replace(OPTIONS, clients_bytes_max=400 * KIB)
        async with serving(options) as server, clients(server, 3) as found:
            server.echo = False
            for one in found:
                one.writer.write(b"".join(call(n, bytes(50 * KIB)) for n in range(1, 11)))
            ledger = server.gateway.ledger
            await until(lambda: ledger.full)
            answered, most = 0, 0
            while answered < 30:
                await until(lambda: bool(server.taken))
                most = max(most, len(server.taken), ledger.calls_bytes)
                connection, number, _ = server.taken.pop(0)
                connection.answer(number, None)
                answered += 1
            assert most <= (400 + 3 * (256 + 50)) * KIB, (
                "one read of each socket is all there is beyond"
            )
            for one in found:
                numbers = [(await one.frame() or [])[1] for _ in range(10)]
                assert numbers == list(range(1, 11)), "a client was not answered, or not in order"
            assert ledger.calls_bytes == 0 and not ledger.full
            assert len(server.gateway.connections) == 3

    arun(main())


def test_a_client_whose_calls_take_all_there_is_for_too_long_goes_and_others_go_on(
    arun: Arun,
) -> None:
    """Holding back frees nothing of frames that are never finished: whoever holds most has to go."""

    async def main() -> None:
        options = replace(OPTIONS, clients_bytes_max=400 * KIB, client_stall_s=0.3)
        async with serving(options) as server, clients(server, 3) as (greedy, modest, other):
            ledger = server.gateway.ledger
            large, small = call(1, bytes(1024 * KIB)), call(1, bytes(150 * KIB))
            modest.writer.write(small[: 100 * KIB])
            await until(lambda: ledger.calls_bytes == 100 * KIB)
            greedy.writer.write(large[: 400 * KIB])
            await until(lambda: ledger.full)
            other.writer.write(call(1, b"waits"))
            assert [one[0] for one in await greedy.rest()] in ([], [Word.GOODBYE])
            assert await other.frame() == [Word.ANSWER, 1, [b"waits"]]
            await until(lambda: server.gone == 1)
            assert ledger.calls_bytes == 100 * KIB
            modest.writer.write(small[100 * KIB :])
            assert (await modest.frame() or [])[:2] == [Word.ANSWER, 1]

    arun(main())


def test_clients_whose_half_sent_calls_reach_the_bound_are_read_one_after_another(
    arun: Arun,
) -> None:
    """Nobody does anything wrong: if all of them waited, none would ever be whole, and each would be sent away in its turn."""

    async def main() -> None:
        options = replace(OPTIONS, clients_bytes_max=400 * KIB, client_stall_s=3600.0)
        async with serving(options) as server, clients(server, 5) as found:
            ledger, frame = server.gateway.ledger, call(1, bytes(150 * KIB))
            for count, one in enumerate(found, 1):
                one.writer.write(frame[: 90 * KIB])
                here = count * 90 * KIB
                await until(lambda here=here: ledger.full or ledger.calls_bytes == here)  # type: ignore[misc]
            assert ledger.full and ledger.unanswered == 0
            for one in found:
                one.writer.write(frame[90 * KIB :])
            for one in found:
                assert (await one.frame() or [])[:2] == [Word.ANSWER, 1]
            assert ledger.calls_bytes == 0 and not ledger.full
            assert len(server.gateway.connections) == 5

    arun(main())


def test_calls_that_came_whole_are_taken_though_all_clients_are_held_back(arun: Arun) -> None:
    async def main() -> None:
        options = replace(OPTIONS, clients_bytes_max=90 * KIB, client_stall_s=3600.0, calls_max=1)
        async with serving(options) as server, clients(server, 5) as found:
            server.echo = False
            ledger, two = server.gateway.ledger, call(1) + call(2, bytes(20 * KIB))
            for count, one in enumerate(found, 1):
                one.writer.write(two)
                here = count * len(two)
                await until(lambda here=here: ledger.full or ledger.calls_bytes == here)  # type: ignore[misc]
            assert ledger.full and ledger.unanswered == 5
            server.echo = True
            server.answer_all()
            for one in found:
                numbers = [(await one.frame() or [])[1] for _ in range(2)]
                assert numbers == [1, 2]
            assert ledger.calls_bytes == 0 and not ledger.full

    arun(main())


def test_the_client_that_leaves_most_answers_unread_goes_first(arun: Arun) -> None:
    async def main() -> None:
        options = replace(OPTIONS, clients_bytes_max=40 * KIB * KIB)
        async with serving(options) as server, clients(server, 3) as (worst, bad, good):
            server.echo = False

            async def leave_unread(client: Plain, size: int) -> GatewayConnection:
                client.writer.transport.pause_reading()  # type: ignore[attr-defined]
                client.writer.write(call(1))
                await until(lambda: bool(server.taken))
                connection, number, _ = server.taken.pop()
                connection.answer(number, bytes(size))
                return connection

            first = await leave_unread(worst, 30 * KIB * KIB)
            second = await leave_unread(bad, 20 * KIB * KIB)
            assert isinstance(first.error, Overloaded) and first.over
            assert not second.over
            assert server.gateway.ledger.answers_bytes == second.unread_bytes() > 0
            server.echo = True
            good.writer.write(call(1, b"read"))
            assert await good.frame() == [Word.ANSWER, 1, [b"read"]]

    arun(main())


@pytest.mark.slow
def test_a_frame_that_is_begun_and_not_finished_ends_its_connection_and_silence_does_not(
    arun: Arun,
) -> None:
    async def main() -> None:
        options = replace(OPTIONS, client_stall_s=0.4, calls_max=1)
        async with serving(options) as server, clients(server, 4) as (half, drops, silent, held):
            held.writer.write(call(1, operation=1))
            await held.frame()
            server.echo = False
            held.writer.write(call(2) + call(3) + call(4)[:-1])
            half.writer.write(call(1, b"x" * 100)[:50])

            async def drip() -> None:
                with contextlib.suppress(OSError):
                    for byte in call(1, b"x" * 500):
                        drops.writer.write(bytes([byte]))
                        await asyncio.sleep(0.02)

            dripping = asyncio.ensure_future(drip())
            for one in (half, drops):
                assert [frame[2] for frame in await one.rest()] == [Farewell.PROTOCOL]
            await until(lambda: server.gone == 2)
            dripping.cancel()
            assert len(server.gateway.connections) == 2, "silence is allowed, and so is waiting"
            server.echo = True
            server.answer_all()
            assert [(await held.frame() or [])[1] for _ in range(2)] == [2, 3]
            silent.writer.write(call(1, b"still here"))
            assert await silent.frame() == [Word.ANSWER, 1, [b"still here"]]
            assert [frame[2] for frame in await held.rest()] == [Farewell.PROTOCOL]

    arun(main())


@pytest.mark.slow
def test_a_hello_that_is_never_finished_ends_its_connection(arun: Arun) -> None:
    async def main() -> None:
        options = replace(OPTIONS, hello_timeout_s=0.2)
        async with serving(options) as server, plain(server.gateway.address) as stranger:
            stranger.writer.write(calls.encode_hello(0)[:-3])
            assert await stranger.rest() == []
            assert not server.gateway.connections

    arun(main())


def test_clients_that_break_the_rules_make_a_node_say_so_once_a_second(
    arun: Arun, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving() as server:
            for _ in range(20):
                async with clients(server, 1) as (hostile,):
                    hostile.writer.write(call(1, operation=99))
                    await hostile.rest()
            await until(lambda: server.gone == 20)

    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "multiraft"):
        arun(main())
    # A slow machine may say so more often, and asyncio has warnings of its own about it.
    said = [record for record in caplog.records if record.name.startswith("multiraft")]
    assert 1 <= len(said) <= 2 + (time.monotonic() - began), caplog.messages


def test_a_line_says_how_many_were_left_out_before_it(
    arun: Arun, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "get_running_loop", Clock)
            for number in range(7):
                complaints.log(logging.WARNING, "trouble %d", number, extra={"node": 7})

    class Clock:
        times = iter([100.0] * 5 + [101.0, 102.0])

        def time(self) -> float:
            return next(Clock.times)

    complaints = Sparing(logging.getLogger("multiraft.transport"))
    with caplog.at_level(logging.WARNING, "multiraft"):
        arun(main())
    assert caplog.messages == [
        "trouble 0",
        "trouble 5 (and 4 more such lines, left out)",
        "trouble 6",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clients_max", 0),
        ("clients_max", 1.5),
        ("clients_bytes_max", 1024),
        ("clients_bytes_max", "much"),
        ("client_stall_s", 0),
    ],
)
def test_bounds_of_clients_that_cannot_work_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        Config.from_mapping({name: value})


def test_the_bounds_of_a_node_are_those_of_its_configuration() -> None:
    given = {"clients_max": 3, "clients_bytes_max": 64 * KIB * KIB, "client_stall_s": 2.5}
    options = TransportOptions.of(Config.from_mapping(given | {"link_queue_bytes_max": 7}))
    assert options.queue_bytes_max == 7
    for name, value in given.items():
        assert getattr(options, name) == value
