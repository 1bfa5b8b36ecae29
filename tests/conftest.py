"""How the tests are run, and servers that they share.

Servers are not emptied between tests: each test uses run ids and names of its own. Each worker process has its own.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from graphflow import failpoints
from tests.servers import RealServer

#: Eager tasks came with Python 3.12: below there is nothing to test.
collect_ignore = [] if sys.version_info >= (3, 12) else ["acceptance/test_eager_tasks.py"]

#: After every turn of a scheduler something is in flight, or a timer is set, or there is a reason to wait.
NOTHING_STANDS_STILL = "run.stands_still@*=raise"
PROPERTIES = Path(__file__).parent / "properties"
#: How many examples of each property are drawn: by default, with `--hypothesis-profile nightly`, with `-m long`.
EXAMPLES = {"quick": 50, "nightly": 200, "long": 2_000}

for profile, examples in EXAMPLES.items():
    # No property fails because the machine is slow.
    settings.register_profile(
        profile, max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("hypothesis_profile"):
        is_long = "long" in config.option.markexpr.replace("not long", "")
        settings.load_profile("long" if is_long else "quick")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As in a script's background; programs under test would ignore Ctrl-C, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long run draws more examples of each property."""
    if settings.default.max_examples == EXAMPLES["long"]:
        for item in items:
            if item.path.is_relative_to(PROPERTIES):
                item.add_marker("long")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Half as many processes again as there are processors, for many tests wait; one for tests of single files."""
    if all(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors + processors // 2


@pytest.fixture(autouse=True)
def nothing_stands_still() -> Iterator[None]:
    """A run that stands still in this process raises FailpointHit at once, instead of waiting for the watchdog."""
    failpoints.configure(NOTHING_STANDS_STILL)
    yield
    failpoints.reset()


@pytest.fixture(autouse=True)
def logging_stays_as_it_is() -> Iterator[None]:
    """Commands that are run in this process set levels, as they do for themselves."""
    loggers = [logging.getLogger(name) for name in ("graphflow", "graphflow.store.checks")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


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


@pytest.fixture(params=["current", pytest.param("6.2", marks=pytest.mark.redis62), "memory"])
def any_redis_url(request: pytest.FixtureRequest) -> str:
    """A store of every kind that contracts must hold for; each test runs once per kind."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    fixture = "redis_server" if request.param == "current" else "redis62_server"
    server: RealServer = request.getfixturevalue(fixture)
    return server.url
