"""docs/formats.md is the law: its tables against the numbers and the layouts of the code."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import pytest

from multiraft import _core
from multiraft._core import FrameKind, MessageFlag, MessageKind, RunKind
from tests.spec import codec

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "formats.md"
WIDTHS = {"u16": "H", "u32": "I", "u64": "Q"}
UNITS = {"KiB": 1024, "MiB": 1024 * 1024}


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(), re.M | re.S)
    assert found, f"no section {title}"
    return found.group(1)


def tables(text: str) -> Iterator[list[list[str]]]:
    """The rows of each table, without its two lines of heading."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        yield rows[2:]


def test_the_limits_are_those_of_the_document() -> None:
    rows = {name.strip("`"): value for name, value, *_ in next(tables(section("Limits")))}
    assert len(rows) == 9
    for name, value in rows.items():
        number, _, unit = value.replace(",", "").partition(" ")
        assert getattr(_core, name) == int(number) * UNITS.get(unit, 1), name


@pytest.mark.parametrize(
    ("title", "which", "layout", "bytes_of"),
    [
        ("Run", 0, codec.RUN_HEADER, "RUN_HEADER_BYTES"),
        ("Batch", 0, codec.BATCH_HEADER, "BATCH_HEADER_BYTES"),
        ("Frame", 0, codec.FRAME_HEADER, "FRAME_HEADER_BYTES"),
        ("Frame", 1, codec.MESSAGE_HEADER, "MESSAGE_HEADER_BYTES"),
    ],
)
def test_the_headers_are_laid_out_as_the_document_says(
    title: str, which: int, layout: struct.Struct, bytes_of: str
) -> None:
    rows = list(tables(section(title)))[which]
    at = 0
    for offset, _, width, *_ in rows:
        assert int(offset) == at
        at += struct.calcsize("<" + WIDTHS[width])
    assert "<" + "".join(WIDTHS[width] for _, _, width, *_ in rows) == layout.format
    assert at == layout.size == getattr(_core, bytes_of)


def test_a_directory_item_has_the_size_of_the_document() -> None:
    assert f"`count` times {codec.DIRECTORY_ITEM.size} bytes" in section("Batch")
    assert codec.DIRECTORY_ITEM.size == _core.DIRECTORY_ITEM_BYTES


def test_magic_and_version_are_those_of_the_document() -> None:
    assert f'`{_core.BATCH_MAGIC:#x}` ("MRB1")' in section("Batch")
    assert f'`{_core.FRAME_MAGIC:#x}` ("MRF1")' in section("Frame")
    assert (codec.BATCH_MAGIC, codec.FRAME_MAGIC) == (_core.BATCH_MAGIC, _core.FRAME_MAGIC)
    assert codec.VERSION == _core.FORMAT_VERSION


def kinds_in(rows: list[list[str]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for names, numbers, *_ in rows:
        found |= zip(re.findall(r"`(\w+)`", names), map(int, numbers.split(",")), strict=True)
    return found


@pytest.mark.parametrize(
    ("title", "which", "prefix", "kinds"),
    [("Run", 1, "RUN_", RunKind), ("Frame", 2, "MSG_", MessageKind)],
)
def test_the_kinds_are_those_of_the_document(
    title: str, which: int, prefix: str, kinds: type[IntEnum]
) -> None:
    documented = kinds_in(list(tables(section(title)))[which])
    assert {prefix + name: number for name, number in documented.items()} == {
        kind.name: kind.value for kind in kinds
    }


def test_small_numbers_are_those_of_the_document() -> None:
    frame = section("Frame")
    assert "1 messages, 2 hello, 3 bulk (snapshot chunks), 4 goodbye" in frame
    assert [kind.name for kind in sorted(FrameKind)] == [
        "FRAME_MESSAGES",
        "FRAME_HELLO",
        "FRAME_BULK",
        "FRAME_GOODBYE",
    ]
    assert "1 reject, 2 by transfer, 4 carries a run" in frame
    assert {flag.name: flag.value for flag in MessageFlag} == {
        "FLAG_REJECT": 1,
        "FLAG_TRANSFER": 2,
        "FLAG_RUN": 4,
    }
    assert "flags: 1 voter, 2 outgoing voter, 4 learner, 8 learner when" in " ".join(
        section("Run").split()
    ).replace("flags:\n", "flags: ")
    assert {flag.name: flag.value for flag in _core.MemberFlag} == {
        "MEMBER_VOTER": 1,
        "MEMBER_OUTGOING": 2,
        "MEMBER_LEARNER": 4,
        "MEMBER_LEARNER_NEXT": 8,
    }
