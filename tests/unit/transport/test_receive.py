"""The receive buffer alone: fragmentation, limits, memory, damage, and views that are kept too long."""

from __future__ import annotations

import random
import struct

import pytest

from multiraft._core import Fault, FrameKind
from multiraft.errors import InvariantViolation, PeerProtocolError
from multiraft.transport.hello import Farewell, Purpose, Step, encode_goodbye, encode_hello
from multiraft.transport.receive import Receiver
from tests.unit.transport.harness import CLUSTER, hello_of, make_frame, payload_of, seal

BASE_BYTES = 512 * 1024
FRAME_BYTES_MAX = 32 * 1024 * 1024
ALL_KINDS = (FrameKind.FRAME_MESSAGES, FrameKind.FRAME_GOODBYE)


class Sink:
    """Collects what a Receiver hands over."""

    def __init__(self, *, opened: bool = True, epoch: int = 1, sequence: int = 0):
        self.frames: list[bytes] = []
        self.nodes: list[int] = []
        self.controls: list[tuple[int, bytes]] = []
        self.faults: list[tuple[PeerProtocolError, int]] = []
        self.receiver = Receiver(
            self.on_frame,
            lambda kind, view: self.controls.append((kind, bytes(view))),
            lambda error, fault: self.faults.append((error, fault)),
            kinds=(FrameKind.FRAME_HELLO, FrameKind.FRAME_GOODBYE),
        )
        if opened:
            self.receiver.expect(
                cluster_id=CLUSTER,
                store_id=101,
                from_node=1,
                to_node=2,
                link_epoch=epoch,
                sequence=sequence,
            )
            self.receiver.open(ALL_KINDS)

    def on_frame(self, node: int, view: memoryview) -> None:
        self.nodes.append(node)
        self.frames.append(bytes(view))

    def feed_in_parts(self, data: bytes, sizes: random.Random, largest: int) -> None:
        """As a loop does: ask for the buffer, fill some of it, say how much."""
        at = 0
        while at < len(data):
            buffer = self.receiver.get_buffer(-1)
            assert len(buffer) > 0
            part = min(len(buffer), len(data) - at, sizes.randint(1, largest))
            buffer[:part] = data[at : at + part]
            buffer.release()
            self.receiver.buffer_updated(part)
            at += part


@pytest.mark.parametrize("largest", [1, 7, 100, 5000, 300_000, 10_000_000])
@pytest.mark.slow
def test_frames_of_all_sizes_survive_any_fragmentation(largest: int) -> None:
    chance = random.Random(largest)
    sizes = (
        [0, 1, 60, 4096, 30_000]
        if largest <= 100
        else [0, 60, 4096, 262_144, 600_000, 5_000_000, 100]
    )
    frames = []
    for sequence, size in enumerate(
        (size for _ in range(3) for size in chance.sample(sizes, len(sizes))), 1
    ):
        frames.append(seal(make_frame(chance.randbytes(size)), sequence=sequence))
    sink = Sink()
    sink.feed_in_parts(b"".join(frames), chance, largest)
    assert sink.faults == []
    assert sink.frames == frames
    assert set(sink.nodes) == {1}
    assert sink.receiver.frames_count == len(frames)


def test_a_split_frame_is_moved_at_most_once() -> None:
    chance = random.Random(5)
    sink = Sink()
    total = 0
    for sequence in range(1, 200):
        frame = seal(make_frame(chance.randbytes(chance.randrange(200_000))), sequence=sequence)
        total += len(frame)
        sink.feed_in_parts(frame, chance, 60_000)
    assert len(sink.frames) == 199
    assert sink.receiver.moved_bytes <= total


def test_the_buffer_shrinks_back_after_a_huge_frame() -> None:
    sink = Sink()
    huge = seal(make_frame(bytes(20_000_000)), sequence=1)
    sink.feed_in_parts(huge[:-1], random.Random(1), 1_000_000)
    assert len(huge) <= sink.receiver.capacity <= len(huge) + BASE_BYTES
    sink.feed_in_parts(huge[-1:], random.Random(1), 1)
    sink.receiver.get_buffer(-1).release()
    assert sink.receiver.capacity == BASE_BYTES
    assert len(sink.frames) == 1


def test_a_huge_frame_behind_a_small_one_shrinks_too() -> None:
    sink = Sink()
    data = seal(make_frame(bytes(3_000_000)), sequence=1) + seal(make_frame(b"abc"), sequence=2)
    sink.feed_in_parts(data[:-10], random.Random(1), 10_000_000)
    sink.receiver.get_buffer(-1).release()
    assert sink.receiver.capacity == BASE_BYTES
    sink.feed_in_parts(data[-10:], random.Random(1), 3)
    assert payload_of(sink.frames[1]) == b"abc"


def test_before_the_hello_a_frame_over_1_kib_is_refused_before_the_buffer_grows() -> None:
    sink = Sink(opened=False)
    claim = struct.pack("<II", 0x3146524D, 1025)
    sink.receiver.feed(claim)
    assert [fault for _, fault in sink.faults] == [Fault.FAULT_LIMIT]
    assert sink.receiver.capacity <= 4096


@pytest.mark.parametrize("length", [0, 1, 63, 32 * 1024 * 1024 + 1, 2**31, 2**32 - 1])
def test_p82_an_impossible_length_is_refused_from_eight_bytes(length: int) -> None:
    sink = Sink()
    sink.receiver.feed(struct.pack("<II", 0x3146524D, length))
    assert [fault for _, fault in sink.faults] == [Fault.FAULT_LIMIT]
    sink.receiver.get_buffer(-1).release()
    assert sink.receiver.capacity <= BASE_BYTES


def test_after_a_fault_nothing_is_taken_and_one_fault_is_told() -> None:
    sink = Sink()
    sink.receiver.feed(b"GET / HTTP/1.1\r\n\r\n")
    for _ in range(50):
        sink.receiver.feed(seal(make_frame(b"late"), sequence=1))
    assert [fault for _, fault in sink.faults] == [Fault.FAULT_MAGIC]
    assert sink.frames == []
    assert sink.receiver.capacity <= 4096


def test_kinds_are_refused_out_of_their_place() -> None:
    early = Sink(opened=False)
    early.receiver.feed(seal(make_frame(b"x")))
    assert [fault for _, fault in early.faults] == [Fault.FAULT_KIND]
    late = Sink()
    late.receiver.feed(seal(encode_hello(hello_of(1), Step.OFFER, Purpose.LINK)))
    assert [fault for _, fault in late.faults] == [Fault.FAULT_KIND]
    unknown = Sink()
    frame = bytearray(make_frame(b"x"))
    struct.pack_into("<H", frame, 10, 77)
    unknown.receiver.feed(seal(bytes(frame)))
    assert [fault for _, fault in unknown.faults] == [Fault.FAULT_KIND]


def test_control_frames_go_to_the_control_callable() -> None:
    sink = Sink()
    goodbye = seal(encode_goodbye(Farewell.CLOSING, "bye"))
    sink.receiver.feed(goodbye)
    assert sink.controls == [(FrameKind.FRAME_GOODBYE, goodbye)]
    assert sink.frames == []


def test_p83_old_and_duplicate_frames_are_dropped() -> None:
    sink = Sink(epoch=7)
    one, two, three = (
        seal(make_frame(bytes([number])), epoch=7, sequence=number) for number in (1, 2, 3)
    )
    older_life = seal(make_frame(b"old"), epoch=6, sequence=99)
    for frame in (
        one,
        one,
        three,
        two,
        older_life,
        three,
        seal(make_frame(b"4"), epoch=7, sequence=4),
    ):
        sink.receiver.feed(frame)
    assert [payload_of(frame) for frame in sink.frames] == [b"\1", b"\3", b"4"]
    assert sink.receiver.dropped_count == 4
    assert sink.faults == []


@pytest.mark.parametrize(
    "names",
    [{"cluster": 99}, {"store": 99}, {"source": 3}, {"target": 3}, {"epoch": 8}],
    ids=lambda names: next(iter(names)),
)
def test_p84_a_frame_in_another_name_ends_the_connection(names: dict[str, int]) -> None:
    sink = Sink(epoch=7)
    changed = {"store": 101, "epoch": 7, "sequence": 1} | names
    sink.receiver.feed(seal(make_frame(b"x"), **changed))
    assert sink.frames == []
    assert len(sink.faults) == 1
    assert isinstance(sink.faults[0][0], PeerProtocolError)


def test_p82_every_flipped_bit_of_a_frame_is_found() -> None:
    frame = seal(make_frame(b"some payload", messages=2))
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        sink = Sink()
        sink.receiver.feed(bytes(damaged))
        assert sink.frames == [], bit
        assert sink.faults, bit


def test_a_damaged_header_is_found_as_soon_as_it_is_whole_and_its_length_is_not_waited_for() -> (
    None
):
    frame = seal(make_frame(bytes(1_000_000)))
    for bit in range(64 * 8):
        damaged = bytearray(frame[:64])
        damaged[bit // 8] ^= 1 << bit % 8
        if bit // 8 in range(56, 60):
            continue  # the checksum of the whole frame is compared when the whole frame is here
        sink = Sink()
        sink.feed_in_parts(bytes(damaged), random.Random(bit), 20)
        assert sink.frames == [], bit
        assert len(sink.faults) == 1, bit
        assert sink.receiver.capacity <= BASE_BYTES, bit


def test_a_length_makes_the_buffer_grow_only_with_the_whole_header() -> None:
    frame = seal(make_frame(bytes(3_000_000)))
    sink = Sink()
    sink.receiver.feed(frame[:63])
    sink.receiver.get_buffer(-1).release()
    assert sink.receiver.capacity == BASE_BYTES
    assert sink.receiver.unfinished == 1
    sink.receiver.feed(frame[63:64])
    sink.receiver.get_buffer(-1).release()
    assert sink.receiver.capacity >= len(frame)
    sink.receiver.feed(frame[64:])
    assert sink.frames == [frame] and sink.receiver.unfinished == 0


@pytest.mark.slow
def test_p82_random_damage_never_passes_and_never_costs_memory() -> None:
    chance = random.Random(82)
    passed = 0
    for _ in range(4000):
        sink = Sink()
        sound = seal(make_frame(chance.randbytes(chance.randrange(300))))
        frame = bytearray(sound)
        for _ in range(chance.randrange(1, 4)):
            damage(frame, chance)
        sink.feed_in_parts(bytes(frame), chance, 64)
        passed += len(sink.frames)
        assert sink.frames == ([sound] if frame.startswith(sound) else [])
        sink.receiver.get_buffer(-1).release()
        claimed = struct.unpack_from("<I", frame, 4)[0] if len(frame) >= 8 else 0
        assert sink.receiver.capacity <= (
            BASE_BYTES if claimed > FRAME_BYTES_MAX else max(BASE_BYTES, claimed)
        )
    assert passed < 400


def damage(frame: bytearray, chance: random.Random) -> None:
    how = chance.randrange(4)
    if how == 0:
        del frame[chance.randrange(len(frame) + 1) :]
    elif how == 1 and frame:
        frame[chance.randrange(len(frame))] = chance.randrange(256)
    elif how == 2:
        frame[chance.randrange(len(frame) + 1) :] = chance.randbytes(50)
    elif len(frame) >= 8:
        struct.pack_into("<I", frame, 4, chance.choice([0, 63, 64, 2**25, 2**25 + 1, 2**32 - 1]))


def test_a_sink_that_keeps_the_view_gets_an_error_and_never_other_bytes() -> None:
    kept: list[memoryview] = []
    sink = Sink()
    sink.on_frame = lambda node, view: kept.append(view)  # type: ignore[method-assign]
    receiver = Receiver(
        lambda node, view: kept.append(view),
        lambda kind, view: None,
        lambda error, fault: None,
        kinds=ALL_KINDS,
    )
    receiver.feed(seal(make_frame(b"first"), sequence=1))
    with pytest.raises(ValueError, match="released"):
        bytes(kept[0])


def test_a_sink_that_keeps_a_slice_is_found_out_and_its_bytes_stay_as_they_were() -> None:
    kept: list[memoryview] = []
    receiver = Receiver(
        lambda node, view: kept.append(view[64:]),
        lambda kind, view: None,
        lambda error, fault: None,
        kinds=ALL_KINDS,
    )
    first = seal(make_frame(b"first"), sequence=1)
    with pytest.raises(InvariantViolation, match="kept"):
        receiver.feed(first)
    for _ in range(5):
        with pytest.raises(InvariantViolation, match="kept"):
            receiver.feed(seal(make_frame(b"other bytes of another length"), sequence=2))
    assert bytes(kept[0]) == first[64:]


def test_views_are_read_only() -> None:
    found: list[bool] = []
    receiver = Receiver(
        lambda node, view: found.append(view.readonly),
        lambda kind, view: None,
        lambda error, fault: None,
        kinds=ALL_KINDS,
    )
    receiver.feed(seal(make_frame(b"x")))
    assert found == [True]


def test_a_view_on_the_window_that_is_still_held_is_never_written_over() -> None:
    sink = Sink()
    held = sink.receiver.get_buffer(-1)
    frame = seal(make_frame(b"held"), sequence=1)
    held[: len(frame)] = frame
    sink.receiver.buffer_updated(len(frame))
    for sequence in range(2, 6):
        sink.receiver.feed(seal(make_frame(b"x" * 50), sequence=sequence))
    assert bytes(held[: len(frame)]) == frame
    assert len(sink.frames) == 5


def test_a_protocol_error_of_the_sink_is_a_fault_and_other_errors_pass_through() -> None:
    def refuse(node: int, view: memoryview) -> None:
        part = view[64:]
        if bytes(part).endswith(b"bug"):
            raise ZeroDivisionError
        raise PeerProtocolError("a run that does not check")

    faults: list[PeerProtocolError] = []
    receiver = Receiver(
        refuse, lambda kind, view: None, lambda error, fault: faults.append(error), kinds=ALL_KINDS
    )
    with pytest.raises(ZeroDivisionError):
        receiver.feed(seal(make_frame(b"bug"), sequence=1))
    receiver.feed(seal(make_frame(b"peer"), sequence=2))
    assert [str(error) for error in faults] == ["a run that does not check"]


def test_a_stop_from_inside_a_frame_keeps_the_rest_of_the_read_away() -> None:
    taken: list[bytes] = []

    def on_frame(node: int, view: memoryview) -> None:
        taken.append(bytes(view))
        receiver.stop()

    receiver = Receiver(
        on_frame, lambda kind, view: None, lambda error, fault: None, kinds=ALL_KINDS
    )
    receiver.feed(b"".join(seal(make_frame(b"x"), sequence=sequence) for sequence in (1, 2, 3)))
    assert len(taken) == 1


def test_feeding_from_inside_a_frame_is_a_mistake_that_is_told() -> None:
    def on_frame(node: int, view: memoryview) -> None:
        receiver.feed(b"more")

    receiver = Receiver(
        on_frame, lambda kind, view: None, lambda error, fault: None, kinds=ALL_KINDS
    )
    with pytest.raises(InvariantViolation, match="fed"):
        receiver.feed(seal(make_frame(b"x")))


def test_more_bytes_than_the_window_had_are_refused() -> None:
    sink = Sink()
    room = len(sink.receiver.get_buffer(-1))
    with pytest.raises(InvariantViolation):
        sink.receiver.buffer_updated(room + 1)
    with pytest.raises(InvariantViolation):
        sink.receiver.buffer_updated(-1)
