"""What the compiled checks and the spec say of the same bytes: they must find the same fault, and read nothing past the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from multiraft import _core, _frames
from multiraft._core import Fault
from tests.spec import codec
from tests.unit.core import cases
from tests.unit.core.capi import Guarded

Check = Callable[..., None]


def fault_of(check: Check, data: bytes, **options: Any) -> Fault:
    """What the spec says."""
    try:
        check(data, **options)
    except codec.Refused as refused:
        return refused.fault
    return Fault.FAULT_NONE


def agree_on_run(memory: Guarded, data: bytes) -> Fault:
    head = fault_of(codec.check_run, data, check_body=False)
    assert memory.run_check(data, check_body=False) == head
    whole = fault_of(codec.check_run, data)
    assert memory.run_check(data) == whole == _core.check_run(data)
    return whole


def agree_on_batch(memory: Guarded, data: bytes) -> Fault:
    fault = fault_of(codec.check_batch, data)
    assert memory.batch_check(data) == fault == _core.check_batch(data)
    return fault


def agree_on_frame(memory: Guarded, data: bytes) -> Fault:
    fault = fault_of(codec.check_frame, data)
    assert memory.frame_check(data) == fault == _core.check_frame(data)
    return fault


RUN_BYTES = [codec.encode_run(run) for run in cases.RUNS.values()]
BATCH_BYTES = [codec.encode_batch(batch) for batch in cases.BATCHES.values()]
FRAME_BYTES = [codec.encode_frame(frame) for frame in cases.FRAMES.values()]
SUBJECTS = [
    *((agree_on_run, data) for data in RUN_BYTES),
    *((agree_on_batch, data) for data in BATCH_BYTES),
    *((agree_on_frame, data) for data in FRAME_BYTES),
]
IDS = [f"{agree.__name__.removeprefix('agree_on_')}{at}" for at, (agree, _) in enumerate(SUBJECTS)]
DECODERS: dict[Any, Callable[[bytes], Any]] = {
    agree_on_run: _core.decode_run,
    agree_on_batch: _core.decode_batch,
    agree_on_frame: _frames.decode_frame,
}
