"""All rules in one list, and the one call that runs them over a tree: what the test and the command share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tools.tidy import compiled, fences, layers, shape, words
from tools.tidy.ratchet import RATCHET, Allowed, beyond_ratchet
from tools.tidy.source import Source, Violation, make_source, read_sources, tracked_files

Rule = Callable[[Iterable[Source]], Iterator[Violation]]

FOLDERS = ("multiraft", "tests", "benchmarks", "tools")

RULES: tuple[Rule, ...] = (
    layers.check_layers,
    layers.check_cimport_cycles,
    fences.check_fences,
    fences.check_async,
    fences.check_identity,
    fences.check_put_path,
    shape.check_function_lengths,
    shape.check_file_lengths,
    shape.check_openings,
    shape.check_excepts,
    shape.check_asserts,
    compiled.check_contracts,
    compiled.check_final_classes,
    compiled.check_compile_time,
    words.check_words,
)


def sources_of(root: Path) -> list[Source]:
    setup = root / "setup.py"
    alone = [make_source("setup.py", setup.read_text(encoding="utf-8"))] if setup.exists() else []
    return read_sources(root, *FOLDERS) + alone


def all_violations(root: Path, ratchet: Iterable[Allowed] = RATCHET) -> list[Violation]:
    """Everything that the tree at `root` breaks, beyond what the ratchet list allows."""
    sources = sources_of(root)
    found = [violation for rule in RULES for violation in rule(sources)]
    found += words.check_machine(root, tracked_files(root))
    return sorted(beyond_ratchet(found, ratchet), key=lambda v: (v.path, v.line, v.rule))
