"""No victim outlives the test that started it, least of all one that failed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.harness import end_all_victims


@pytest.fixture(autouse=True)
def victims_end() -> Iterator[None]:
    yield
    end_all_victims()
