"""The commands ``run``, ``replay`` and ``shrink``: many seeds, one told, one made small. 0 ok, 1 a violation, 2 bad usage.

Standard output has the result and nothing else, as text or, of ``run`` with ``--json``, as one object; how far it is goes to
standard error. Ctrl-C ends each of them with what is known so far.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import click

from multiraft.errors import ConfigError
from multiraft.testing.attempt import attempt
from multiraft.testing.corpus import Case, Report, Task, read_case, with_faults, write_case
from multiraft.testing.crew import Crew, share_of
from multiraft.testing.nemesis import PROFILES
from multiraft.testing.picture import draw
from multiraft.testing.progress import Progress
from multiraft.testing.replay import Replay, replay
from multiraft.testing.schedule import NS
from multiraft.testing.shrinking import Shrinking
from multiraft.testing.simulation import Settings, Simulation

HOUR_NS = 3600 * NS


class Ending(IntEnum):
    """How a command ended."""

    FINE = 0
    VIOLATED = 1
    USAGE = 2
    """What click ends with, too."""


@dataclass(slots=True)
class Totals:
    """What many runs came to."""

    seeds: int = 0
    simulated_ns: int = 0
    cpu_ns: int = 0
    events: int = 0
    failed: list[Report] = field(default_factory=list)

    def add(self, report: Report) -> None:
        self.seeds += 1
        self.simulated_ns += report.simulated_ns
        self.cpu_ns += report.cpu_ns
        self.events += report.events
        if report.reason:
            self.failed.append(report)

    def facts(self) -> dict[str, Any]:
        failed = sorted(self.failed, key=lambda report: report.seed)
        return {
            "seeds": self.seeds,
            "violations": len(failed),
            "cluster_hours": round(self.simulated_ns / HOUR_NS, 6),
            "cpu_hours": round(self.cpu_ns / HOUR_NS, 6),
            "events": self.events,
            "failed": [{"seed": report.seed, "reason": report.reason} for report in failed],
        }

    def __str__(self) -> str:
        lines = [f"{'seed':>10}  reason"] if self.failed else []
        lines += [
            f"{report.seed:>10}  {report.reason}"
            for report in sorted(self.failed, key=lambda report: report.seed)
        ]
        simulated, cpu = self.simulated_ns / HOUR_NS, self.cpu_ns / HOUR_NS
        lines.append(
            f"{self.seeds} seeds, {len(self.failed)} violations; {simulated:.3f} cluster hours in {cpu:.3f} CPU hours, "
            f"{self.events} events"
        )
        return "\n".join(lines)


async def run_seeds(
    tasks: list[Task], jobs: int, twice: float, told: Callable[[Report], None]
) -> None:
    """Run all of them; ``told`` is called with each report as it comes."""
    again = share_of((task.seed for task in tasks), twice)
    async with aclosing(Crew(jobs).reports(tasks, again)) as reports:
        async for _, report in reports:
            told(report)


# -- options --------------------------------------------------------------------------------------------------------------


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What a seed means something together with."""
    for option in (
        click.option(
            "--seconds",
            type=click.FloatRange(min=0, min_open=True, max=86_400),
            default=60.0,
            show_default=True,
            help="How long faults go on, simulated.",
        ),
        click.option(
            "--groups", type=click.IntRange(1, 10_000), default=4, show_default=True, help="Shards."
        ),
        click.option("--nodes", type=click.IntRange(2, 15), default=3, show_default=True),
        click.option(
            "--profile",
            type=click.Choice(list(PROFILES)),
            default="swarm",
            show_default=True,
            help="Which faults may happen.",
        ),
    ):
        command = option(command)
    return command


def faults_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--faults",
        "case",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="A file of the corpus: its settings and faults, instead of options.",
    )(command)


def task_of(seed: int | None, case: Path | None, settings: Settings) -> Task:
    if case is not None:
        try:
            task = read_case(case).task
        except (ConfigError, OSError) as error:
            raise click.BadParameter(str(error), param_hint="--faults") from error
        if seed not in (None, task.seed):
            raise click.BadParameter(f"{case} is about seed {task.seed}", param_hint="SEED")
        return task
    if seed is None:
        raise click.UsageError("which SEED? Or give a file of the corpus with --faults")
    return Task(seed, settings)


def options_of(settings: Settings) -> str:
    """The options that mean the same settings."""
    return (
        f"--profile {settings.profile} --nodes {settings.nodes} --groups {settings.groups} "
        f"--seconds {settings.seconds:g}"
    )


# -- run ------------------------------------------------------------------------------------------------------------------


@click.command("run")
@click.option("--seeds", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--first", type=click.IntRange(min=0), default=1, show_default=True)
@settings_options
@click.option("--jobs", type=click.IntRange(1, 1024), help="Processes. [default: one a core]")
@click.option(
    "--twice",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="The share of seeds to run twice: both runs must be the same, event for event.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run_command(
    seeds: int, first: int, jobs: int | None, twice: float, as_json: bool, **settings: Any
) -> None:
    """Run many seeds, each a cluster under faults of its own. Ends with 1 where anything was wrong."""
    made = Settings(**settings)
    tasks = [Task(seed, made) for seed in range(first, first + seeds)]
    totals, progress = Totals(), Progress()

    def told(report: Report) -> None:
        totals.add(report)
        if report.reason:
            progress.say(f"seed {report.seed}: {report.reason}")
        progress.update(f"{totals.seeds} of {seeds} seeds, {len(totals.failed)} failed")

    interrupted = False
    try:
        asyncio.run(run_seeds(tasks, jobs or os.cpu_count() or 1, twice, told))
    except KeyboardInterrupt:
        interrupted = True
    progress.end()
    if interrupted:
        progress.say(f"interrupted: {seeds - totals.seeds} of {seeds} seeds are not done")
    click.echo(json.dumps(totals.facts()) if as_json else str(totals))
    if totals.failed and not as_json:
        click.echo(
            f"python -m multiraft.testing replay {totals.failed[0].seed} {options_of(made)} tells the story of one"
        )
    if totals.failed:
        raise SystemExit(Ending.VIOLATED)
    if interrupted:
        raise SystemExit(130)


# -- replay ---------------------------------------------------------------------------------------------------------------


@click.command("replay")
@click.argument("seed", type=click.IntRange(min=0), required=False)
@settings_options
@faults_option
@click.option("--html", type=click.Path(path_type=Path), help="Draw a history that is wrong there.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="What of the nodes' own log is told.",
)
def replay_command(
    seed: int | None, case: Path | None, html: Path | None, log_level: str, **settings: Any
) -> None:
    """Run one SEED and tell what happened. Ends with 1 if it fails."""
    task = task_of(seed, case, Settings(**settings))
    told = replay(task, getattr(logging, log_level.upper()))
    for line in told_lines(told):
        click.echo(line)
    if not told.outcome.violation:
        return
    if told.verdict is not None and told.verdict.part is not None:
        if html is not None:
            html.write_text(draw(told.verdict), encoding="utf-8")
            click.echo(f"drawn in {html}")
        else:
            click.echo("--html FILE draws it")
    given = (
        f"--faults {shlex.quote(str(case))}" if case else f"{task.seed} {options_of(task.settings)}"
    )
    click.echo(f"python -m multiraft.testing shrink {given} finds the fewest faults that do it")
    raise SystemExit(Ending.VIOLATED)


def told_lines(told: Replay) -> list[str]:
    """The story, in order of interest: the last lines are what one looks for first."""
    outcome = told.outcome
    lines = [f"seed {outcome.seed}: {options_of(outcome.settings)}", "", "faults:"]
    lines += [f"  {fault}" for fault in outcome.faults] or ["  none"]
    lines += ["", "story:", *told.story]
    if outcome.violation:
        lines += ["", f"the last {len(told.events)} events:", *told.events]
    if told.verdict is not None:
        lines += ["", str(told.verdict)]
    lines += [
        "",
        f"{outcome.events} events, {outcome.operations} operations, {outcome.acknowledged} of them acknowledged; "
        f"trace {outcome.trace:016x}",
        f"at {outcome.at_ns / NS:.4f} s: {outcome.violation or 'nothing was wrong'}",
    ]
    return lines


# -- shrink ---------------------------------------------------------------------------------------------------------------


@click.command("shrink")
@click.argument("seed", type=click.IntRange(min=0), required=False)
@settings_options
@faults_option
@click.option("--shorter", is_flag=True, help="Then make faults, and the run, as short as can be.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Write it to this file or folder, for the corpus.",
)
@click.option("--mended", default="", help="For the corpus: what was mended, in a sentence.")
def shrink_command(
    seed: int | None,
    case: Path | None,
    shorter: bool,
    save: Path | None,
    mended: str,
    **settings: Any,
) -> None:
    """Find the fewest faults with which SEED still fails in the same way. Ends with 1, or with 0 if it does not fail."""
    task = task_of(seed, case, Settings(**settings))
    logging.getLogger("multiraft").setLevel(logging.CRITICAL + 1)
    first = attempt(task)
    if not first.reason:
        click.echo(f"seed {task.seed} does not fail: there is nothing to make smaller")
        return
    if task.faults is None:
        task = with_faults(task, Simulation(task.seed, task.settings).outcome.faults)
    progress = Progress()
    progress.say(f"seed {task.seed} with {len(task.faults or ())} faults: {first.reason}")
    shrinking = Shrinking(
        task,
        first.reason,
        attempt,
        lambda tries, left: progress.update(f"{tries} tries, {left} faults left"),
    )
    try:
        shrinking.shrink()
        if shorter:
            shrinking.shorten()
    except KeyboardInterrupt:
        progress.say("interrupted: this may not be the smallest")
    progress.end()
    report_shrunk(shrinking, save, mended)
    raise SystemExit(Ending.VIOLATED)


def report_shrunk(shrinking: Shrinking, save: Path | None, mended: str) -> None:
    task = shrinking.task
    click.echo(f"seed {task.seed}, {task.settings.seconds:g} s, after {shrinking.tries} tries:")
    for fault in shrinking.faults:
        click.echo(f"  {fault}")
    click.echo(f"{len(shrinking.faults)} faults: {shrinking.reason}")
    for kind, other in shrinking.others.items():
        click.echo(f"on the way, with {len(other.faults or ())} faults: {kind}")
    if save is not None:
        made = Case(task, shrinking.reason, mended, "" if mended else "being mended")
        click.echo(f"written to {write_case(made, save)}")
