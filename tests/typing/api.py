"""The API as users type it. mypy --strict checks this file; nothing runs it."""

from __future__ import annotations

import asyncio
from typing import Any, assert_type

from pydantic import BaseModel

from graphflow import (
    END,
    Agent,
    AgentModule,
    Cache,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    LeaseHeld,
    MapNotFound,
    MapProgress,
    ModuleConfig,
    ModuleResult,
    ModuleType,
    Node,
    NodeConfig,
    NoMessage,
    PlanMismatch,
    RedisCache,
    RunInterrupted,
    RunResult,
    RunStatus,
    RunSummary,
    SignalWait,
    Snapshot,
    SnapshotControl,
    StoreError,
    Task,
    TaskMismatch,
    UnsafeStore,
    is_cancelled,
    register_type,
)
from graphflow.events import ItemsFinished, ProcessDied


class Approval(BaseModel):
    by: str


register_type(Approval)


async def ask(question: str) -> str:
    return question


class Doubler(AgentModule):
    name: str = "doubler"
    factor: int = 2

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> dict[str, Any]:
        numbers = await cache.get("numbers")
        await cache.set("doubled", [number * self.factor for number in numbers])
        claimed = await cache.claim("jobs", where={"status": "pending"})
        if claimed is not None:
            claimed.set(status="done")
        await cache.append("log", "doubled")
        assert_type(await cache.step("ask", ask, "why"), str)
        assert_type(await cache.step("count", len, "why", key="why"), int)
        await cache.publish_to_mailbox("log", {"n": 1})
        assert_type(await cache.get_message("log", timeout=1.5), Any)
        assert_type(await cache.wait_for_signal("go"), Any)
        await cache.wait_for_signal("approve", Approval)
        await cache.wait_for_signal("approve", Approval, timeout=60, question="May it be sent?")
        try:
            await cache.get_message(timeout=0.1)
        except NoMessage as error:
            assert_type(error.mailboxes, tuple[str, ...])
        async with cache.with_prefix("log:") as log:
            assert_type(log, Cache)
            await log.set("last", 1, immediate=True)
            await log.set("token", "secret", ttl=0.5)
        async for index, result in cache.results("triple"):
            assert_type(index, int)
            assert_type(result, Any)
        return {"status": "success", "result": len(numbers)}


store = RedisCache("redis://localhost:6379/0", prefix="shop", on_risk="refuse")
assert_type(store.at("memory://"), RedisCache)
assert_type(store.prefix, str)

agent = Agent(
    cache=RedisCache("memory://"),
    name="numbers",
    max_concurrent_tasks=3,
    max_total_iterations=50,
    deadline=60,
    auto_snapshot=True,
    error_mailbox="failures",
    lease_seconds=5,
    stall_seconds=30,
    keep_complete_seconds=3600,
    keep_other_seconds=0,
)
agent.add_node(
    Node(
        name="double",
        type=ModuleType.EXECUTOR,
        modules=[Doubler(factor=3, config=ModuleConfig(timeout=5))],
        node_config=NodeConfig(max_retries=2, max_crashes=3, on_error="handler"),
        snapshot=SnapshotControl.ONCE,
    )
)
agent.add_node(
    Node(
        name="control",
        modules=[
            FlowControlModule(
                flow_config=FlowControlConfig(
                    decisions=[FlowDecision(next_node=["double", END], condition="n > 1")], default="double"
                )
            )
        ],
    )
)


@agent.node
def chunks(task: Task) -> list[list[int]]:
    return [task.params["data"]]


@agent.node(map_over="chunks", max_concurrency=10, max_retries=3, where="index > 0", timeout=1.5)
async def triple(chunk: list[int], index: int) -> list[int]:
    return [3 * number for number in chunk]


@agent.node(snapshot=SnapshotControl.ALWAYS, max_crashes=2, run_when="settled")
def dig() -> int:
    assert_type(is_cancelled(), bool)
    return 1


@agent.decide(after="triple", to=["chunks", "double"])
def enough(triple: list[list[int]]) -> str | None:
    return END if triple else None


# A decorated function keeps its type.
assert_type(chunks(Task(type="numbers")), list[list[int]])


async def use() -> None:
    outcome = await agent.run_task(
        Task(type="numbers", params={"data": [1]}), state={"n": 1}, run_id="nightly"
    )
    assert_type(outcome, RunResult)
    assert_type(outcome.status, RunStatus)
    assert_type(outcome["combine"], Any)
    assert_type(outcome.failures[0].attempts, int)
    assert_type(outcome.node_results["double"].visits, int)
    assert_type(outcome.node_results["double"].results, list[ModuleResult])
    async for event in agent.stream(Task(type="numbers")):
        assert_type(event.revision, int)
        assert_type(event.kind, str)
        if isinstance(event, ItemsFinished):
            assert_type(event.count, int)
        elif isinstance(event, ProcessDied):
            assert_type(event.in_flight, str)
    assert_type(await agent.resume("nightly"), RunResult)
    assert_type(await agent.resume("nightly", accept_changes=True), RunResult)
    assert_type(await agent.recover(limit=10), list[RunResult])
    assert_type(await agent.fork("nightly", 3, run_id="nightly-again"), RunResult)
    assert_type(await agent.snapshots("nightly"), list[Snapshot])
    assert_type(await agent.runs(status="failed", since=0, limit=None), list[RunSummary])
    progress = await agent.progress("nightly")
    assert_type(progress, dict[str, MapProgress])
    assert_type(progress["triple"].total, int | None)
    assert_type(progress["triple"].fraction, float | None)
    assert_type(progress["triple"].eta_seconds, float | None)
    assert_type(progress["triple"].stragglers, tuple[tuple[int, float], ...])
    try:
        async for index, result in agent.results("nightly", "triple", as_completed=True):
            assert_type(index, int)
            assert_type(result, Any)
    except MapNotFound as error:
        assert_type(error.maps, tuple[str, ...])
    assert_type(await agent.cancel("nightly", "not needed"), RunStatus)
    await agent.delete("nightly")
    assert_type(await agent.state("nightly"), dict[str, Any])
    sent = await agent.signal("nightly", "go", {"approved": True})
    assert_type(sent.is_awaited, bool)
    assert_type(sent.nearest, tuple[str, ...])
    assert_type(sent.waits, tuple[SignalWait, ...])
    await agent.send_message("nightly", "log", [1, 2])


def use_without_a_loop() -> None:
    agent.drain(grace_seconds=2)
    try:
        assert_type(agent.run_task_sync(Task(type="numbers")), RunResult)
    except (TaskMismatch, RunInterrupted) as error:
        assert_type(error.run_id, str)
    except PlanMismatch as error:
        assert_type(error.differences, tuple[str, ...])
    except LeaseHeld as error:
        assert_type(error.owner, str)
    except UnsafeStore as error:
        assert_type(error.risks, tuple[str, ...])
    except StoreError:
        pass


def misspell() -> None:
    Agent(nmae="numbers")  # type: ignore[arg-type]
    Task(type="numbers", parms={})  # type: ignore[call-arg]
    Node(name="numbers", dependency=["a"])  # type: ignore[call-arg]
    NodeConfig(retries=3)  # type: ignore[call-arg]
    ModuleConfig(timout=3)  # type: ignore[call-arg]
    agent.node(retries=3)  # type: ignore[call-overload]
    agent.node(dependencies="a", inputs="b", outputs=["c"])
