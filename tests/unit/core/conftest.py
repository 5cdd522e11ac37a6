"""What the tests of ring 0 share: memory that ends where nobody may read on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.core.capi import Guarded, guarded


@pytest.fixture(scope="module")
def memory() -> Iterator[Guarded]:
    with guarded() as memory:
        yield memory
