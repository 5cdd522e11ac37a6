"""Holds the tree to the laws of `tools/tidy`. What each law catches is shown in `tests/unit/tools/test_tidy_rules.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.tidy.ratchet import RATCHET, beyond_ratchet
from tools.tidy.rules import RULES, Rule, sources_of
from tools.tidy.source import Source, Violation, tracked_files
from tools.tidy.words import check_machine

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return sources_of(ROOT)


def refuse(violations: list[Violation]) -> None:
    if violations:
        pytest.fail("\n".join(map(str, violations)), pytrace=False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps_the_rule(rule: Rule, sources: list[Source]) -> None:
    left = [v for v in beyond_ratchet(rule(sources), RATCHET) if v.rule != "ratchet"]
    refuse(left)


def test_no_tracked_file_names_a_machine() -> None:
    left = list(check_machine(ROOT, tracked_files(ROOT)))
    refuse(left)


def test_every_exception_is_needed_and_has_a_reason(sources: list[Source]) -> None:
    found: Iterator[Violation] = (violation for rule in RULES for violation in rule(sources))
    left = [v for v in beyond_ratchet(found, RATCHET) if v.rule == "ratchet"]
    refuse(left)


def test_the_tree_that_is_looked_at_is_there(sources: list[Source]) -> None:
    paths = {source.path for source in sources}
    assert {"multiraft/errors.py", "multiraft/_core.pxd", "tests/conftest.py", "setup.py"} <= paths
