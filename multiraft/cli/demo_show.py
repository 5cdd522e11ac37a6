"""How the demo looks: lines and progress bars by rich where it is installed and somebody watches, plain lines elsewhere.

It only shows. What is shown goes to stdout, or to stderr where stdout is for a program.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, TextIO

PLAIN_STEPS = 5
"""Lines for one piece of work at most."""
PLAIN_EVERY_S = 1.5
"""And the time between two of them at least."""


class Bar(Protocol):
    """One piece of work that is shown as it goes."""

    def at(self, done: int, note: str = "") -> None:
        """So much of it is done; ``note`` says more, shortly."""


class Show(Protocol):
    """Where the demo speaks."""

    def say(self, text: str, mark: str = "") -> None:
        """One line; ``mark`` is a word for its kind: good, bad, event, or nothing."""

    def bar(self, what: str, total: int) -> Any:
        """A context manager that gives a Bar."""

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None: ...


def make_show(*, to_stderr: bool) -> Show:
    """Rich where it can be used, else plain."""
    stream = sys.stderr if to_stderr else sys.stdout
    if stream.isatty():
        try:
            return RichShow(to_stderr)
        except ImportError:
            return PlainShow(stream)
    return PlainShow(stream)


class PlainShow:
    """Lines, a few for each piece of work."""

    def __init__(self, stream: TextIO, every_s: float = PLAIN_EVERY_S) -> None:
        self._stream = stream
        self._every_s = every_s

    def say(self, text: str, mark: str = "") -> None:
        print(text, file=self._stream, flush=True)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Bar]:
        bar = _PlainBar(what, total, self.say, self._every_s)
        yield bar
        bar.end()

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        widths = [max(len(row[at]) for row in [heads, *rows]) for at in range(len(heads))]
        self.say("")
        self.say(title)
        for row in [heads, ["-" * width for width in widths], *rows]:
            cells = (one.ljust(width) for one, width in zip(row, widths, strict=True))
            self.say("  " + "  ".join(cells).rstrip())
        self.say("")


class _PlainBar:
    def __init__(self, what: str, total: int, say: Callable[[str], None], every_s: float) -> None:
        self._what, self._total, self._say, self._every_s = what, total, say, every_s
        self._step = 0
        self._done = 0
        self._began = self._said = time.monotonic()

    def at(self, done: int, note: str = "") -> None:
        self._done = done
        step = done * PLAIN_STEPS // self._total if self._total else 0
        now = time.monotonic()
        if self._step < step < PLAIN_STEPS and now - self._said >= self._every_s:
            self._step, self._said = step, now
            self._say(f"  {self._what}: {done:,} of {self._total:,}{'  ' + note if note else ''}")

    def end(self) -> None:
        seconds = time.monotonic() - self._began
        self._say(f"  {self._what}: {self._done:,} in {seconds:.1f} s")


class RichShow:
    """Bars that move. Raises ImportError where rich is not installed."""

    MARKS: ClassVar = {
        "good": "[green]✔[/] ",
        "bad": "[bold red]✘[/] ",
        "event": "[yellow]⚡[/] ",
        "": "  ",
    }

    def __init__(self, to_stderr: bool) -> None:
        from rich.console import Console

        self._console = Console(stderr=to_stderr, highlight=False)

    def say(self, text: str, mark: str = "") -> None:
        from rich.markup import escape

        self._console.print(self.MARKS[mark] + escape(text))

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Bar]:
        from rich import progress

        columns = (
            progress.TextColumn("  {task.description:<34}"),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("[dim]{task.fields[note]}"),
        )
        with progress.Progress(*columns, console=self._console) as shown:
            task = shown.add_task(what, total=total, note="")
            yield _RichBar(shown, task)

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for at, head in enumerate(heads):
            table.add_column(head, justify="left" if at == 0 else "right")
        for row in rows:
            table.add_row(*map(escape, row))
        self._console.print()
        self._console.print(table)


class _RichBar:
    def __init__(self, shown: Any, task: Any) -> None:
        self._shown, self._task = shown, task

    def at(self, done: int, note: str = "") -> None:
        self._shown.update(self._task, completed=done, note=note)
