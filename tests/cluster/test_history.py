"""The judge of the load, shown what a broken cluster would tell. (That it hears of it at all, the other files show.)"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.cluster.history import History

Run = Callable[[Coroutine[Any, Any, None]], None]


async def told(history: History, f: str, value: Any, answer: Any) -> None:
    """One call from beginning to end."""
    call = history.begin("somebody", f, "key", value)
    if f == "read":
        call.ok(answer)
    else:
        await history.wrote(call, answer)


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ([("write", 1, "ok"), ("read", None, 1)], ""),
        ([("write", 1, "unknown"), ("read", None, None), ("read", None, 1)], ""),
        ([("write", 1, "ok"), ("read", None, None)], "was overwritten by write(1)"),
        ([("write", 1, "not"), ("read", None, 1)], "was reported as failed"),
        ([("cas", (None, 1), "ok"), ("read", None, 1), ("read", None, None)], "overwritten"),
        ([("cas", ("what is not", 1), "ok")], "nobody wrote 'what is not'"),
        ([("write", 1, "unknown"), ("read", None, 1), ("read", None, None)], "overwritten"),
    ],
)
def test_what_a_broken_store_says_is_seen(
    arun: Run, calls: list[tuple[str, Any, Any]], said: str
) -> None:
    async def main() -> None:
        history = History()
        for call in calls:
            await told(history, *call)
        if not said:
            history.judge()
            return
        with pytest.raises(AssertionError) as caught:
            history.judge()
        assert said in str(caught.value)

    arun(main())
