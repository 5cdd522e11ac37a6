"""Holds the documents to the tree: links lead somewhere, commands exist, every page is in the index, words are in order."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
MAKE = re.compile(r"(?:^|`|&& )make ([a-z][a-z-]*)", re.MULTILINE)
SCRIPT = re.compile(r"(?<![\w/])tools[/.](\w+)(?:\.py)?\b")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_commands_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in LINK.findall(text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
    targets = set(TARGET.findall((ROOT / "Makefile").read_text("utf-8")))
    for name in MAKE.findall(text):
        assert name in targets, f"{page.name} says `make {name}`"
    for name in SCRIPT.findall(text):
        found = [path for path in (ROOT / "tools").iterdir() if path.stem == name]
        assert found, f"{page.name} names tools/{name}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    linked = set(LINK.findall(index))
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert pages - {"README.md"} <= linked


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(name[:4]) for name in names] == list(range(len(names)))


def test_the_glossary_is_in_order_and_each_word_has_one_sentence() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8")
    entries = re.findall(r"^\*\*(.+?)\*\* - (.+?)$", text, re.MULTILINE)
    words = [word for word, _ in entries]
    assert len(words) >= 60
    assert words == sorted(words, key=lambda word: word.lower().strip("`"))
    assert len(set(words)) == len(words)
    assert all(sentence.endswith(".") for _, sentence in entries)


def test_the_readme_and_ci_run_the_same_tests() -> None:
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert "\nmake test" in (ROOT / "README.md").read_text("utf-8")


def test_the_extras_that_the_pages_name_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for page in PAGES:
        for names in re.findall(r"multiraft\[([\w,]+)\]", page.read_text("utf-8")):
            assert set(names.split(",")) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    ("page", "example"),
    [
        ("machines.md", "counter.py"),
        ("testing.md", "check_history.py"),
        ("testing.md", "test_tickets.py"),
    ],
)
def test_the_example_on_a_page_is_the_file_that_is_run(page: str, example: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    code = (ROOT / "docs" / "examples" / example).read_text("utf-8")
    assert f"```python\n{code}```" in text
