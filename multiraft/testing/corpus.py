"""Runs as data: what to run, what came of it, and the corpus, a folder with one file for each seed that ever failed.

A ``Task`` says all that a run depends on, so that it can be written to a file or sent to another process as JSON; a ``Report`` is
what is kept of its outcome. A ``Case`` is a task with its story: why it failed, and what was mended. Nothing here runs anything.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from multiraft.errors import ConfigError
from multiraft.testing.nemesis import KINDS, PROFILES, Fault
from multiraft.testing.simulation import Settings
from multiraft.testing.workload import Load

REASON_CHARACTERS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Task:
    """One run: a seed, its settings, and the faults to use instead of the seed's own."""

    seed: int
    settings: Settings = Settings()
    faults: tuple[Fault, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        faults = None if self.faults is None else [fault.to_json() for fault in self.faults]
        return {"seed": self.seed, "settings": settings_to_json(self.settings), "faults": faults}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        """Raises ConfigError for what is no task."""
        try:
            given = data.get("faults")
            faults = None if given is None else tuple(map(Fault.from_json, given))
            task = cls(int(data["seed"]), settings_from_json(data["settings"]), faults)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"this is no run of a simulation: {error!r}") from error
        task.check()
        return task

    def check(self) -> None:
        """Raises ConfigError where it names what is not there."""
        settings = self.settings
        if settings.profile not in PROFILES:
            raise ConfigError(f"profile {settings.profile!r}: one of {', '.join(PROFILES)}")
        if settings.nodes < 2 or settings.groups < 1 or settings.seconds <= 0:
            raise ConfigError("a run has two nodes or more, a group or more, and lasts a while")
        for fault in self.faults or ():
            if fault.kind not in KINDS:
                raise ConfigError(f"fault {fault.kind!r}: one of {', '.join(KINDS)}")
            if not fault.nodes or not set(fault.nodes) <= set(range(1, settings.nodes + 1)):
                raise ConfigError(f"fault {fault}: there are {settings.nodes} nodes")


def settings_to_json(settings: Settings) -> dict[str, Any]:
    return {**asdict(settings), "config": dict(settings.config)}


def settings_from_json(data: dict[str, Any]) -> Settings:
    """What is not said is as usual."""
    config = tuple(dict(data.get("config", {})).items())
    return Settings(**{**data, "load": Load(**data.get("load", {})), "config": config})


@dataclass(frozen=True, slots=True)
class Report:
    """What is kept of a run: small enough to be sent, and to keep tens of thousands of."""

    seed: int
    reason: str
    """What was wrong, in one line; empty: nothing was."""
    simulated_ns: int = 0
    cpu_ns: int = 0
    events: int = 0
    trace: int = 0
    faults: int = 0
    where: str = ""
    """Of an exception out of the simulator: where it was raised."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Report:
        return cls(**data)


def one_line(text: str) -> str:
    """A reason as a table can hold it."""
    return " ".join(text.split())[:REASON_CHARACTERS_MAX]


# -- the corpus -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A run that failed once, and must not again."""

    task: Task
    reason: str
    """Why it failed then."""
    mended: str
    """What was mended, in a sentence."""
    waits: str = ""
    """What it still fails for; empty once that is mended."""

    def to_json(self) -> dict[str, Any]:
        data = {**self.task.to_json(), "reason": self.reason, "mended": self.mended}
        return {**data, "waits": self.waits} if self.waits else data

    @property
    def name(self) -> str:
        """What its file is called: tasks that differ in faults alone share it."""
        settings = self.task.settings
        return f"{settings.profile}-{self.task.seed}-{settings.seconds:g}s-{settings.nodes}x{settings.groups}"


def read_case(path: Path) -> Case:
    """Raises ConfigError for a file that is no case, OSError where it cannot be read."""
    try:
        data = json.loads(path.read_text("utf-8"))
        reason, mended, waits = data["reason"], data["mended"], data.get("waits", "")
        return Case(Task.from_json(data), reason, mended, waits)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def read_corpus(folder: Path) -> list[tuple[str, Case]]:
    """All cases of a folder with the names of their files, in the order of these."""
    return [(path.stem, read_case(path)) for path in sorted(folder.glob("*.json"))]


def write_case(case: Case, path: Path) -> Path:
    """Write it to a file; where ``path`` is a folder, to one there that is named after it. Returns the file."""
    if path.is_dir():
        path = path / f"{case.name}.json"
    path.write_text(json.dumps(case.to_json(), indent=2) + "\n", "utf-8")
    return path


def with_faults(task: Task, faults: Iterable[Fault]) -> Task:
    """The same run with other faults."""
    return replace(task, faults=tuple(faults))
