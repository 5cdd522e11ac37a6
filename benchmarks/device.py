"""The disk under a benchmark: what it was given to write, and how fast it syncs."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def device_bytes(path: Path) -> Callable[[], int] | None:
    """Asks how many bytes the device under ``path`` was ever given to write; None where nobody knows."""
    device = os.stat(path).st_dev
    stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    if not stat.exists():
        return None
    return lambda: int(stat.read_text().split()[6]) * 512


def sync_ms(path: Path, count: int = 200) -> float:
    """The median time of appending 4 KiB to a file and syncing it: what one durable write costs on this disk."""
    times = []
    file = os.open(path / "sync-rate", os.O_CREAT | os.O_WRONLY)
    try:
        for _ in range(count):
            os.write(file, b"x" * 4096)
            started = time.perf_counter()
            os.fdatasync(file)
            times.append(time.perf_counter() - started)
    finally:
        os.close(file)
        os.unlink(path / "sync-rate")
    return round(statistics.median(times) * 1e3, 3)
