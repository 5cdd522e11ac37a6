"""Runs every transcript beside this file and compares what it prints; ``pytest --rewrite`` writes them anew.

A block is commands, ``----``, and their output up to an empty line; other lines are prose. ``words`` shows how things look,
``stage`` what the commands are.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.transcripts.stage import Stage

FOLDER = Path(__file__).parent
TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))
MARK = "----"


def replay(text: str) -> str:
    """The transcript with the output that its commands have now."""
    stage = Stage()
    done = []
    for block in text.strip("\n").split("\n\n"):
        lines = block.split("\n")
        if MARK in lines:
            at = lines.index(MARK)
            lines = lines[: at + 1]
            for command in lines[:at]:
                if not command.startswith("#"):
                    lines += stage.run(command)
            if len(lines) == at + 1:
                lines.append("ok")
        done.append("\n".join(lines))
    return "\n\n".join(done) + "\n"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, golden: Callable[[Path, str], None]) -> None:
    golden(path, replay(path.read_text("utf-8")))


def test_there_are_many_and_each_says_what_it_shows() -> None:
    assert len(TRANSCRIPTS) >= 45
    for path in TRANSCRIPTS:
        assert path.read_text("utf-8").startswith("# "), path.name
