"""A failing part as a page: a lane a process, a bar an operation, the order that was found, and what fits nowhere in it.

One HTML file without any resource from elsewhere, readable on light and dark screens; every text from the history is
escaped. Positions are ranks of events, so that bars never get too short to read; times stand in the titles of bars.
"""

from __future__ import annotations

from html import escape

from multiraft.testing.explain import brief, line_of, shown
from multiraft.testing.history import OK, Operation, Process
from multiraft.testing.linearizability import FailingPart, Verdict

LANE, BAR, LEFT, TOP = 46, 26, 120, 34
STEP_MIN, STEP_MAX, LETTER = 34, 150, 7.3
ROWS_MAX = 400
"""Operations that are drawn; of more, the last."""

STYLE = """
:root { color-scheme: light dark; --page: #fbfbf9; --ink: #20242a; --soft: #6a7078; --line: #d9dad4;
  --ok: #cfe3f5; --ok-edge: #3b7dbd; --info: #ece9dd; --info-edge: #98906f; --bad: #f8cfc9; --bad-edge: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --page: #16191d; --ink: #e6e7e4; --soft: #9aa0a8; --line: #343a41;
  --ok: #1d3b57; --ok-edge: #6eaee6; --info: #37352b; --info-edge: #a89f7c; --bad: #5a231d; --bad-edge: #ff8a7a; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p { margin: .2rem 0; max-width: 62rem; } .soft { color: var(--soft); }
.reason { border-left: 4px solid var(--bad-edge); padding: .3rem .8rem; margin: .8rem 0; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
svg { display: block; } svg text { fill: var(--ink); font: 12px ui-monospace, monospace; }
svg .lane { stroke: var(--line); } svg .name { font-family: system-ui, sans-serif; } svg .tick {
  fill: var(--soft); font-size: 10px; }
.ok { fill: var(--ok); stroke: var(--ok-edge); } .info { fill: var(--info); stroke: var(--info-edge); stroke-dasharray: 4 3; }
.bad { fill: var(--bad); stroke: var(--bad-edge); stroke-width: 2.5; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .15rem .7rem; vertical-align: top;
  border-bottom: 1px solid var(--line); } td { font-family: ui-monospace, monospace; font-size: 13px; }
tr.misfit td { color: var(--bad-edge); font-weight: 600; }
"""


def draw(verdict: Verdict) -> str:
    """The page of a violation. Raises ValueError for a verdict that has no failing part."""
    part = verdict.part
    if part is None:
        raise ValueError(f"nothing to draw: the verdict is {verdict.outcome}")
    facts = verdict.statistics
    counted = f"{len(part.operations)} of the {part.of} operations of this part; "
    counted += (
        f"{facts.operations} in {facts.parts} parts were judged, {facts.violated} are violated"
    )
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            f"<title>Not linearizable: {escape(brief(part.key))}</title>",
            f"<style>{STYLE}</style></head><body>",
            f"<h1>Not linearizable: key {escape(brief(part.key))}, model {escape(verdict.model)}</h1>",
            f'<p class="soft">{escape(counted)}.</p>',
            f'<p class="reason">{escape(part.reason)}.</p>',
            "<h2>What happened</h2>",
            f'<div class="wide">{timeline(part)}</div>',
            '<p class="soft">A bar reaches from invocation to completion; dashed and open to the right: the outcome is '
            "unknown. Numbers at the top are positions in the history; a small number in a bar is its place in the order "
            "below.</p>",
            "<h2>The longest order found</h2>",
            order_table(part),
            "</body></html>\n",
        ]
    )


def timeline(part: FailingPart) -> str:
    """The bars, as SVG."""
    operations = part.operations[-ROWS_MAX:]
    lanes, names = lanes_of(operations)
    ends = {one.ended for one in operations if one.ended is not None}
    events = sorted({one.called for one in operations} | ends)
    places = places_of(operations, events)
    width = places[-1] + STEP_MAX
    height = TOP + LANE * len(names) + 8
    drawn = [
        f'<svg width="{width:.0f}" height="{height}" role="img" aria-label="timeline of operations">'
    ]
    at = dict(zip(events, places, strict=True))
    for event, x in at.items():
        drawn.append(f'<text class="tick" x="{x:.0f}" y="14" text-anchor="middle">{event}</text>')
        drawn.append(f'<line class="lane" x1="{x:.0f}" y1="20" x2="{x:.0f}" y2="{height}"/>')
    for lane, process in enumerate(names):
        y = TOP + lane * LANE + BAR / 2
        name = "" if lane and names[lane - 1] == process else f"process {brief(process, 14)}"
        drawn.append(f'<text class="name" x="10" y="{y + 4:.0f}">{escape(name)}</text>')
        drawn.append(
            f'<line class="lane" x1="{LEFT - 12}" y1="{y:.0f}" x2="{width:.0f}" y2="{y:.0f}"/>'
        )
    ranks = {placed.operation.called: rank for rank, placed in enumerate(part.order, 1)}
    for one in operations:
        until = width - 4 if one.ended is None else at[one.ended]
        y = TOP + lanes[one.called] * LANE
        drawn += bar(one, at[one.called], until, y, one == part.misfit, ranks.get(one.called))
    return "\n".join([*drawn, "</svg>"])


def lanes_of(operations: tuple[Operation, ...]) -> tuple[dict[int, int], list[Process]]:
    """Beginning -> lane, and whose each lane is: one a process, and one more for what it left open and went on."""
    free: dict[Process, list[float]] = {}
    rows: dict[int, tuple[Process, int]] = {}
    for one in operations:
        ends = free.setdefault(one.process, [])
        row = next((n for n, end in enumerate(ends) if end < one.called), len(ends))
        ends[row:] = [
            float("inf") if one.ended is None else one.ended,
            *ends[row + 1 :],
        ]
        rows[one.called] = one.process, row
    order = sorted(free, key=lambda process: (isinstance(process, str), process))
    first: dict[Process, int] = {}
    names: list[Process] = []
    for process in order:
        first[process] = len(names)
        names += [process] * len(free[process])
    return {called: first[process] + row for called, (process, row) in rows.items()}, names


def places_of(operations: tuple[Operation, ...], events: list[int]) -> list[float]:
    """Where each event stands, so far apart that every label fits into its bar."""
    number = {event: n for n, event in enumerate(events)}
    gaps = [float(STEP_MIN)] * len(events)
    for one in sorted(operations, key=lambda one: one.ended or events[-1] + 1):
        begin = number[one.called]
        end = number[one.ended] if one.ended is not None else len(events)
        lacking = label_width(one) - sum(gaps[begin:end])
        if lacking > 0 and end > begin:
            gaps[end - 1] += lacking
    places, x = [], float(LEFT)
    for gap in gaps:
        places.append(x)
        x += gap
    return places


def label_width(one: Operation) -> float:
    return LETTER * len(label_of(one)) + 34


def label_of(one: Operation) -> str:
    text = shown(one)
    return text if len(text) <= 48 else f"{text[:30]}...{text[-15:]}"


def bar(
    one: Operation, x: float, end: float, y: float, misfit: bool, rank: int | None
) -> list[str]:
    """One operation: a bar with its label and its place in the order."""
    sort = "bad" if misfit else "ok" if one.outcome == OK else "info"
    when = f"from {one.call_time}" + ("" if one.ended is None else f" to {one.return_time}")
    width = max(8.0, end - x)
    if one.ended is None:
        shape = f"M{x + width:.0f},{y} H{x:.0f} V{y + BAR} H{x + width:.0f}"
        drawn = f'<path class="{sort}" d="{shape}">'
    else:
        drawn = (
            f'<rect class="{sort}" x="{x:.0f}" y="{y}" width="{width:.0f}" height="{BAR}" rx="4">'
        )
    close = "</path>" if one.ended is None else "</rect>"
    mark = "\N{MULTIPLICATION X} " if misfit else f"{rank}. " if rank is not None else ""
    return [
        f"{drawn}<title>{escape(line_of(one))}, {escape(when)}</title>{close}",
        f'<text x="{x + 7:.0f}" y="{y + 17}">{escape(mark + label_of(one))}</text>',
    ]


def order_table(part: FailingPart) -> str:
    """The order with the states along it, and at its end what fits nowhere."""
    rows = [f"<tr><td></td><td>at first</td><td>{escape(brief(part.initial))}</td></tr>"]
    first = max(0, len(part.order) - ROWS_MAX)
    if first:
        rows.append(f"<tr><td></td><td>... {first} more ...</td><td></td></tr>")
    for rank, placed in enumerate(part.order[first:], first + 1):
        state = escape(brief(placed.state))
        rows.append(
            f"<tr><td>{rank}</td><td>{escape(line_of(placed.operation))}</td><td>{state}</td></tr>"
        )
    rows.append(
        f'<tr class="misfit"><td>\N{MULTIPLICATION X}</td><td>{escape(line_of(part.misfit))}</td><td>fits nowhere</td></tr>'
    )
    head = "<tr><th></th><th>operation</th><th>state after it</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'
