"""The state as modules see it: what is stored, what is refused, and what a run costs in round trips."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import math
import uuid
from typing import Any

import pytest

from graphflow import Agent, AgentModule, NodeStatus, RunStatus, register_type
from graphflow.errors import OutsideRun, UnstorableValue, ValueTooLarge
from tests.acceptance.support import agent_on, client, keys_of_run, module_node, task
from tests.helpers import run


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


class Strange:
    pass


@pytest.mark.parametrize(
    ("value", "error", "named"),
    [
        (Strange(), "UnstorableValue", "Strange"),
        ([1, {"deep": Strange()}], "UnstorableValue", "Strange"),
        (math.nan, "UnstorableValue", "NaN"),
        ({"x": math.inf}, "UnstorableValue", "Infinity"),
        ("x" * (8 * 1024 * 1024), "ValueTooLarge", "str"),
        (lambda: None, "UnstorableValue", "function"),
    ],
    ids=["object", "nested object", "nan", "infinity", "over 8 MiB", "function"],
)
def test_value_that_cannot_be_stored_fails_its_module_and_writes_nothing(
    agent: Agent, value: Any, error: str, named: str
) -> None:
    class Sets(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            await cache.set("before", 1)
            await cache.set("answer", value)

    agent.add_node(module_node("sets", Sets(), max_retries=1))

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    (failure,) = outcome.failures
    assert failure.node == "sets"
    assert failure.error.startswith(f"{error}: ")
    assert "'answer'" in failure.error
    assert named in failure.error
    assert outcome.keys() == []
    assert run(agent.state(outcome.run_id)) == {}


@pytest.mark.parametrize(
    "value", [Strange(), math.nan, "x" * (8 * 1024 * 1024)], ids=["object", "nan", "over 8 MiB"]
)
@pytest.mark.parametrize("is_item", [False, True], ids=["node", "item"])
def test_result_that_cannot_be_stored_fails_at_once_and_names_the_node(
    agent: Agent, value: Any, is_item: bool
) -> None:
    calls: list[int] = []

    def returns(item: int = 0) -> Any:
        calls.append(1)
        return value

    options: dict[str, Any] = {"map_over": "items"} if is_item else {}
    agent.node(name="returns", **options)(returns)

    outcome = agent.run_task_sync(task(), state={"items": [1]})

    assert outcome.status is RunStatus.FAILED
    assert "'returns" in outcome.failures[0].error
    assert outcome.failures[0].error.split(":")[0] in ("UnstorableValue", "ValueTooLarge")
    assert len(calls) == 1
    assert outcome.keys() == ["items"]


def test_initial_state_that_cannot_be_stored_is_an_exception_before_anything_is_written(
    agent: Agent, redis_url: str
) -> None:
    agent.node(name="never")(lambda: None)

    with pytest.raises(UnstorableValue, match=r"'x'.*Strange"):
        agent.run_task_sync(task(), state={"x": Strange()}, run_id="refused-state")
    with pytest.raises(ValueTooLarge, match="'x'"):
        agent.run_task_sync(task(), state={"x": "x" * (8 * 1024 * 1024)}, run_id="refused-state")
    with pytest.raises(UnstorableValue, match="params"):
        agent.run_task_sync(task(x=Strange()), run_id="refused-state")

    assert keys_of_run(redis_url, "refused-state") == []


@register_type
@dataclasses.dataclass
class PlacePoint:
    x: int
    y: int


def test_registered_types_come_back_equal(agent: Agent) -> None:
    values = {
        "point": PlacePoint(1, 2),
        "when": datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC),
        "id": uuid.UUID(int=7),
        "bytes": b"\x00\xff",
        "set": {1, 2, 3},
        "tuple": (1, (2, 3)),
        "large": 2**70,
        "text": "Grüße, 世界 \x00",
        "nothing": None,
        "nested": {"points": [PlacePoint(3, 4)]},
    }

    @agent.node
    async def sets(cache: Any) -> Any:
        for key, value in values.items():
            await cache.set(key, value)
        return [PlacePoint(5, 6)]

    @agent.node
    async def reads(sets: Any, cache: Any) -> bool:
        assert sets == [PlacePoint(5, 6)]
        return all([await cache.get(key) == value for key, value in values.items()])

    outcome = agent.run_task_sync(task(point=PlacePoint(7, 8)))

    assert outcome["reads"] is True
    assert {key: outcome[key] for key in values} == values
    assert outcome.node_results["sets"].result == [PlacePoint(5, 6)]
    assert outcome.task.params == {"point": PlacePoint(7, 8)}
    assert run(agent.state(outcome.run_id)) == {**values, "sets": [PlacePoint(5, 6)], "reads": True}


def test_failed_module_leaves_no_trace_in_the_state(agent: Agent) -> None:
    class Writes(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            await cache.set("a", "changed")
            await cache.delete("b")
            await cache.append("c", 3)
            raise ValueError("after the writes")

    agent.add_node(module_node("writes", Writes(), max_retries=2))
    before = {"a": "kept", "b": "kept", "c": [1, 2]}

    outcome = agent.run_task_sync(task(), state=before)

    assert {key: outcome[key] for key in outcome} == before


def test_changing_what_get_returned_changes_nothing_without_a_set(agent: Agent) -> None:
    @agent.node
    async def changes(cache: Any) -> list[int]:
        numbers = await cache.get("numbers")
        numbers.append(4)
        return list(await cache.get("numbers"))

    outcome = agent.run_task_sync(task(), state={"numbers": [1, 2, 3]})

    assert outcome["changes"] == [1, 2, 3]
    assert outcome["numbers"] == [1, 2, 3]


def test_progress_set_immediately_stays_although_the_module_fails(agent: Agent) -> None:
    @agent.node(max_retries=1)
    async def works(cache: Any) -> None:
        await cache.set("progress", 0.5, immediate=True)
        assert await cache.peek("progress") == 0.5
        await cache.set("answer", 1)
        raise ValueError("half way")

    outcome = agent.run_task_sync(task())

    assert outcome["progress"] == 0.5
    assert "answer" not in outcome


def test_cache_kept_after_its_module_run_refuses_every_call(agent: Agent) -> None:
    kept: list[Any] = []

    @agent.node
    async def keeps(cache: Any) -> None:
        kept.append(cache)

    @agent.node
    async def uses(keeps: None) -> str:
        try:
            await kept[0].set("x", 1)
        except Exception as error:
            return type(error).__name__
        return "no error"

    outcome = agent.run_task_sync(task())

    assert outcome["uses"] == "TransactionClosed"
    assert "x" not in outcome


@pytest.mark.parametrize("operation", ["get", "set", "append", "claim", "keys"])
def test_cache_of_an_agent_has_no_state_outside_a_run_and_says_where_it_is(
    agent: Agent, operation: str
) -> None:
    with pytest.raises(OutsideRun, match=r"state= to run_task"):
        getattr(agent.cache, operation)("key")


def test_wrong_blind_operation_fails_its_module_alone(agent: Agent) -> None:
    @agent.node(max_retries=1)
    async def appends(cache: Any) -> None:
        await cache.append("number", 2)

    @agent.node
    async def increments(cache: Any) -> None:
        await cache.increment("number")

    outcome = agent.run_task_sync(task(), state={"number": 1})

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["number"] == 2
    assert outcome.failures[0].node == "appends"
    assert "'number'" in outcome.failures[0].error


def test_runs_of_one_agent_have_a_state_each(agent: Agent) -> None:
    @agent.node
    async def counts(cache: Any, task: Any) -> int:
        await cache.increment("count", task.params["by"])
        await asyncio.sleep(0.01)
        return int(await cache.get("count"))

    async def main() -> list[int]:
        outcomes = await asyncio.gather(*(agent.run_task(task(by=number)) for number in range(1, 31)))
        return [outcome["count"] for outcome in outcomes]

    assert run(main()) == list(range(1, 31))


def _chain(url: str, length: int) -> Agent:
    agent = agent_on(url)

    class Step(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            await cache.set("last", await cache.get("last", 0) + 1)

    for number in range(length):
        before = [f"step_{number - 1}"] if number else []
        agent.add_node(module_node(f"step_{number}", Step(), dependencies=before))
    return agent


def _calls(url: str) -> int:
    """Commands that clients have sent, those that scripts call left out."""
    with client(url) as connection:
        stats = connection.info("commandstats")
    return sum(
        values["calls"]
        for name, values in stats.items()
        if name in ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall")
    )


def test_chain_costs_one_round_trip_per_node_run(redis_url: str) -> None:
    def cost(length: int) -> int:
        agent = _chain(redis_url, length)
        before = _calls(redis_url)
        outcome = agent.run_task_sync(task())
        assert outcome["last"] == length
        return _calls(redis_url) - before

    cost(1)
    short, long = cost(10), cost(60)

    assert long - short == 50
    assert short <= 10 + 6


def test_nodes_that_are_ready_together_share_their_commits(redis_url: str) -> None:
    agent = agent_on(redis_url)
    for number in range(200):
        agent.node(name=f"n{number}")(_nothing)
    before = _calls(redis_url)

    outcome = agent.run_task_sync(task())

    assert {node.status for node in outcome.node_results.values()} == {NodeStatus.SUCCEEDED}
    assert _calls(redis_url) - before < 40


async def _nothing() -> None: ...
