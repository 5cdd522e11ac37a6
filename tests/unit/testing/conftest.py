"""The commands of this package quieten the logger of a process that is theirs; here it is everybody's."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("multiraft")
    level = logger.level
    yield
    logger.setLevel(level)
