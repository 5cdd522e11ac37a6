"""A test that asks for ``home`` runs twice: on the real disk, and on a simulated one, which is so held to the same behaviour."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.disks import Home, home_on


@pytest.fixture(params=["real", "simulated"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """An empty directory."""
    return home_on(request.param, tmp_path)
