"""What the demo loads: the files of a directory, cut into pieces of sixteen lines, each under a key of its own.

Files are read one at a time, when their turn comes; of what was cut only a checksum is remembered.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LINES = 16
PIECE_BYTES_MAX = 256 * 1024
"""A piece whose lines are longer is cut there."""
PATH_BYTES_MAX = 400
SKIPPED = frozenset({"__pycache__", "site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Source:
    """Files to load, in order, and how many keys they make."""

    root: Path
    files: tuple[Path, ...]
    keys: int
    size: int


def standard_library() -> Source:
    """The source files of the running Python's standard library."""
    return look_at(Path(sysconfig.get_path("stdlib")), suffix=".py")


def look_at(root: Path, *, suffix: str = "") -> Source:
    """Find every file under a directory and count its pieces, by reading each once."""
    files: list[Path] = []
    keys = size = 0
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED)
        for name in sorted(names):
            path = Path(folder) / name
            if not name.endswith(suffix) or path.is_symlink() or not path.is_file():
                continue
            try:
                pieces = [len(piece) for piece in cut(path.read_bytes())]
            except OSError:
                continue  # it cannot be read by us, so it is not part of the input
            files.append(path)
            keys += len(pieces)
            size += sum(pieces)
    return Source(root, tuple(files), keys, size)


def pieces_of(source: Source) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of every piece: ``path:line`` and the lines."""
    for path in source.files:
        name = os.fsencode(path.relative_to(source.root))
        if len(name) > PATH_BYTES_MAX:
            name = (
                name[:PATH_BYTES_MAX]
                + b"~"
                + hashlib.blake2b(name, digest_size=8).hexdigest().encode()
            )
        for number, piece in enumerate(cut(path.read_bytes())):
            yield b"%b:%d" % (name, number * LINES + 1), piece


def cut(data: bytes) -> Iterator[bytes]:
    """The pieces of a file."""
    lines = data.splitlines(keepends=True)
    for at in range(0, len(lines), LINES):
        piece = b"".join(lines[at : at + LINES])
        for start in range(0, len(piece), PIECE_BYTES_MAX):
            yield piece[start : start + PIECE_BYTES_MAX]


def checksum(value: bytes) -> bytes:
    """What the demo remembers of a value."""
    return hashlib.blake2b(value, digest_size=16).digest()
