"""Burr: `MapStates`, an application for each item; a loop of one action for the chain. Forms: its persisters.

The states of the items hold the item alone, not the list that it came from: each of them is stored whole. They are not
looked for before they are made, which a run that is to be resumed would have to do; without it Burr is faster. SQLite has
the synchronous persister with one thread, for its connection is good for one only, and Redis the asynchronous one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import redis.asyncio
from burr.core import ApplicationBuilder, ApplicationContext, State, action, default, expr
from burr.core.parallelism import MapStates
from burr.core.persistence import SQLitePersister
from burr.integrations.persisters.b_redis import AsyncRedisBasePersister

from benchmarks.occasion import Occasion


async def each_item(occasion: Occasion) -> int:
    async with _persister(occasion) as persister:
        await _run(occasion, persister, _mapping(occasion, persister, occasion.warm_up_items))
        builder = _mapping(occasion, persister, occasion.items)
        with occasion.timed():
            state = await _run(occasion, persister, builder)
    return int(state["total"])


async def chain(occasion: Occasion) -> int:
    async with _persister(occasion) as persister:
        await _run(occasion, persister, _looping(2))
        builder = _looping(occasion.count)
        with occasion.timed():
            state = await _run(occasion, persister, builder)
    return int(state["steps"])


@asynccontextmanager
async def _persister(occasion: Occasion) -> AsyncIterator[Any]:
    if occasion.form == "redis":
        # The persister has thousands of commands in flight: they wait for a connection instead of failing without one.
        pool = redis.asyncio.BlockingConnectionPool.from_url(occasion.server.unix_url, timeout=None)
        async with AsyncRedisBasePersister(redis.asyncio.Redis.from_pool(pool)) as persister:
            yield persister
    else:
        path = str(occasion.folder / "burr.sqlite")
        with SQLitePersister.from_values(path, connect_kwargs={"check_same_thread": False}) as persister:
            persister.initialize()
            yield persister


async def _run(occasion: Occasion, persister: Any, builder: ApplicationBuilder) -> State:
    builder = builder.with_identifiers(app_id=str(uuid4()), partition_key="benchmark")
    builder = builder.with_state_persister(persister)
    if persister.is_async():
        _, _, state = await (await builder.abuild()).arun(halt_after=["last"])
    else:
        _, _, state = builder.build().run(halt_after=["last"])
    return state


def _mapping(occasion: Occasion, persister: Any, items: range) -> ApplicationBuilder:
    @action(reads=["item"], writes=["result"])
    async def work(state: State) -> State:
        return state.update(result=await occasion.body(state["item"]))

    @action(reads=["item"], writes=["result"])
    def work_sync(state: State) -> State:
        return state.update(result=occasion.sync_body(state["item"]))

    class MapItems(MapStates):
        def is_async(self) -> bool:
            return bool(persister.is_async())

        def state_persister(self, **kwargs: Any) -> Any:
            return persister

        def state_initializer(self, **kwargs: Any) -> None:
            return None

        def action(self, state: State, inputs: dict[str, Any]) -> Any:
            function: Any = work if self.is_async() else work_sync
            return function.action_function.with_name("work")

        def states(
            self, state: State, context: ApplicationContext, inputs: dict[str, Any]
        ) -> Iterator[State]:
            for item in items:
                yield State({"item": item})

        def reduce(self, state: State, states: Any) -> Any:
            if self.is_async():
                return self._reduce(state, states)
            return state.update(total=occasion.total(one["result"] for one in states))

        async def _reduce(self, state: State, states: Any) -> State:
            return state.update(total=occasion.total([one["result"] async for one in states]))

        @property
        def reads(self) -> list[str]:
            return []

        @property
        def writes(self) -> list[str]:
            return ["total"]

    return (
        ApplicationBuilder()
        .with_actions(last=MapItems())
        .with_entrypoint("last")
        .with_parallel_executor(lambda: ThreadPoolExecutor(1))
    )


def _looping(count: int) -> ApplicationBuilder:
    @action(reads=["steps"], writes=["steps"])
    def step(state: State) -> State:
        return state.update(steps=state["steps"] + 1)

    @action(reads=["steps"], writes=[])
    def last(state: State) -> State:
        return state

    return (
        ApplicationBuilder()
        .with_actions(step=step, last=last)
        .with_transitions(("step", "step", expr(f"steps < {count}")), ("step", "last", default))
        .with_state(steps=0)
        .with_entrypoint("step")
    )
