"""The naive split-process-aggregate agent: always the right answer, whatever the interleaving, or a failure that says why."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from graphflow import Agent, NodeStatus, RedisCache, RunResult, RunStatus
from tests.acceptance.support import agent_on, client, task
from tests.helpers import run
from tests.parallel_agent import ParallelProcessor, naive_agent, numbers

DOUBLED = [2 * number for number in range(20)]
PROCESSORS = [f"processor_{number}" for number in range(3)]
FLOW_CONTROL = "flow_control"


def assert_is_right(outcome: RunResult) -> None:
    """The answer of 20 numbers in 7 subtasks, with every node run accounted for."""
    assert outcome.status is RunStatus.COMPLETE
    assert outcome.error is None
    assert outcome["final_results"] == DOUBLED
    assert outcome["total_items_processed"] == 20
    assert [subtask["id"] for subtask in outcome["completed_subtasks"]] == [f"subtask_{n}" for n in range(7)]
    assert {subtask["status"] for subtask in outcome["subtasks"]} == {"completed"}
    assert outcome.node_results["aggregator"].visits == 1
    assert node_runs(outcome) == 11


def node_runs(outcome: RunResult) -> int:
    return sum(node.visits for name, node in outcome.node_results.items() if name != FLOW_CONTROL)


async def run_at_once(agent: Agent, count: int) -> list[RunResult]:
    return await asyncio.gather(*(agent.run_task(numbers(20)) for _ in range(count)))


def test_one_agent_gives_the_right_answer_in_200_runs_of_200(redis_url: str) -> None:
    async def main() -> list[RunResult]:
        agent = naive_agent(redis_url)
        in_sequence = [await agent.run_task(numbers(20)) for _ in range(100)]
        return [*in_sequence, *await run_at_once(agent, 50), *await run_at_once(agent, 50)]

    outcomes = run(main())

    assert len({outcome.run_id for outcome in outcomes}) == 200
    for outcome in outcomes:
        assert_is_right(outcome)


def test_answer_is_right_when_processors_pause_between_read_and_write(redis_url: str) -> None:
    async def main() -> list[RunResult]:
        agent = naive_agent(redis_url, delay=0.05)
        return [await agent.run_task(numbers(20)), *await run_at_once(agent, 50)]

    for outcome in run(main()):
        assert_is_right(outcome)


def test_old_keys_in_the_database_change_nothing(redis_url: str) -> None:
    with client(redis_url) as connection:
        connection.set("subtasks", '[{"id": "foreign", "status": "pending"}]')
        connection.hset("gf:run:{someone-elses}:state", "subtasks", '[{"id": "old", "status": "pending"}]')

        outcome = naive_agent(redis_url).run_task_sync(numbers(20))

        assert_is_right(outcome)
        assert connection.delete("subtasks", "gf:run:{someone-elses}:state") == 2


def test_answer_is_the_same_on_every_kind_of_store(any_redis_url: str) -> None:
    assert_is_right(naive_agent(any_redis_url).run_task_sync(numbers(20)))


def test_same_agent_answers_twice_in_a_row(redis_url: str) -> None:
    agent = naive_agent(redis_url)

    first, second = agent.run_task_sync(numbers(20)), agent.run_task_sync(numbers(20))

    assert first.run_id != second.run_id
    assert_is_right(first)
    assert_is_right(second)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_items_give_few_results(redis_url: str, count: int) -> None:
    outcome = naive_agent(redis_url).run_task_sync(numbers(count))

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["final_results"] == [2 * number for number in range(count)]


def test_thousand_items_end_at_the_limit_of_node_runs_and_say_so(redis_url: str) -> None:
    outcome = naive_agent(redis_url, max_total_iterations=50).run_task_sync(numbers(1_000))

    assert outcome.status is RunStatus.FAILED
    assert "max_total_iterations=50" in (outcome.error or "")
    assert node_runs(outcome) == 50
    assert "final_results" not in outcome


def test_thousand_items_complete_within_500_node_runs(redis_url: str) -> None:
    outcome = naive_agent(redis_url, max_total_iterations=500).run_task_sync(numbers(1_000))

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["final_results"] == [2 * number for number in range(1_000)]
    assert node_runs(outcome) == 338


def test_missing_data_fails_the_run_and_names_the_splitter(redis_url: str) -> None:
    outcome = naive_agent(redis_url).run_task_sync(numbers(None))

    assert outcome.status is RunStatus.FAILED
    assert "splitter" in (outcome.error or "")
    assert [failure.node for failure in outcome.failures] == ["splitter"]
    assert "NoneType" in outcome.failures[0].error
    assert node_runs(outcome) == 1


def test_processor_that_changes_nothing_stalls_the_run(redis_url: str) -> None:
    class Idle(ParallelProcessor):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            await cache.get("subtasks")
            return {"status": "success", "result": "looked at it"}

    outcome = naive_agent(redis_url, processor=Idle).run_task_sync(numbers(20))

    assert outcome.status is RunStatus.FAILED
    assert "stalled" in (outcome.error or "")
    assert any("processor_0" in held for held in outcome.held)
    assert outcome.held[0] in (outcome.error or "")
    assert "final_results" not in outcome


def test_processor_that_raises_once_is_tried_again(redis_url: str) -> None:
    raised: list[str] = []

    class FailsOnce(ParallelProcessor):
        async def work(self, subtask: dict[str, Any]) -> list[int]:
            if 7 in subtask["data"] and not raised:
                raised.append(subtask["id"])
                raise ValueError("seven, for the first time")
            return await super().work(subtask)

    outcome = naive_agent(redis_url, processor=FailsOnce).run_task_sync(numbers(20))

    assert raised == ["subtask_2"]
    assert_is_right(outcome)
    assert outcome.failures == []


def test_processor_that_always_raises_ends_the_run_with_node_error_and_attempts(redis_url: str) -> None:
    class Fails(ParallelProcessor):
        async def work(self, subtask: dict[str, Any]) -> list[int]:
            if 7 in subtask["data"]:
                raise ValueError("never seven")
            return await super().work(subtask)

    outcome = naive_agent(redis_url, processor=Fails).run_task_sync(numbers(20))

    assert outcome.status is RunStatus.FAILED
    assert {failure.node for failure in outcome.failures} == set(PROCESSORS)
    assert {failure.attempts for failure in outcome.failures} == {2}
    assert {failure.error for failure in outcome.failures} == {"ValueError: never seven"}
    assert "processor_" in (outcome.error or "")
    assert "never seven" in (outcome.error or "")


def test_map_form_names_the_item_that_always_fails(redis_url: str) -> None:
    agent = agent_on(redis_url)
    attempts: Counter[int] = Counter()

    @agent.node
    def chunks(task):  # type: ignore[no-untyped-def]
        data = task.params["data"]
        return [data[start : start + 3] for start in range(0, len(data), 3)]

    @agent.node(map_over="chunks", max_retries=2)
    async def double(chunk, index):  # type: ignore[no-untyped-def]
        attempts[index] += 1
        if 7 in chunk:
            raise ValueError("never seven")
        return [2 * number for number in chunk]

    @agent.node
    def combine(double):  # type: ignore[no-untyped-def]
        return [number for part in double for number in part]

    outcome = agent.run_task_sync(numbers(20))

    assert outcome.status is RunStatus.PARTIAL
    assert [(failure.node, failure.item, failure.attempts) for failure in outcome.failures] == [
        ("double", 2, 2)
    ]
    assert outcome.failures[0].error == "ValueError: never seven"
    assert "double" in (outcome.error or "")
    assert outcome["combine"] == [number for number in DOUBLED if number not in (12, 14, 16)]
    assert attempts == {**dict.fromkeys(range(7), 1), 2: 2}


def test_claiming_processors_overlap_and_give_the_same_answer(redis_url: str) -> None:
    running, most = 0, 0

    class Claiming(ParallelProcessor):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            nonlocal running, most
            claimed = await cache.claim("subtasks", where="item['status'] == 'pending'")
            if claimed is None:
                return {"status": "success", "result": "nothing is free"}
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.05)
            running -= 1
            results = await self.work(claimed.item)
            claimed.set(status="completed", results=results)
            await cache.append("completed_subtasks", {**claimed.item, "results": results})
            return {"status": "success", "result": claimed.item["id"]}

    outcome = naive_agent(redis_url, processor=Claiming).run_task_sync(numbers(20))

    assert outcome.status is RunStatus.COMPLETE
    assert sorted(outcome["final_results"]) == DOUBLED
    assert most == 3


def test_mapped_subtasks_overlap_and_keep_their_order(redis_url: str) -> None:
    agent = Agent(cache=RedisCache(redis_url), max_concurrent_tasks=3)
    running = most = 0

    @agent.node
    def chunks(task):  # type: ignore[no-untyped-def]
        data = task.params["data"]
        return [data[start : start + 3] for start in range(0, len(data), 3)]

    @agent.node(map_over="chunks")
    async def double(chunk):  # type: ignore[no-untyped-def]
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        return [2 * number for number in chunk]

    outcome = agent.run_task_sync(numbers(20))

    assert [number for part in outcome["double"] for number in part] == DOUBLED
    assert outcome.node_results["double"].status is NodeStatus.SUCCEEDED
    assert most == 3


def test_task_holds_status_and_result_of_its_run(redis_url: str) -> None:
    asked = numbers(20)

    outcome = naive_agent(redis_url).run_task_sync(asked)

    assert asked.status == "complete"
    assert asked.result == outcome.result == 20
    assert (outcome.task.status, outcome.task.result) == ("complete", 20)
    assert task().status == "waiting"
