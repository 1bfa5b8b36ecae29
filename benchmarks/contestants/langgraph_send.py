"""LangGraph: one `Send` for each item and a reducer; a loop for the chain. Forms: its checkpointers, or none.

`aiosqlite` is the saver for asynchronous graphs, `sqlite` the one for synchronous ones, whose nodes run in threads.
"""

from __future__ import annotations

import operator
from contextlib import AsyncExitStack
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from benchmarks.occasion import Occasion


class Items(TypedDict, total=False):
    items: list[int]
    results: Annotated[list[Any], operator.add]
    total: int


class Count(TypedDict):
    steps: int


async def each_item(occasion: Occasion) -> int:
    return await _timed(
        occasion,
        _sending(occasion),
        warm_up={"items": list(occasion.warm_up_items)},
        start={"items": list(occasion.items)},
        answer="total",
    )


async def chain(occasion: Occasion) -> int:
    return await _timed(
        occasion,
        _looping(occasion.count),
        warm_up={"steps": occasion.count - 2},
        start={"steps": 0},
        answer="steps",
    )


def _sending(occasion: Occasion) -> StateGraph:
    async def work(sent: Any) -> Any:
        return {"results": [await occasion.body(sent["item"])]}

    def work_sync(sent: Any) -> Any:
        return {"results": [occasion.sync_body(sent["item"])]}

    graph = StateGraph(Items)
    graph.add_node("split", lambda state: {})
    graph.add_node("work", work_sync if occasion.form == "sqlite" else work)
    graph.add_node("total", lambda state: {"total": occasion.total(state["results"])})
    graph.add_edge(START, "split")
    graph.add_conditional_edges(
        "split", lambda state: [Send("work", {"item": item}) for item in state["items"]], ["work"]
    )
    graph.add_edge("work", "total")
    graph.add_edge("total", END)
    return graph


def _looping(count: int) -> StateGraph:
    graph = StateGraph(Count)
    graph.add_node("step", lambda state: {"steps": state["steps"] + 1})
    graph.add_edge(START, "step")
    graph.add_conditional_edges(
        "step", lambda state: "step" if state["steps"] < count else END, ["step", END]
    )
    return graph


async def _timed(occasion: Occasion, graph: StateGraph, *, warm_up: Any, start: Any, answer: str) -> int:
    async with AsyncExitStack() as stack:
        path = str(occasion.folder / "checkpoints.sqlite")
        saver: Any = None
        if occasion.form == "aiosqlite":
            saver = await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
        elif occasion.form == "sqlite":
            saver = stack.enter_context(SqliteSaver.from_conn_string(path))
        elif occasion.form == "redis":
            from langgraph.checkpoint.redis.aio import AsyncRedisSaver

            saver = await stack.enter_async_context(AsyncRedisSaver.from_conn_string(occasion.server.tcp_url))
            await saver.asetup()
        compiled = graph.compile(checkpointer=saver)

        async def run(thread: str, state: Any) -> Any:
            config = {"configurable": {"thread_id": thread}, "recursion_limit": occasion.count + 10}
            if occasion.form == "sqlite":
                return compiled.invoke(state, config)
            return await compiled.ainvoke(state, config)

        await run("warm-up", warm_up)
        with occasion.timed():
            outcome = await run("measured", start)
    return int(outcome[answer])
