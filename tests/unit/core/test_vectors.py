"""Golden vectors: the bytes of every format, written down once, against the spec and against the compiled codec.

`pytest --rewrite` writes them from the spec; a diff in `tests/vectors/` is a change of format and wants a new version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from multiraft import _batch, _core, _frames, records
from multiraft._core import RunKind
from multiraft.interfaces import Base
from tests.spec import codec
from tests.unit.core import cases

VECTORS = Path(__file__).resolve().parents[2] / "vectors"

Golden = Callable[[Path, str | bytes], None]

SPEC: dict[str, tuple[Mapping[str, Any], Callable[[Any], bytes]]] = {
    "runs.txt": (cases.RUNS, codec.encode_run),
    "batches.txt": (cases.BATCHES, codec.encode_batch),
    "messages.txt": (cases.MESSAGES, codec.encode_message),
    "frames.txt": (cases.FRAMES, codec.encode_frame),
    "payloads.txt": (cases.PAYLOADS, bytes),
}


def dump(data: bytes) -> str:
    """Offsets and sixteen bytes a line, as other tools show them."""
    lines = (f"  {at:04x}  {data[at : at + 16].hex(' ')}" for at in range(0, len(data), 16))
    return "\n".join(lines)


def describe(value: Any) -> str:
    """Short fields by name; payloads and bodies speak for themselves in the dump."""
    if not isinstance(value, tuple):
        return f"{len(value)} bytes"
    fields = value._asdict()  # type: ignore[attr-defined]
    shown = [f"{name}={int(each)}" for name, each in fields.items() if isinstance(each, int)]
    sizes = [
        f"{name}[{len(each)}]" for name, each in fields.items() if isinstance(each, tuple | bytes)
    ]
    return " ".join(shown + sizes)


def load(name: str) -> dict[str, bytes]:
    """The bytes in a file of vectors, by title."""
    found: dict[str, bytes] = {}
    for block in (VECTORS / name).read_text().split("\n\n"):
        lines = block.strip().splitlines()
        rows = [re.fullmatch(r"  [0-9a-f]{4}  ([0-9a-f ]+)", line) for line in lines]
        found[lines[0].removeprefix("# ")] = b"".join(
            bytes.fromhex(row.group(1)) for row in rows if row
        )
    return found


@pytest.mark.parametrize("name", SPEC)
def test_the_spec_makes_the_vectors(name: str, golden: Golden) -> None:
    values, encode = SPEC[name]
    blocks = [
        f"# {title}\n# {describe(value)}\n{dump(encode(value))}\n"
        for title, value in values.items()
    ]
    golden(VECTORS / name, "\n".join(blocks))
    assert load(name) == {title: encode(value) for title, value in values.items()}


def encode_by_core(run: codec.Run) -> bytes:
    return _core.encode_run(**run._asdict())


@pytest.mark.parametrize("title", cases.RUNS)
def test_the_compiled_codec_makes_and_takes_each_run(title: str) -> None:
    vector, run = load("runs.txt")[title], cases.RUNS[title]
    assert encode_by_core(run) == vector
    assert _core.decode_run(vector) == run
    assert codec.decode_run(vector) == run
    assert _core.check_run(vector + b"what follows is not its business") == 0


def test_there_is_a_vector_of_each_kind() -> None:
    assert {run.kind for run in cases.RUNS.values()} == set(RunKind)
    assert {m.kind for m in cases.MESSAGES.values()} == set(_core.MessageKind)
    assert {frame.kind for frame in cases.FRAMES.values()} == set(_core.FrameKind)


@pytest.mark.parametrize("title", cases.BATCHES)
def test_the_compiled_codec_makes_and_takes_each_batch(title: str) -> None:
    vector, batch = load("batches.txt")[title], cases.BATCHES[title]
    made = _batch.encode_batch(batch.runs, sequence=batch.sequence, store_id=batch.store_id)
    assert made == vector
    assert _core.decode_batch(vector) == batch
    assert codec.decode_batch(vector) == batch


def test_the_builder_seals_the_same_batch() -> None:
    batch = cases.BATCHES["two groups"]
    builder = _batch.BatchBuilder()
    for run in batch.runs:
        builder.add_run(run)
    assert builder.seal(batch.sequence, batch.store_id) == [load("batches.txt")["two groups"]]


@pytest.mark.parametrize("title", cases.MESSAGES)
def test_the_compiled_codec_makes_and_takes_each_message(title: str) -> None:
    vector, message = load("messages.txt")[title], cases.MESSAGES[title]
    assert _frames.encode_message(**message._asdict()) == vector
    taken = _frames.decode_frame(_frames.encode_frame([vector]))
    assert taken.messages == (message,)


@pytest.mark.parametrize("title", cases.FRAMES)
def test_the_compiled_codec_makes_and_takes_each_frame(title: str) -> None:
    vector, frame = load("frames.txt")[title], cases.FRAMES[title]
    parts = [codec.encode_message(m) for m in frame.messages] or [frame.body]
    if frame.kind == _core.FrameKind.FRAME_MESSAGES and not frame.messages:
        parts = []
    assert _frames.encode_frame(parts, kind=frame.kind, **cases.link_of(frame)) == vector
    assert _frames.decode_frame(vector) == frame
    assert codec.decode_frame(vector) == frame
    unsealed = _frames.encode_frame(parts, kind=frame.kind, sealed=False)
    _core.seal_frame(unsealed, **cases.link_of(frame))
    assert unsealed == vector


class Payload(NamedTuple):
    title: str
    encode: Callable[[Any], bytes]
    value: Any


PAYLOADS = [
    Payload("membership, empty", records.encode_membership, cases.EMPTY),
    Payload("membership, three", records.encode_membership, cases.THREE),
    Payload("hard state", records.encode_hard_state, cases.HARD_STATE),
    Payload("base", records.encode_base, cases.BASE),
    Payload("snapshot record", records.encode_snapshot_record, cases.SNAPSHOT),
    Payload("pinned", records.encode_pinned, cases.PINNED),
]


@pytest.mark.parametrize("case", PAYLOADS, ids=lambda case: case.title)
def test_the_codec_of_records_makes_each_payload(case: Payload) -> None:
    assert case.encode(case.value) == load("payloads.txt")[case.title]


def test_the_codec_of_records_takes_each_record() -> None:
    vectors = load("runs.txt")
    assert records.decode_membership(load("payloads.txt")["membership, empty"]) == cases.EMPTY
    assert records.decode_membership(load("payloads.txt")["membership, three"]) == cases.THREE
    assert records.decode_hard_state(vectors["hard state"]) == cases.HARD_STATE
    for title in ("base", "snapshot mark", "replica created"):
        taken: Base = records.decode_base(vectors[title])
        assert taken == cases.BASE
    assert records.decode_snapshot_record(vectors["snapshot pending"]) == cases.SNAPSHOT
    assert records.decode_pinned(vectors["pinned"]) == cases.PINNED
