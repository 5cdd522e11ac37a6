"""The demo, small: that it finds nothing lost, that it would find what is lost, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from multiraft.cli import demo as module
from multiraft.cli.demo_input import checksum, look_at, pieces_of
from multiraft.cli.demo_load import Found, Judge, Written, disagreements
from multiraft.cli.demo_show import PlainShow
from multiraft.cli.main import main

pytestmark = pytest.mark.cluster

KEYS = {
    "acknowledged",
    "lost",
    "mismatched",
    "unknown",
    "writes_per_s",
    "p50_ms",
    "p99_ms",
    "elections",
    "nodes",
    "shards",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A few files, 400 pieces in all."""
    folder = tmp_path / "files"
    for number in range(4):
        path = folder / f"part{number}" / "text.txt"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"line {line} of {number}\n" for line in range(1600)))
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its directory."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def processes_of(place: Path) -> list[str]:
    """Command lines of processes that have to do with a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # it ended just now
            if str(place) in words:
                found.append(words)
    return found


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "multiraft", "demo", *arguments], capture_output=True, text=True
    )


def test_nothing_is_lost_and_nothing_is_left(files: Path, temporary: Path) -> None:
    run = run_demo("--input", str(files), "--shards", "8", "--json")
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout)
    assert run.stdout.count("\n") == 1
    assert set(figures) == KEYS
    assert figures["acknowledged"] + figures["unknown"] == 400
    assert figures["acknowledged"] > 200
    assert (figures["lost"], figures["mismatched"]) == (0, 0)
    assert (figures["nodes"], figures["shards"]) == (3, 8)
    assert figures["elections"] > 0  # somebody took over what the killed node had led
    for words in ("killed with -9", "started again", "has caught up", "Everything, read back"):
        assert words in run.stderr
    assert not list(temporary.iterdir())
    assert not processes_of(temporary)


class Tampered(module.Demo):
    """Takes one acknowledged key away and changes another, where nobody should see it."""

    async def catch_up(self) -> None:
        await super().catch_up()
        async with module.Client(self.clients_at[1]) as client:
            await client.delete(b"part0/text.txt:1")
            await client.put(b"part1/text.txt:17", b"something else")
            await client.put(b"never written", b"by the demo")


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_lost_or_changed_is_found(
    files: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    monkeypatch.setattr(module, "Demo", Tampered)
    arguments = ["demo", "--input", str(files), "--shards", "4"]
    run = CliRunner().invoke(main, [*arguments, *(["--json"] if as_json else [])])
    assert run.exit_code == 1
    if as_json:
        figures = json.loads(run.stdout)
        assert (figures["lost"], figures["mismatched"]) == (1, 2)
    else:
        assert "lost 1   mismatched 2" in run.stdout and "DIFFERS" in run.stdout
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(
    files: Path, temporary: Path, number: signal.Signals
) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "multiraft", "demo", "--input", str(files), "--shards", "4"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "are up" in line:
                break
        assert len(processes_of(temporary)) == 3
        demo.send_signal(number)
        rest = demo.stdout.read()
        assert demo.wait() == 130
        assert "interrupted" in rest and "Traceback" not in rest
    finally:
        demo.kill()
        demo.wait()
        if demo.stdout is not None:
            demo.stdout.close()
    assert not list(temporary.iterdir())
    assert not processes_of(temporary)


def test_a_node_that_does_not_start_says_why(
    files: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = module.serve_arguments

    def spoiled(node: int, *given: Any, **named: Any) -> list[str]:
        return [*usual(node, *given, **named), *(["--shards", "0"] if node == 2 else [])]

    monkeypatch.setattr(module, "serve_arguments", spoiled)
    run = CliRunner().invoke(main, ["demo", "--input", str(files)])
    assert run.exit_code == 1
    assert "node 2 ended with exit code 2" in run.stdout
    assert "a hash space has 1 to 16384 shards" in run.stdout
    assert not list(temporary.iterdir())
    assert not processes_of(temporary)


def test_what_is_too_little_to_kill_a_node_in_is_refused(tmp_path: Path) -> None:
    """Of two keys one came before the kill and the start alike."""
    (tmp_path / "few.txt").write_text("line\n" * 20)
    run = CliRunner().invoke(main, ["demo", "--input", str(tmp_path)])
    assert (run.exit_code, "2 keys" in run.output) == (2, True), run.output


def test_what_is_kept_is_kept(files: Path, tmp_path: Path) -> None:
    place = tmp_path / "kept"
    run = run_demo("--input", str(files), "--shards", "4", "--keep", str(place))
    assert run.returncode == 0, run.stdout
    assert {path.name for path in place.iterdir()} >= {"n1", "n2", "n3", "n1.log"}
    again = run_demo("--input", str(files), "--keep", str(place))
    assert again.returncode == 2 and "is not empty" in again.stderr


# -- the judge -----------------------------------------------------------------------------------------------------------


class Scripted:
    """A client that finds what it is told to."""

    def __init__(self, found: dict[bytes, bytes]) -> None:
        self.found = found

    async def get_many(self, keys: list[bytes], **settings: Any) -> list[bytes | None]:
        return [self.found.get(key) for key in keys]

    async def scan(self, **settings: Any) -> Any:
        for key in sorted(self.found):
            yield key, self.found[key]


@pytest.mark.loops("asyncio")
def test_an_unknown_write_may_be_there_or_not_but_alike_everywhere(arun: Any) -> None:
    written = Written(
        acknowledged={b"a": checksum(b"1"), b"c": checksum(b"3")},
        unknown={b"b": checksum(b"2")},
    )
    whole = {b"a": b"1", b"b": b"2", b"c": b"3"}

    async def passes(found: dict[bytes, bytes]) -> list[Found]:
        judge, client = Judge(written), Scripted(found)
        return [
            await judge.by_reads(client, lambda done: None),  # type: ignore[arg-type]
            await judge.by_scan(client, lambda done: None),  # type: ignore[arg-type]
        ]

    async def main() -> None:
        there = await passes(whole)
        absent = await passes({b"a": b"1", b"c": b"3"})
        assert all(found.sound for found in there + absent)
        assert there[0].digest == there[1].digest != absent[0].digest == absent[1].digest
        assert not disagreements(there) and not disagreements(absent)
        assert disagreements(there + absent) == {b"b"}
        for found in await passes({b"a": b"1", b"b": b"other", b"c": b"3"}):
            assert (found.lost, found.mismatched) == (set(), {b"b"})
        for found in await passes({b"b": b"2", b"c": b"x"}):
            assert (found.lost, found.mismatched) == ({b"a"}, {b"c"})
        assert [found.lost for found in await passes({})] == [{b"a", b"c"}] * 2
        assert (await passes(whole | {b"d": b"4"}))[1].mismatched == {b"d"}

    arun(main())


def test_files_are_cut_into_pieces_under_keys_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x\n" * 33)
    (tmp_path / "long").write_bytes(b"y" * 600_000)
    (tmp_path / "none").write_bytes(b"")
    (tmp_path / ("d" * 200)).mkdir()
    deep = tmp_path / ("d" * 200) / ("e" * 250)
    deep.write_bytes(b"z")
    source = look_at(tmp_path)
    pieces = dict(pieces_of(source))
    assert source.keys == len(pieces) == 3 + 3 + 1
    assert source.size == sum(map(len, pieces.values())) == 66 + 600_000 + 1
    assert pieces[b"a.txt:33"] == b"x\n"
    assert all(len(key) <= 480 and len(value) <= 2**20 for key, value in pieces.items())


def test_plain_lines_say_a_little_of_the_progress(capsys: pytest.CaptureFixture[str]) -> None:
    show = PlainShow(sys.stdout, every_s=0.0)
    with show.bar("reading", 1000) as bar:
        for done in range(1001):
            bar.at(done)
    assert capsys.readouterr().out.count("\n") == 5
    with PlainShow(sys.stdout, every_s=1000.0).bar("reading", 1000) as bar:
        for done in range(1001):
            bar.at(done)
    assert capsys.readouterr().out.startswith("  reading: 1,000 in ")
