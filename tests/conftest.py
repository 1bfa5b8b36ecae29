"""How the tests are run, and servers that they share.

Servers are not emptied between tests: each test uses run ids and names of its own. Each worker process has its own.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from graphflow import failpoints
from tests.servers import ALL_ENGINES, Engine, RealServer

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
def servers() -> Iterator[Callable[[Engine], RealServer]]:
    """A server of each engine on a unix socket, started when it is first asked for."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def server(engine: Engine) -> RealServer:
            return stack.enter_context(RealServer(engine))

        yield server


@pytest.fixture(scope="session")
def redis_server(servers: Callable[[Engine], RealServer]) -> RealServer:
    """A current server on a unix socket."""
    return servers("current")


@pytest.fixture(scope="session")
def redis_url(redis_server: RealServer) -> str:
    return redis_server.url


@pytest.fixture(params=[*ALL_ENGINES, "memory"])
def any_redis_url(request: pytest.FixtureRequest, servers: Callable[[Engine], RealServer]) -> str:
    """A store of every kind that contracts must hold for; each test runs once per kind."""
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else servers(request.param).url


@pytest.fixture(params=ALL_ENGINES)
def any_server(request: pytest.FixtureRequest, servers: Callable[[Engine], RealServer]) -> RealServer:
    """A server of each engine, shared by tests that leave its settings as they were."""
    return servers(request.param)
