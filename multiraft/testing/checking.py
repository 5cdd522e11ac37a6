"""The command ``check``: a file of JSON lines, a model, a verdict. Exit codes: 0 ok, 1 violated, 2 bad input, 3 undecided.

It prints the verdict and nothing else to standard output, as text or, with ``--json``, as one object.
"""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path

import click

from multiraft.testing.history import History, HistoryError
from multiraft.testing.linearizability import LINEARIZABLE, VIOLATED, Limits, Verdict, check
from multiraft.testing.model import Model
from multiraft.testing.models import MODELS
from multiraft.testing.picture import draw


class Ending(IntEnum):
    """How the command ended."""

    LINEARIZABLE = 0
    VIOLATED = 1
    BAD_INPUT = 2
    UNDECIDED = 3


def check_command(
    path: str | Path,
    model: Model | str,
    html: str | Path | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """Judge a file; with ``html``, a violation is drawn there.

    Raises HistoryError for a file that is no history, or that the model does not fit; OSError where it cannot be read.
    """
    if isinstance(model, str):
        if model not in MODELS:
            raise HistoryError(f"there is no model {model!r}: take one of {', '.join(MODELS)}")
        model = MODELS[model]
    verdict = check(History.read(path), model, limits)
    if html is not None and verdict.part is not None:
        Path(html).write_text(draw(verdict), encoding="utf-8")
    return verdict


def ending_of(verdict: Verdict) -> Ending:
    """The exit code of a verdict."""
    if verdict.outcome == LINEARIZABLE:
        return Ending.LINEARIZABLE
    return Ending.VIOLATED if verdict.outcome == VIOLATED else Ending.UNDECIDED


@click.command()
@click.argument("history", type=click.Path(path_type=Path))
@click.option("--model", required=True, type=click.Choice(list(MODELS)), help="What was tested.")
@click.option("--html", type=click.Path(path_type=Path), help="Draw a violation there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--seconds", type=float, help="CPU time after which to say: undecided.")
def check_history(
    history: Path, model: str, html: Path | None, as_json: bool, seconds: float | None
) -> None:
    """Is HISTORY, a file of JSON lines, linearizable?

    Ends with 0 if it is, 1 if it is not, 2 if it cannot be read, 3 if that could not be found out in time.
    """
    try:
        verdict = check_command(history, model, html, Limits(seconds=seconds))
    except (HistoryError, OSError) as error:
        click.echo(f"{history}: {error}", err=True)
        raise SystemExit(Ending.BAD_INPUT) from error
    if as_json:
        click.echo(json.dumps(verdict.facts(), ensure_ascii=False))
    else:
        click.echo(str(verdict))
        if html is not None and verdict.part is not None:
            click.echo(f"drawn in {html}")
    raise SystemExit(ending_of(verdict))
