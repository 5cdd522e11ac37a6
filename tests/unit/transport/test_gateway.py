"""The client port and a client's end of it: order, bounds, goodbyes, and other programs that say anything (pitfall 82)."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from multiraft.errors import (
    ConfigError,
    DeadlineExceeded,
    FormatUnsupported,
    LinkLost,
    MultiRaftError,
    NoLeader,
    Overloaded,
    PeerProtocolError,
    TooLarge,
    WrongCluster,
)
from multiraft.transport import calls
from multiraft.transport.caller import CallerConnection, Dialler, Unsent
from multiraft.transport.calls import FrameReader
from multiraft.transport.gateway import Gateway, GatewayConnection
from multiraft.transport.hello import Farewell
from multiraft.transport.options import TransportOptions
from tests.unit.transport.harness import CLUSTER, Arun, hello_of, poll
from tests.unit.transport.test_calls import WELCOME, framed
from tests.unit.transport.test_tls import Authority

OPTIONS = TransportOptions(hello_timeout_s=1.0, linger_s=0.5)
WAIT_S = 20.0


class Server:
    """A gateway whose calls are kept, or answered at once with their own arguments."""

    def __init__(self, options: TransportOptions = OPTIONS, **settings: Any) -> None:
        self.taken: list[tuple[GatewayConnection, int, list[Any]]] = []
        self.gone = 0
        self.echo = True
        self.gateway = Gateway(lambda: hello_of(1), self._opened, options=options, **settings)

    def _opened(self, connection: GatewayConnection) -> None:
        def on_call(number: int, operation: int, left_ms: int, arguments: list[Any]) -> None:
            if operation == 99:
                raise PeerProtocolError("operation 99 is not known here")
            self.taken.append((connection, number, arguments))
            if self.echo:
                connection.answer(number, arguments)

        def on_gone() -> None:
            self.gone += 1

        connection.on_call, connection.on_gone = on_call, on_gone

    def answer_all(self) -> None:
        taken, self.taken = self.taken, []
        for connection, number, arguments in taken:
            connection.answer(number, arguments)


async def until(condition: Callable[[], bool]) -> None:
    await poll(condition, "what the test waits for")


def decode(refusal: bytes) -> MultiRaftError:
    if refusal == b"bad":
        raise PeerProtocolError("a refusal that cannot be read")
    return NoLeader(refusal.decode())


@asynccontextmanager
async def serving(options: TransportOptions = OPTIONS, **settings: Any) -> AsyncIterator[Server]:
    server = Server(options, **settings)
    await server.gateway.listen("127.0.0.1:0")
    try:
        yield server
    finally:
        await server.gateway.close()


@asynccontextmanager
async def calling(address: str, **settings: Any) -> AsyncIterator[CallerConnection]:
    connection = await Dialler(decode, options=OPTIONS, **settings).dial(address, 0)
    try:
        yield connection
    finally:
        connection.end(None)
        await connection.closed.wait()


def soon() -> float:
    return asyncio.get_running_loop().time() + WAIT_S


class Plain:
    """A socket that says anything, and reads frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames = FrameReader()
        self._frames.bytes_max = calls.CALL_BYTES_MAX

    async def frame(self) -> list[Any] | None:
        """The next frame, or None at the end."""
        async with asyncio.timeout(WAIT_S):
            while (found := self._frames.next()) is None:
                data = await self.reader.read(65536)
                if not data:
                    return None
                self._frames.feed(data)
        return found[0]

    async def rest(self) -> list[list[Any]]:
        found = []
        with contextlib.suppress(ConnectionError):
            while (one := await self.frame()) is not None:
                found.append(one)
        return found

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def plain(address: str) -> AsyncIterator[Plain]:
    host, _, port = address.rpartition(":")
    socket = Plain(*await asyncio.open_connection(host, int(port)))
    try:
        yield socket
    finally:
        await socket.close()


def call(number: int, *arguments: Any, operation: int = 1) -> bytes:
    return calls.encode_call(number, operation, 1000, list(arguments))


# -- calls and answers -----------------------------------------------------------------------------------------------------


def test_many_calls_are_on_their_way_at_once_and_answered_in_any_order(arun: Arun) -> None:
    async def main() -> None:
        async with serving() as server, calling(server.gateway.address) as caller:
            server.echo = False
            waiting = [asyncio.ensure_future(caller.call(1, [n], soon())) for n in range(100)]
            await until(lambda: len(server.taken) == 100)
            assert [arguments for _, _, arguments in server.taken] == [[n] for n in range(100)]
            server.taken.reverse()
            server.answer_all()
            assert await asyncio.gather(*waiting) == [[n] for n in range(100)]
            assert caller.welcome.node == 1 and caller.welcome.cluster_id == CLUSTER

    arun(main())


def test_a_refusal_is_raised_as_what_it_says(arun: Arun) -> None:
    async def main() -> None:
        async with serving() as server, calling(server.gateway.address) as caller:
            server.echo = False
            waiting = asyncio.ensure_future(caller.call(1, [], soon()))
            await until(lambda: bool(server.taken))
            connection, number, _ = server.taken.pop()
            connection.refuse(number, b"nobody leads")
            with pytest.raises(NoLeader, match="nobody leads"):
                await waiting
            assert connection.calls_count == 0

    arun(main())


def test_beyond_its_bound_nothing_more_is_read_until_something_is_answered(arun: Arun) -> None:
    """The client here keeps no bound of its own: it is the node that must."""

    async def main() -> None:
        options = replace(OPTIONS, calls_max=10)
        async with serving(options) as server, plain(server.gateway.address) as client:
            server.echo = False
            client.writer.write(calls.encode_hello(0))
            client.writer.write(b"".join(call(n) for n in range(1, 51)))
            assert (await client.frame() or [])[0] == calls.Word.WELCOME
            await until(lambda: len(server.taken) == 10)
            connection = server.taken[0][0]
            for done in range(1, 5):
                server.answer_all()
                assert connection.calls_count == len(server.taken) == 10
                assert connection.taken == 10 * (done + 1)
            server.answer_all()
            assert [(await client.frame() or [])[1] for _ in range(50)] == list(range(1, 51))

    arun(main())


def test_calls_are_bounded_in_bytes_too(arun: Arun) -> None:
    async def main() -> None:
        options = replace(OPTIONS, calls_bytes_max=100_000)
        async with serving(options) as server, calling(server.gateway.address) as caller:
            server.echo = False
            waiting = [
                asyncio.ensure_future(caller.call(1, [bytes(30_000)], soon())) for _ in range(9)
            ]
            await until(lambda: len(server.taken) == 4)
            server.answer_all()
            await until(lambda: len(server.taken) == 4)
            server.answer_all()
            await until(lambda: len(server.taken) == 1)
            server.answer_all()
            await asyncio.gather(*waiting)

    arun(main())


def test_a_client_keeps_to_the_nodes_bound_and_lets_others_wait_in_turn(arun: Arun) -> None:
    async def main() -> None:
        options = replace(OPTIONS, calls_max=3)
        async with serving(options) as server, calling(server.gateway.address) as caller:
            server.echo = False
            waiting = [asyncio.ensure_future(caller.call(1, [n], soon())) for n in range(9)]
            await until(lambda: len(server.taken) == 3)
            with pytest.raises(DeadlineExceeded, match="before the call could be sent"):
                await caller.call(1, [99], asyncio.get_running_loop().time() + 0.05)
            waiting[4].cancel()  # while it waits for its turn
            sent = []
            while len(sent) < 8:
                await until(lambda: bool(server.taken))
                assert len(server.taken) <= 3
                sent += [arguments[0] for _, _, arguments in server.taken]
                server.answer_all()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert sent == [n for n in range(9) if n != 4]
            assert [one for one in results if isinstance(one, list)] == [[n] for n in sent]

    arun(main())


def test_an_answer_that_does_not_fit_is_said_to_be_too_large(arun: Arun) -> None:
    async def main() -> None:
        async with serving() as server, calling(server.gateway.address) as caller:
            server.echo = False
            waiting = asyncio.ensure_future(caller.call(1, [], soon()))
            await until(lambda: bool(server.taken))
            connection, number, _ = server.taken.pop()
            with pytest.raises(TooLarge):
                connection.answer(number, bytes(calls.CALL_BYTES_MAX))
            connection.refuse(number, b"too large")
            with pytest.raises(NoLeader, match="too large"):
                await waiting
            with pytest.raises(TooLarge):
                await caller.call(1, [bytes(calls.CALL_BYTES_MAX)], soon())
            server.echo = True
            assert await caller.call(1, [b"x"], soon()) == [b"x"]

    arun(main())


def test_answers_that_nobody_reads_end_that_connection(arun: Arun) -> None:
    async def main() -> None:
        options = replace(OPTIONS, answers_bytes_max=1024 * 1024)
        async with serving(options) as server, plain(server.gateway.address) as client:
            server.echo = False
            client.writer.write(calls.encode_hello(0))
            client.writer.write(b"".join(call(n) for n in range(1, 101)))
            await until(lambda: len(server.taken) == 100)
            for connection, number, _ in server.taken:
                connection.answer(number, bytes(1024 * 1024))
            assert isinstance(connection.error, Overloaded)
            await until(lambda: server.gone == 1)
            async with calling(server.gateway.address) as other:
                server.echo = True
                assert await other.call(1, [1], soon()) == [1]

    arun(main())


# -- goodbyes --------------------------------------------------------------------------------------------------------------


def test_p93_a_closing_node_answers_what_it_took_and_says_what_it_did_not(arun: Arun) -> None:
    async def main() -> None:
        async with serving(replace(OPTIONS, calls_max=2)) as server:
            async with plain(server.gateway.address) as client:
                server.echo = False
                client.writer.write(calls.encode_hello(0))
                client.writer.write(b"".join(call(n, n) for n in range(1, 6)))
                await until(lambda: len(server.taken) == 2)
                server.gateway.dismiss()
                closing = asyncio.ensure_future(server.gateway.drain(WAIT_S))
                await asyncio.sleep(0)
                assert not closing.done()
                server.answer_all()
                await closing
                await server.gateway.close()
                words = [frame[:2] for frame in await client.rest()]
                assert words == [[2, "multiraft"], [6, 2], [4, 1], [4, 2]]

    arun(main())


def test_p93_a_client_knows_which_calls_a_closing_node_did_not_take(arun: Arun) -> None:
    async def main() -> None:
        async def behave(socket: Plain) -> None:
            await socket.frame()
            socket.writer.write(calls.encode_welcome(WELCOME))
            for _ in range(3):
                await socket.frame()
            socket.writer.write(calls.encode_goodbye(1, Farewell.CLOSING, "the node closes"))
            socket.writer.write(calls.encode_answer(1, b"done"))

        async with impostor(behave) as address, calling(address) as caller:
            answers = await asyncio.gather(
                *(caller.call(1, [n], soon()) for n in range(3)), return_exceptions=True
            )
            assert answers[0] == b"done"
            assert [type(one) for one in answers[1:]] == [Unsent, Unsent]
            with pytest.raises(Unsent):
                await caller.call(1, [9], soon())

    arun(main())


def test_p93_a_lost_connection_makes_what_was_sent_unknown(arun: Arun) -> None:
    async def main() -> None:
        async with serving() as server, calling(server.gateway.address) as caller:
            server.echo = False
            waiting = [asyncio.ensure_future(caller.call(1, [n], soon())) for n in range(3)]
            await until(lambda: len(server.taken) == 3)
            server.taken[0][0].end(None)
            for one in waiting:
                with pytest.raises(LinkLost):
                    await one
            with pytest.raises(Unsent):
                await caller.call(1, [9], soon())
            assert server.gone == 1

    arun(main())


def test_a_node_that_is_silent_gets_no_more_calls(arun: Arun) -> None:
    async def main() -> None:
        async with serving() as server, calling(server.gateway.address) as caller:
            server.echo = False
            late = asyncio.ensure_future(caller.call(1, [0], soon()))
            with pytest.raises(DeadlineExceeded):
                await caller.call(1, [1], asyncio.get_running_loop().time() + 0.05)
            assert not caller.usable
            server.answer_all()
            assert await late == [0]  # what it has is still waited for

    arun(main())


def test_p100_giving_up_a_wait_gives_up_nothing_else(arun: Arun) -> None:
    async def main() -> None:
        async with serving() as server, calling(server.gateway.address) as caller:
            server.echo = False
            given_up, kept = (asyncio.ensure_future(caller.call(1, [n], soon())) for n in range(2))
            await until(lambda: len(server.taken) == 2)
            given_up.cancel()
            server.answer_all()
            assert await kept == [1]
            with pytest.raises(asyncio.CancelledError):
                await given_up
            server.echo = True
            assert await caller.call(1, [2], soon()) == [2]

    arun(main())


# -- strangers -------------------------------------------------------------------------------------------------------------

HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(64),
    "huge length": struct.pack("<II", 2**32 - 1, 0) + b"x" * 100,
    "a call before the hello": call(1),
    "a hello that is cut": calls.encode_hello(0)[:-3],
    "a hello with a flipped bit": calls.encode_hello(0)[:-1] + b"\x01",
    "another name": framed([1, "other", 1, 1, 0]),
    "another version": framed([1, "multiraft", 7, 9, 0]),
    "another cluster": calls.encode_hello(CLUSTER + 1),
    "a large hello": framed([1, "multiraft" * 200, 1, 1, 0]),
    "two hellos": calls.encode_hello(0) * 2,
    "a welcome": calls.encode_hello(0) + calls.encode_welcome(WELCOME),
    "an answer": calls.encode_hello(0) + calls.encode_answer(1, None),
    "a number twice": calls.encode_hello(0) + call(5) + call(5),
    "a number that falls": calls.encode_hello(0) + call(5) + call(4),
    "no time": calls.encode_hello(0) + framed([3, 1, 1, 0, []]),
    "an unknown operation": calls.encode_hello(0) + call(1, operation=99),
    "a flipped bit": calls.encode_hello(0) + call(1)[:-1] + b"\x55",
    "a length beyond the bound": calls.encode_hello(0) + struct.pack("<II", 2**25, 0),
    "a goodbye of no kind": calls.encode_hello(0) + framed([6, 0, 77, ""]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_p82_whatever_a_stranger_says_costs_its_own_connection_only(arun: Arun, name: str) -> None:
    async def main() -> None:
        async with serving() as server, calling(server.gateway.address) as caller:
            async with plain(server.gateway.address) as stranger:
                stranger.writer.write(HOSTILE[name])
                if name in ("nothing", "a hello that is cut"):
                    stranger.writer.write_eof()
                frames = await stranger.rest()
            assert all(frame[0] in (2, 4, 6) for frame in frames)
            if name == "another version":
                assert frames[-1][2] == Farewell.FORMAT and "versions 7 to 9" in frames[-1][3]
            if name == "another cluster":
                assert frames[-1][2] == Farewell.WRONG_CLUSTER
            await until(lambda: len(server.gateway.connections) == 1)
            assert await caller.call(1, [name], soon()) == [name]

    arun(main())


def test_one_client_more_than_the_bound_is_told_so(arun: Arun) -> None:
    async def main() -> None:
        async with serving(replace(OPTIONS, clients_max=2)) as server:
            address = server.gateway.address
            async with calling(address), calling(address):
                with pytest.raises(Overloaded, match="2 clients"):
                    await Dialler(decode, options=OPTIONS).dial(address, 0)
            await until(lambda: not server.gateway.connections)
            async with calling(address):
                pass

    arun(main())


# -- impostors: what a client meets ----------------------------------------------------------------------------------------


@asynccontextmanager
async def impostor(behave: Callable[[Plain], Any]) -> AsyncIterator[str]:
    """Something that listens, is no node, and does what it likes."""
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket = Plain(reader, writer)
        try:
            await behave(socket)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
                await reader.read()
        finally:
            await socket.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def fake_welcome(**changes: Any) -> bytes:
    return calls.encode_welcome(replace(WELCOME, **changes))


NO_WELCOME: dict[str, tuple[bytes, type[Exception]]] = {
    "garbage": (b"SSH-2.0-OpenSSH_9.2\r\n", PeerProtocolError),
    "huge length": (struct.pack("<II", 2**31, 0), PeerProtocolError),
    "cut": (fake_welcome()[:-1], ConnectionError),
    "flipped": (fake_welcome()[:-1] + b"\x7f", PeerProtocolError),
    "version": (fake_welcome(version=2), FormatUnsupported),
    "bytes": (fake_welcome(frame_bytes_max=2**40), PeerProtocolError),
    "answer": (calls.encode_answer(1, None), PeerProtocolError),
    "busy": (calls.encode_goodbye(0, Farewell.BUSY, "full"), Overloaded),
    "other cluster": (calls.encode_goodbye(0, Farewell.WRONG_CLUSTER, "no"), WrongCluster),
    "leaves": (calls.encode_goodbye(0, Farewell.CLOSING, "closing"), Unsent),
}


@pytest.mark.parametrize("name", NO_WELCOME)
def test_p82_a_client_survives_whatever_welcomes_it(arun: Arun, name: str) -> None:
    data, kind = NO_WELCOME[name]

    async def main() -> None:
        async def behave(socket: Plain) -> None:
            await socket.frame()
            socket.writer.write(data)
            if name == "cut":
                socket.writer.close()

        async with impostor(behave) as address:
            with pytest.raises(kind):
                await Dialler(decode, options=OPTIONS).dial(address, 0)

    arun(main())


def test_an_endpoint_that_says_nothing_is_given_up(arun: Arun) -> None:
    async def main() -> None:
        async def behave(socket: Plain) -> None:
            await socket.frame()

        async with impostor(behave) as address:
            with pytest.raises(TimeoutError):
                await Dialler(decode, options=replace(OPTIONS, hello_timeout_s=0.1)).dial(
                    address, 0
                )

    arun(main())


NO_ANSWER: dict[str, bytes] = {
    "garbage": b"\xff" * 64,
    "huge length": struct.pack("<II", 2**32 - 1, 0),
    "cut": calls.encode_answer(1, b"value")[:-2],
    "flipped": calls.encode_answer(1, b"value")[:-1] + b"\x00",
    "of nobody": calls.encode_answer(2, b"value"),
    "twice": calls.encode_answer(2, b"value") * 2,
    "shape": framed([4, 1]),
    "word": framed([9, 1, None]),
    "call": call(1),
    "refusal": calls.encode_refusal(1, b"bad"),
}


@pytest.mark.parametrize("name", NO_ANSWER)
def test_p82_a_broken_answer_is_an_unknown_outcome(arun: Arun, name: str) -> None:
    async def main() -> None:
        async def behave(socket: Plain) -> None:
            await socket.frame()
            socket.writer.write(fake_welcome())
            await socket.frame()
            socket.writer.write(NO_ANSWER[name])
            if name == "cut":
                socket.writer.close()

        async with impostor(behave) as address, calling(address) as caller:
            with pytest.raises(LinkLost):
                await caller.call(1, [], soon())
            assert not caller.usable

    arun(main())


# -- TLS and addresses -----------------------------------------------------------------------------------------------------


def test_beyond_this_machine_only_with_tls_or_insecure(arun: Arun) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="lets other machines in"):
            await Server().gateway.listen("0.0.0.0:0")
        async with serving(insecure=True) as server:
            await server.gateway.listen("0.0.0.0:0")

    arun(main())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_with_tls_both_sides_are_who_they_say(
    arun: Arun, authority: Authority, tmp_path: Path
) -> None:
    async def main() -> None:
        person = authority.config("a-program")
        async with serving(tls=authority.node(1)) as server:
            address = server.gateway.address
            async with calling(address, tls=person) as caller:
                assert await caller.call(1, [b"secret"], soon()) == [b"secret"]
            stranger = Authority(tmp_path / "other").config("a-program")
            for settings in ({}, {"tls": stranger}):
                with pytest.raises((OSError, MultiRaftError)):
                    await Dialler(decode, options=OPTIONS, **settings).dial(address, 0)  # type: ignore[arg-type]
        async with serving(tls=authority.node(2)) as server:  # it says that it is node 1
            with pytest.raises(PeerProtocolError, match="certificate speaks for"):
                await Dialler(decode, options=OPTIONS, tls=person).dial(server.gateway.address, 0)

    arun(main())
