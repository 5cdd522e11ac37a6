"""Mutants: pitfalls put back one at a time, to see that the simulator finds each (``python -m multiraft.testing mutants``).

The list is ``tests/mutants/mutants.toml``, and a copy of the sources with all mutants as switches is made from it by
``tools/mutant_tree.py``. Each mutant runs in a process of its own (``multiraft.testing.mutant_seeds``), seed after seed, until one
is found to be wrong.

Nothing here is part of a node; the product has no switches.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = "MULTIRAFT_MUTANT"
LIST = "tests/mutants/mutants.toml"
TREE = "build/mutants"
SEEDS_MAX = 1000
PROCESSES = 2
FRESH_MUTANTS = 10
FRESH_SEEDS = 5
"""In CI, a rotating ten of the mutants are also tried with so many seeds that nobody chose."""


class MutantsError(Exception):
    """The mutated tree cannot be made, or there is no such mutant; what to do is in the message."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One text of one file, and what stands there instead; MUTANT in it is the condition."""

    file: str
    find: str
    replace: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One pitfall put back. ``number`` is its place in the list, from 1."""

    number: int
    name: str
    does: str
    pitfalls: tuple[int, ...]
    edits: tuple[Edit, ...]
    profile: str = "mutants"
    nodes: int = 3
    groups: int = 1
    seconds: float = 15.0
    config: dict[str, Any] = field(default_factory=dict)
    killed_by: int | None = None
    unfound: str = ""
    """Why no seed is known that finds it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one mutant. ``tries`` counts seeds, the one that found it included."""

    name: str
    found: bool
    seed: int
    tries: int
    violation: str
    cpu_s: float


def read_list(path: Path) -> list[Mutant]:
    """The mutants of a list, in its order."""
    return [
        Mutant(
            number,
            **{
                **one,
                "pitfalls": tuple(one["pitfalls"]),
                "edits": tuple(Edit(**edit) for edit in one["edits"]),
            },
        )
        for number, one in enumerate(tomllib.loads(path.read_text("utf-8"))["mutants"], 1)
    ]


def make_tree() -> Path:
    """The mutated tree, made anew where it is stale. Raises MutantsError with what the compiler said."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.mutant_tree"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise MutantsError(done.stderr.strip() or "the mutated tree cannot be made")
    return ROOT / TREE


# -- running --------------------------------------------------------------------------------------------------------------


def run_seeds(
    tree: Path, mutant: Mutant | None, seeds: Iterable[int], **settings: Any
) -> list[dict[str, Any]]:
    """What the seeds of one mutant came to, up to the first that finds it; None: with no mutant on."""
    asked: dict[str, Any] = {"seeds": list(seeds), **settings}
    if mutant is not None:
        given = {
            name: getattr(mutant, name)
            for name in ("profile", "nodes", "groups", "seconds", "config")
        }
        asked = {**given, **asked}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MULTIRAFT_")},
        "PYTHONPATH": str(tree),
        "PYTHONHASHSEED": "0",
    }
    if mutant is not None:
        environment[VARIABLE] = str(mutant.number)
    command = [sys.executable, "-P", "-m", "multiraft.testing.mutant_seeds", json.dumps(asked)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode < 0 and len(lines) < len(asked["seeds"]):
        seed = asked["seeds"][len(lines)]
        violation = f"the process ended by signal {-done.returncode}"
        lines.append({"seed": seed, "violation": violation, "trace": 0, "cpu_s": 0.0})
    elif done.returncode:
        raise MutantsError(f"the process of seeds failed: {done.stderr[-2000:]}")
    return lines


def hunt(tree: Path, mutant: Mutant, seeds: Sequence[int], **settings: Any) -> Result:
    """Try seeds until one finds the mutant."""
    lines = run_seeds(tree, mutant, seeds, **settings)
    last = lines[-1]
    return Result(
        mutant.name,
        bool(last["violation"]),
        last["seed"],
        len(lines),
        last["violation"],
        round(sum(line["cpu_s"] for line in lines), 2),
    )


def hunt_all(
    tree: Path, jobs: Sequence[tuple[Mutant, Sequence[int]]], **settings: Any
) -> list[Result]:
    """Hunt several at once, and say on stderr how it goes."""

    def one(job: tuple[Mutant, Sequence[int]]) -> Result:
        result = hunt(tree, *job, **settings)
        said = result.violation if result.found else "NOT FOUND"
        say(sys.stderr, f"{result.name}: {result.tries} seeds: {said:.150}")
        return result

    with ThreadPoolExecutor(PROCESSES) as pool:
        return list(pool.map(one, jobs))


def known(mutants: Iterable[Mutant]) -> list[tuple[Mutant, Sequence[int]]]:
    """Each mutant with the seed that is known to find it."""
    return [(one, [one.killed_by]) for one in mutants if one.killed_by is not None]


def fresh(mutants: Sequence[Mutant], turn: int) -> list[tuple[Mutant, Sequence[int]]]:
    """Ten mutants, other ones each turn, with seeds that nobody chose."""
    found = [one for one in mutants if one.killed_by is not None]
    start = turn * FRESH_MUTANTS % max(1, len(found))
    chosen = (found + found)[start : start + min(FRESH_MUTANTS, len(found))]
    first = 1_000_000 + turn * FRESH_SEEDS
    return [(one, range(first, first + FRESH_SEEDS)) for one in chosen]


# -- the list and the report ------------------------------------------------------------------------------------------------


def say(to: TextIO, what: str) -> None:
    """A line, at once."""
    to.write(what + "\n")
    to.flush()


def record(path: Path, results: Iterable[Result]) -> None:
    """Write the seeds that were found into the list."""
    text = path.read_text("utf-8")
    for result in results:
        if result.found:
            start = text.index(f'name = "{result.name}"')
            end = text.index("edits = [", start)
            block = re.sub(r"killed_by = \d+\n|unfound = .*\n", "", text[start:end])
            text = text[:start] + block + f"killed_by = {result.seed}\n" + text[end:]
    path.write_text(text, "utf-8")


def table(mutants: Iterable[Mutant], results: Iterable[Result]) -> str:
    """A line for each mutant, and the figures that matter."""
    of = {one.name: one for one in mutants}
    lines = []
    for one in results:
        pitfalls = ",".join(map(str, of[one.name].pitfalls))
        seeds = str(one.tries) if one.found else f"not in {one.tries}"
        lines.append(f"{one.name:<48} {pitfalls:<9} {seeds:>12}  {one.violation:.90}")
    tries = [one.tries for one in results if one.found]
    count = len(list(results))
    lines.append(f"{len(tries)} of {count} found; cpu {sum(one.cpu_s for one in results):.0f} s")
    if tries:
        lines.append(f"seeds to find one: median {statistics.median(tries):g}, most {max(tries)}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m multiraft.testing mutants",
        description="Put known bugs into a copy of the sources, one at a time, and see how many seeds find each.",
    )
    made.add_argument("names", nargs="*", help="only these mutants")
    made.add_argument("--json", action="store_true", help="the results as JSON on stdout")
    made.add_argument("--seeds", type=int, default=SEEDS_MAX, help="give up after so many")
    made.add_argument("--first", type=int, default=1, help="the first seed")
    made.add_argument("--ci", type=int, metavar="TURN", help="known seeds, and ten with fresh ones")
    made.add_argument("--record", action="store_true", help="write the seeds into the list")
    made.add_argument("--profile", help="instead of each mutant's own")
    made.add_argument("--seconds", type=float, help="simulated, of each seed")
    return made


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 where a mutant was not found, 2 where none could be run."""
    asked = parser().parse_args(arguments)
    try:
        mutants = read_list(ROOT / LIST)
        if unknown := set(asked.names) - {one.name for one in mutants}:
            raise MutantsError(f"no such mutants: {', '.join(sorted(unknown))}")
        tree = make_tree()
    except MutantsError as error:
        say(sys.stderr, str(error))
        return 2
    chosen = [one for one in mutants if not asked.names or one.name in asked.names]
    seeds = range(asked.first, asked.first + asked.seeds)
    given = {"profile": asked.profile, "seconds": asked.seconds}
    settings = {name: value for name, value in given.items() if value is not None}
    if asked.ci is not None:
        results = hunt_all(tree, known(chosen), **settings)
        missed = any(not one.found for one in results)
        results += hunt_all(tree, fresh(chosen, asked.ci), **settings)
    else:
        results = hunt_all(tree, [(one, seeds) for one in chosen], **settings)
        missed = any(not one.found for one in results)
    if asked.record:
        record(ROOT / LIST, results)
    if asked.json:
        say(sys.stdout, json.dumps([asdict(one) for one in results], indent=1))
    else:
        say(sys.stdout, table(mutants, results))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
