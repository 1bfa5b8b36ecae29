"""Servers that tests share. They are not emptied between tests: each test uses run ids and names of its own."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator

import pytest

from graphflow import failpoints
from tests.servers import RealServer

#: Eager tasks came with Python 3.12: below there is nothing to test.
collect_ignore = [] if sys.version_info >= (3, 12) else ["acceptance/test_eager_tasks.py"]

#: After every turn of a scheduler something is in flight, or a timer is set, or there is a reason to wait.
NOTHING_STANDS_STILL = "run.stands_still@*=raise"


@pytest.fixture(autouse=True)
def nothing_stands_still() -> Iterator[None]:
    """A run that stands still in this process raises FailpointHit at once, instead of waiting for the watchdog."""
    failpoints.configure(NOTHING_STANDS_STILL)
    yield
    failpoints.reset()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RealServer]:
    """A current server on a unix socket."""
    with RealServer("current") as server:
        yield server


@pytest.fixture(scope="session")
def redis62_server() -> Iterator[RealServer]:
    """The oldest supported server, Redis 6.2, on a unix socket."""
    with RealServer("6.2") as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: RealServer) -> str:
    return redis_server.url


@pytest.fixture(params=["current", "6.2", "memory"])
def any_redis_url(request: pytest.FixtureRequest) -> str:
    """A store of every kind that contracts must hold for; each test runs once per kind."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    fixture = "redis_server" if request.param == "current" else "redis62_server"
    server: RealServer = request.getfixturevalue(fixture)
    return server.url
