"""The list of mutants fits the sources, the product has none of them, and the simulator finds them."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest

from multiraft.testing import mutants as command
from multiraft.testing.nemesis import PROFILES
from multiraft.testing.simulation import Settings, run
from tools import mutant_tree, mutants
from tools.mutants import Edit, Mutant, known, read_list

ROOT = Path(__file__).resolve().parents[3]
LIST = read_list(ROOT / mutants.LIST)
UNFOUND_MAX = 32


def test_every_edit_of_the_list_fits_the_sources() -> None:
    assert mutant_tree.wrong_edits(LIST) == []


def test_the_list_says_what_a_reader_wants_to_know() -> None:
    pitfalls = tomllib.loads((ROOT / "tools" / "pitfalls.toml").read_text("utf-8"))
    numbers = {one[0] for area in pitfalls["areas"] for one in area["pitfalls"]}
    assert len(LIST) >= 35
    assert len({one.name for one in LIST}) == len(LIST)
    for one in LIST:
        assert set(one.pitfalls) <= numbers, one.name
        assert one.profile in PROFILES, one.name
        assert one.does.endswith("."), one.name
        assert (one.killed_by is None) == bool(one.unfound), one.name


def test_no_more_mutants_escape_than_are_known_to() -> None:
    """It only falls: whoever finds one lowers it."""
    assert sum(one.killed_by is None for one in LIST) <= UNFOUND_MAX
    assert all(one.killed_by is None or one.killed_by <= mutants.SEEDS_MAX for one in LIST)


def test_the_sources_have_no_switch() -> None:
    for path in (ROOT / "multiraft").rglob("*"):
        if path.suffix in (".py", ".pyx", ".pxd") and path.parent.name != "testing":
            assert "mutant" not in path.read_text("utf-8").lower(), path


def test_the_compiled_modules_have_no_switch() -> None:
    found = list((ROOT / "multiraft").rglob("*.so"))
    assert found
    for path in found:
        assert b"MUTANT" not in path.read_bytes().upper(), path


def test_an_edit_that_fits_nowhere_or_meets_another_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os\n\none = 1\none = 1\ntwo = 2\n", "utf-8")

    def mutant(*edits: tuple[str, str]) -> Mutant:
        return Mutant(1, "it", "is.", (), tuple(Edit("a.py", *edit) for edit in edits))

    def told(*edits: tuple[str, str]) -> str:
        return "; ".join(mutant_tree.wrong_edits([mutant(*edits)], tmp_path))

    assert told(("two = 2", "two = MUTANT")) == ""
    assert "has 2 times" in told(("one = 1", "one = MUTANT"))
    assert "has 0 times" in told(("three", "MUTANT"))
    assert "overlap" in told(("two = 2", "MUTANT"), ("= 2\n", "MUTANT"))
    assert "no edit has MUTANT" in told(("two = 2", "two = 3"))


def test_a_switch_stands_where_the_text_was() -> None:
    text = '"""A module."""\n\nfrom __future__ import annotations\n\nimport os\n\ntwo = 2\n'
    made = mutant_tree.edited(
        "a.py", text, [(7, Edit("a.py", "two = 2", "two = 3 if MUTANT else 2"))]
    )
    assert made == (
        '"""A module."""\n\nfrom __future__ import annotations\n\n'
        "from multiraft._mutant import NUMBER as _MUTANT\nimport os\n\ntwo = 3 if (_MUTANT == 7) else 2\n"
    )


def test_an_installed_package_says_that_it_needs_a_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "__file__", str(tmp_path / "multiraft" / "testing" / "mutants.py"))
    assert command.main([]) == 2
    assert "from a checkout" in capsys.readouterr().err


# -- with the mutated tree ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree() -> Path:
    """Made once, and only where something has changed: about a minute and a half of one core."""
    if "MULTIRAFT_MUTANTS" not in os.environ:
        pytest.skip(
            "the seeds in the list are of an older simulated network; MULTIRAFT_MUTANTS=1 runs this all the same"
        )
    try:
        return mutants.make_tree()
    except mutants.MutantsError as error:
        pytest.skip(f"the mutated tree cannot be made: {error}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_with_no_mutant_on_the_mutated_tree_is_the_product(tree: Path) -> None:
    for profile in ("mutants", "membership"):
        settings = Settings(seconds=10.0, profile=profile)
        lines = mutants.run_seeds(tree, None, range(1, 6), seconds=10.0, profile=profile, all=True)
        assert [line["trace"] for line in lines] == [
            run(seed, settings).trace for seed in range(1, 6)
        ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_known_seed_finds_its_mutant(tree: Path) -> None:
    results = mutants.hunt_all(tree, known(LIST))
    assert [one.name for one in results if not one.found] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_finds_a_mutant_finds_nothing_in_the_product(tree: Path) -> None:
    """Else it was not the mutant that was found."""
    runs = {
        (one.profile, one.nodes, one.groups, one.seconds, json.dumps(one.config), one.killed_by)
        for one in LIST
        if one.killed_by is not None
    }
    for profile, nodes, groups, seconds, config, seed in sorted(runs):
        lines = mutants.run_seeds(
            tree, None, [seed], profile=profile, nodes=nodes, groups=groups, seconds=seconds,
            config=json.loads(config),
        )  # fmt: skip
        assert [line["violation"] for line in lines] == [""], (profile, seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_of_the_mutants_meet_seeds_that_nobody_chose(tree: Path) -> None:
    """A look, not a demand: what five seeds find is said, and one of ten must be found at least."""
    results = mutants.hunt_all(tree, mutants.fresh(LIST, int(os.environ.get("MUTANTS_TURN", "0"))))
    assert any(one.found for one in results)
