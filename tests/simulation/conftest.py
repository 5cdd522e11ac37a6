"""Says which seeds were run, so that anybody can run them again."""

from __future__ import annotations

import pytest

from tests.simulation.seeds import COUNT, FIRST


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if any("test_fresh_seeds" in one.nodeid for one in terminalreporter.stats.get("passed", [])):
        terminalreporter.write_line(f"simulated seeds {FIRST} to {FIRST + COUNT - 1}")
