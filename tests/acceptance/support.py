"""What the acceptance tests share: agents on the test's server, tasks, and a look at the keys of a run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import redis

from graphflow import Agent, AgentModule, ModuleConfig, Node, NodeConfig, RedisCache, Task


def agent_on(url: str, **settings: Any) -> Agent:
    return Agent(cache=RedisCache(url), **settings)


def task(kind: str = "test", **params: Any) -> Task:
    return Task(type=kind, objective="show a behaviour", params=params)


def module_node(
    name: str,
    *modules: AgentModule,
    dependencies: list[str] | None = None,
    start: bool | None = None,
    **config: Any,
) -> Node:
    """A node of module objects; `config` are the fields of NodeConfig."""
    return Node(
        name=name,
        modules=list(modules),
        dependencies=dependencies or [],
        start=start,
        node_config=NodeConfig(**config),
    )


def within(seconds: float) -> ModuleConfig:
    return ModuleConfig(timeout=seconds)


@contextlib.contextmanager
def client(url: str) -> Iterator[redis.Redis]:
    """A plain client of the test's server, to look at what is stored there."""
    connection = redis.Redis.from_url(url, decode_responses=True)
    try:
        yield connection
    finally:
        connection.close()


def keys_of_run(url: str, run_id: str) -> list[str]:
    with client(url) as connection:
        return sorted(connection.scan_iter(match=f"gf:run:{{{run_id}}}*", count=10_000))


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition while the event loop goes on; TimeoutError if it does not come true in 30 seconds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for may be in Redis or a plain variable
            await asyncio.sleep(0.002)


async def cancel(running: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended so."""
    running.cancel()
    await asyncio.wait([running], timeout=30)
    assert running.cancelled(), f"{running} did not end when it was cancelled"
