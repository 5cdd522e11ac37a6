"""The command ``check`` and its page: exit codes, both forms of output, and nothing on the page that was not escaped."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from multiraft.testing import Counter, History, HistoryError, ListAppend, Recorder, Register, check
from multiraft.testing.__main__ import main
from multiraft.testing.checking import check_command
from multiraft.testing.picture import ROWS_MAX, draw
from tests.unit.testing.histories import Recipe, history, stale_read
from tests.unit.testing.test_verdicts import hard

EVIL = "<script>alert('&\"')</script>"


def stale(path: Path, value: str = "a") -> Path:
    """A file with a stale read, and a write that a process left open before it went on."""
    with path.open("w") as file:
        recorder = Recorder(file, clock=iter(range(100)).__next__)
        with recorder.invoke("p<1>", "write", EVIL, value) as call:
            call.ok()
        with recorder.invoke("p<1>", "write", EVIL, "b") as call:
            call.ok()
        recorder.invoke(2, "read", EVIL).info()
        with recorder.invoke(2, "read", EVIL) as call:
            call.ok(value)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def test_ok_is_0(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    History(tuple(history(Recipe(Register(), 50), 1))).write(path)
    done = run(path, "--model", "register", "--html", tmp_path / "h.html")
    assert done.exit_code == 0 and done.output.startswith("linearizable: 50 operations")
    assert not (tmp_path / "h.html").exists()


def test_violated_is_1_and_is_drawn(tmp_path: Path) -> None:
    path = stale(tmp_path / "h.jsonl")
    done = run(path, "--model", "register", "--html", tmp_path / "h.html")
    assert done.exit_code == 1
    assert "the last write of 'a' was overwritten by write('b')" in done.output
    assert (tmp_path / "h.html").read_text().startswith("<!DOCTYPE html>")


def test_violated_in_json(tmp_path: Path) -> None:
    done = run(stale(tmp_path / "h.jsonl"), "--model", "kv", "--json")
    said = json.loads(done.output)
    assert done.exit_code == 1 and said["outcome"] == "violated"
    assert len(said["part"]["operations"]) == 3 and said["statistics"]["violated"] == 1


@pytest.mark.parametrize("text", ["{", '{"process": 1, "type": "ok", "time": 1}'])
def test_bad_input_is_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(text)
    done = run(path, "--model", "register")
    assert done.exit_code == 2 and "line 1: " in done.stderr and done.stdout == ""


def test_a_model_that_does_not_fit_is_2(tmp_path: Path) -> None:
    done = run(stale(tmp_path / "h.jsonl"), "--model", "counter")
    assert done.exit_code == 2 and "no operation 'write'" in done.stderr


def test_no_file_or_no_model_is_2(tmp_path: Path) -> None:
    assert run(tmp_path / "none", "--model", "register").exit_code == 2
    assert run(tmp_path / "none", "--model", "queue").exit_code == 2
    with pytest.raises(HistoryError, match="register, kv, counter, list-append"):
        check_command(tmp_path / "none", "queue")


def test_undecided_is_3(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    recorded = hard()
    places = sorted({at for one in recorded for at in (one.called, one.returned) if at is not None})
    assert len(places) == 2 * len(recorded)
    History(tuple(recorded)).write(path)
    done = run(path, "--model", "counter", "--seconds", "0")
    assert done.exit_code == 3 and done.output.startswith("undecided: ")


# -- the page -------------------------------------------------------------------------------------------------------------


def test_the_page_is_whole_and_escaped(tmp_path: Path) -> None:
    verdict = check_command(stale(tmp_path / "h.jsonl", EVIL), "register")
    page = draw(verdict)
    assert "<script" not in page and "p<1>" not in page
    assert not re.search(r"(?:src|href|url\()", page), "a resource from elsewhere"
    assert "prefers-color-scheme: dark" in page
    assert page.count('class="bad"') == 1 and page.count('class="ok"') == 2
    assert "fits nowhere" in page and "state after it" in page


def test_what_a_process_left_open_has_a_lane_of_its_own() -> None:
    recorder = Recorder()
    recorder.invoke(1, "add", "x", 5).info()
    for _ in range(2):
        with recorder.invoke(1, "add", "x", 1) as call:
            call.ok()
    with recorder.invoke(1, "read", "x") as call:
        call.ok(1)
    verdict = check(recorder.history(), Counter())
    page = draw(verdict)
    heights = dict(re.findall(r'class="(\w+)" (?:x="\d+" y|d="M\d+,)[="]*(\d+)', page))
    assert heights["info"] != heights["bad"]


def test_many_operations_are_drawn_in_part() -> None:
    recipe = Recipe(ListAppend(), 2000, clients=600, weights={"append": 1, "read": 0.02})
    verdict = check(stale_read(history(recipe, 1), 1500, 1), ListAppend())
    page = draw(verdict)
    assert page.count("<rect") + page.count("<path") <= ROWS_MAX


def test_nothing_is_drawn_of_what_is_right() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(check([], Register()))
