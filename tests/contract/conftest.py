"""An open store of every kind."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from graphflow.store.redis_store import RedisStore
from tests.contract.driving import opened
from tests.contract.embedded_users import StartUser, users
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of an embedded store; not made here."""
    return tmp_path / ".graphflow"


@pytest.fixture
def start_user() -> Iterator[StartUser]:
    """Starts other processes that use an embedded folder, and ends them at the end."""
    with users() as start:
        yield start


@pytest.fixture
def user(folder: Path, start_user: StartUser) -> Callable[..., subprocess.Popen[str]]:
    """The same for `folder`."""
    return functools.partial(start_user, folder)
