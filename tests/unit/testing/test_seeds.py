"""Seeds that found something, each with what it was. They stay: a seed may find something else one day."""

from __future__ import annotations

import pytest

from multiraft.testing.simulation import Settings, run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "seed", "seconds"),
    [
        pytest.param("swarm", 200, 40.0, id="a damaged length made a link wait for hours"),
        pytest.param("disk", 1, 30.0, id="a start after a failed sync trusted the page cache"),
    ],
)
def test_what_a_seed_once_found_is_mended(profile: str, seed: int, seconds: float) -> None:
    outcome = run(seed, Settings(profile=profile, seconds=seconds))
    assert outcome.violation == "", "\n".join(outcome.story)
