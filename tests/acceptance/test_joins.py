"""Where branches meet: what a join waits for, what it gets from a parent that was skipped, empty or failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graphflow import (
    Agent,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleType,
    Node,
    NodeStatus,
    RunStatus,
)
from tests.acceptance.support import agent_on, task
from tests.helpers import run


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


def test_what_follows_the_fast_branch_does_not_wait_for_the_slow_one(agent: Agent) -> None:
    @agent.node
    def start() -> str:
        return "go"

    @agent.node
    async def fast(start: str) -> str:
        await asyncio.sleep(0.05)
        return "fast"

    @agent.node
    async def slow(start: str) -> str:
        await asyncio.sleep(0.6)
        return "slow"

    @agent.node
    def after_fast(fast: str) -> str:
        return f"after {fast}"

    @agent.node
    def join(after_fast: str, slow: str) -> list[str]:
        return [after_fast, slow]

    outcome = agent.run_task_sync(task())

    assert outcome["join"] == ["after fast", "slow"]
    assert outcome.node_results["after_fast"].finished < outcome.node_results["slow"].finished - 0.3


def test_skipped_parent_is_none_to_the_join(agent: Agent) -> None:
    @agent.node
    def left() -> str:
        return "left"

    @agent.node(condition="False")
    def right() -> str:
        return "right"

    @agent.node
    def join(left: str, right: str | None) -> list[str | None]:
        return [left, right]

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["join"] == ["left", None]
    assert outcome.node_results["right"].status is NodeStatus.SKIPPED


def test_skipped_parent_is_the_default_of_a_parameter_that_has_one(agent: Agent) -> None:
    @agent.node
    def left() -> str:
        return "left"

    @agent.node(condition="False")
    def right() -> str:
        return "right"

    @agent.node
    def join(left: str, right: str = "instead") -> list[str]:
        return [left, right]

    assert agent.run_task_sync(task())["join"] == ["left", "instead"]


def test_join_whose_parents_were_all_skipped_is_skipped(agent: Agent) -> None:
    @agent.node(condition="False")
    def left() -> None: ...

    @agent.node(condition="1 > 2")
    def right() -> None: ...

    @agent.node
    def join(left: None, right: None) -> str:
        return "never"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome.node_results["join"].status is NodeStatus.SKIPPED
    with pytest.raises(KeyError, match="all that it depends on was skipped"):
        outcome["join"]


def test_empty_map_still_runs_what_depends_on_it(agent: Agent) -> None:
    @agent.node
    def items() -> list[int]:
        return []

    @agent.node(map_over="items")
    async def double(item: int) -> int:
        return 2 * item

    @agent.node
    def join(double: list[int], items: list[int]) -> list[Any]:
        return [double, items]

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["join"] == [[], []]
    assert outcome["double"] == []


def test_join_of_a_failed_parent_does_not_run_and_the_run_fails(agent: Agent) -> None:
    @agent.node
    def left() -> str:
        return "left"

    @agent.node(max_retries=1)
    def right() -> None:
        raise ValueError("no right")

    @agent.node
    def join(left: str, right: None) -> str:
        return "never"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert outcome.error is not None
    assert "'right'" in outcome.error
    assert "no right" in outcome.error
    assert outcome.node_results["join"].status is NodeStatus.PENDING
    with pytest.raises(KeyError, match=r"join never ran: right failed: ValueError: no right"):
        outcome["join"]


def test_branch_beside_a_failed_one_comes_to_its_end_and_the_run_is_partial(agent: Agent) -> None:
    @agent.node(max_retries=1)
    def broken() -> None:
        raise ValueError("no")

    @agent.node
    def below(broken: None) -> None: ...

    @agent.node
    async def healthy() -> str:
        await asyncio.sleep(0.05)
        return "fine"

    @agent.node
    def end(healthy: str) -> str:
        return healthy

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["end"] == "fine"
    assert [failure.node for failure in outcome.failures] == ["broken"]


def test_settled_node_runs_after_a_failure_and_sees_none_for_it(agent: Agent) -> None:
    @agent.node
    def left() -> str:
        return "left"

    @agent.node(max_retries=1)
    def right() -> None:
        raise ValueError("no right")

    @agent.node(run_when="settled")
    def report(left: str, right: str | None) -> list[str | None]:
        return [left, right]

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["report"] == ["left", None]


def test_settled_node_runs_although_its_parent_never_can(agent: Agent) -> None:
    @agent.node(max_retries=1)
    def broken() -> None:
        raise ValueError("no")

    @agent.node
    def between(broken: None) -> None: ...

    @agent.node(run_when="settled")
    def report(between: None) -> str:
        return f"between is {between}"

    outcome = agent.run_task_sync(task())

    assert outcome["report"] == "between is None"
    assert outcome.node_results["between"].status is NodeStatus.PENDING


def test_untaken_branch_is_none_to_the_join_in_the_second_pass_too(agent: Agent) -> None:
    seen: list[tuple[str | None, str | None]] = []

    @agent.node
    async def start(cache: Any) -> int:
        await cache.increment("passes")
        return 1

    @agent.decide(after="start", to=["x", "y"])
    async def choose(cache: Any) -> str:
        return "x" if await cache.get("passes") == 1 else "y"

    @agent.node(dependencies=["choose"])
    def x() -> str:
        return "x"

    @agent.node(dependencies=["choose"])
    def y() -> str:
        return "y"

    @agent.node
    def join(x: str | None, y: str | None) -> None:
        seen.append((x, y))

    @agent.decide(after="join", to=["start", "finish"])
    def again() -> str:
        return "start" if len(seen) < 2 else "finish"

    @agent.node(start=False)
    def finish(join: None) -> str:
        return "done"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert seen == [("x", None), (None, "y")]
    assert outcome.node_results["join"].visits == 2
    assert outcome["finish"] == "done"


def test_join_below_a_loop_waits_for_the_new_results_of_all_its_parents(agent: Agent) -> None:
    joined: list[tuple[int, int]] = []

    @agent.node
    async def start(cache: Any) -> int:
        number = await cache.get("pass", 0) + 1
        await cache.set("pass", number)
        return number

    @agent.node
    async def quick(start: int) -> int:
        return start

    @agent.node
    async def late(start: int) -> int:
        await asyncio.sleep(0.03)
        return start

    @agent.node
    def join(quick: int, late: int) -> int:
        joined.append((quick, late))
        return quick

    @agent.decide(after="join", to="start")
    def again(join: int) -> str | None:
        return "start" if join < 3 else None

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert joined == [(1, 1), (2, 2), (3, 3)]


def test_node_that_waits_for_what_nothing_starts_is_named_instead_of_waited_for(agent: Agent) -> None:
    never = FlowDecision(next_node="helper", condition="begin == 'later'")
    flow = FlowControlModule(flow_config=FlowControlConfig(decisions=[never]))
    agent.add_node(Node(name="supervisor", type=ModuleType.FLOW_CONTROL, modules=[flow]))

    @agent.node
    def begin() -> str:
        return "now"

    @agent.node
    def helper() -> str:
        return "helped"

    @agent.node
    def end(begin: str, helper: str) -> str:
        return helper

    outcome = run(asyncio.wait_for(agent.run_task(task()), 10))

    assert outcome.status is RunStatus.FAILED
    assert "stalled: 'end' waits for 'helper'" in (outcome.error or "")
