"""An open store of every kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from graphflow.store.redis_store import RedisStore
from tests.contract.driving import opened
from tests.helpers import run as run_async

Body = Callable[[RedisStore], Awaitable[None]]


@pytest.fixture
def with_store(any_redis_url: str) -> Callable[[Body], None]:
    """Run a body with an open store."""

    def run(body: Body) -> None:
        async def main() -> None:
            async with opened(any_redis_url) as store:
                await body(store)

        run_async(main())

    return run
