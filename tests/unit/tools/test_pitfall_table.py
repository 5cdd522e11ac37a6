"""Holds docs/testing.md to the tests that there are, and shows on a small tree what the table says when."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import pitfall_table as pt

ROOT = Path(__file__).resolve().parents[3]

SENTENCES = """
[features]
log = { path = "multiraft/log.py", means = "the log" }
node = { path = "", means = "the node" }
[[areas]]
title = "Area"
pitfalls = [[1, "One.", "log"], [2, "Two.", "log", "node"], [3, "Three.", "log"], [4, "Four.", "node"]]
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "pitfalls.toml").write_text(SENTENCES)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(
        "def test_p1_x():\n    ...\ndef test_p01_y():\n    ...\n"
    )
    return tmp_path


def test_the_page_says_what_the_tests_say() -> None:
    page = (ROOT / pt.PAGE).read_text("utf-8")
    assert pt.with_table(page, pt.table(ROOT)) == page, "run `make docs`"


def test_the_list_is_whole() -> None:
    features, pitfalls = pt.read_sentences(ROOT / pt.SENTENCES)
    assert [pitfall.number for pitfall in pitfalls] == list(range(1, 103))
    assert all(pitfall.sentence.endswith(".") for pitfall in pitfalls)
    assert len({pitfall.sentence for pitfall in pitfalls}) == len(pitfalls)
    assert set(features) == {name for pitfall in pitfalls for name in pitfall.waits}


def test_held_open_and_waiting_are_told_apart(tree: Path) -> None:
    text = pt.table(tree)
    assert "| 1 | One. | `tests/test_a.py::test_p1_x`<br>`tests/test_a.py::test_p01_y` |" in text
    assert "| 2 | Two. | waits for the log, the node |" in text
    assert "Of 4 pitfalls 1 are held by a named test, 0 are open, and 3 wait" in text
    (tree / "multiraft").mkdir()
    (tree / "multiraft" / "log.py").touch()
    assert "| 3 | Three. | **open** |" in pt.table(tree)
    assert "| 2 | Two. | waits for the node |" in pt.table(tree)
    assert [pitfall.number for pitfall in pt.open_pitfalls(tree)] == [3]


def test_scenarios_and_transcripts_hold_pitfalls_too(tree: Path) -> None:
    (tree / "multiraft" / "testing").mkdir(parents=True)
    (tree / "multiraft" / "testing" / "scenarios.py").write_text("x = 1  # pitfalls 2, 3\n")
    (tree / "tests" / "p4_quiet.txt").touch()
    text = pt.table(tree)
    assert "| 3 | Three. | `multiraft/testing/scenarios.py` |" in text
    assert "| 4 | Four. | `tests/p4_quiet.txt` |" in text


def test_one_test_may_hold_two(tree: Path) -> None:
    (tree / "tests" / "test_b.py").write_text("def test_p2_p3_z():\n    ...\n")
    holders = pt.find_holders(tree)
    assert holders[2] == holders[3] == ["tests/test_b.py::test_p2_p3_z"]


def test_an_unknown_number_is_refused(tree: Path) -> None:
    (tree / "tests" / "test_b.py").write_text("def test_p77_z():\n    ...\n")
    with pytest.raises(SystemExit, match="77"):
        pt.table(tree)


def test_a_page_without_its_marks_is_refused() -> None:
    assert pt.with_table(f"a\n{pt.BEGIN}\nold\n{pt.END}\nb", "new") == "a\nnew\nb"
    with pytest.raises(SystemExit, match="marks"):
        pt.with_table("a page", "new")
