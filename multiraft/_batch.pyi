"""The Python doors of the batches under construction; what they do stands in ``_batch.pyx``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

_Buffer = bytes | bytearray | memoryview

def encode_batch(runs: Iterable[_Buffer], *, sequence: int, store_id: int) -> bytes: ...

@final
class BatchBuilder:
    @property
    def pending_bytes(self) -> int: ...
    @property
    def pending_runs(self) -> int: ...
    def add_run(self, run: bytes) -> None: ...
    def seal(self, next_sequence: int, store_id: int) -> list[bytes]: ...
