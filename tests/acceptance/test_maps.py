"""Maps: a durable record per item, results in input order, failures by item."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from graphflow import Agent, AgentModule, NodeStatus, NonRetryableException, RunStatus
from tests.acceptance.support import agent_on, client, module_node, task, within
from tests.helpers import SOON_SECONDS


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


def test_results_come_in_input_order_however_the_items_finish(agent: Agent) -> None:
    @agent.node(map_over="items")
    async def double(item: int) -> int:
        await asyncio.sleep((20 - item) / 1_000)
        return 2 * item

    outcome = agent.run_task_sync(task(), state={"items": list(range(20))})

    assert outcome["double"] == [2 * number for number in range(20)]
    assert outcome.result == outcome["double"]
    assert outcome.node_results["double"].result == outcome["double"]


def test_map_over_the_results_of_a_map_and_of_a_node(agent: Agent) -> None:
    @agent.node
    def words(task: Any) -> list[str]:
        return list(task.params["text"].split())

    @agent.node(map_over="words")
    def length(word: str) -> int:
        return len(word)

    @agent.node(map_over="length")
    async def square(item: int) -> int:
        return item * item

    @agent.node
    def total(square: list[int]) -> int:
        return sum(square)

    outcome = agent.run_task_sync(task(text="one three five"))

    assert outcome["square"] == [9, 25, 16]
    assert outcome["total"] == 50


def test_map_over_a_key_that_a_module_declares(agent: Agent) -> None:
    class Finds(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            await cache.set("pages", ["a", "b"])

    agent.add_node(module_node("find", Finds(), outputs=["pages"]))

    @agent.node(map_over="pages")
    async def fetch(page: str, index: int, task: Any) -> str:
        return f"{task.params['site']}/{index}/{page}"

    assert agent.run_task_sync(task(site="x"))["fetch"] == ["x/0/a", "x/1/b"]


def test_class_gets_item_and_index_from_its_cache(agent: Agent) -> None:
    class Double(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            return {"status": "success", "result": [cache.index, cache.item * 2]}

    agent.add_node(module_node("double", Double(), map_over="items"))

    assert agent.run_task_sync(task(), state={"items": [5, 6]})["double"] == [[0, 10], [1, 12]]


def test_where_expression_filters_items_by_value_and_index(agent: Agent) -> None:
    @agent.node(map_over="items", where="item['ready'] and index > 0")
    async def name(item: dict[str, Any], index: int) -> str:
        return f"{index}:{item['name']}"

    items = [{"name": name, "ready": name != "c"} for name in "abcd"]
    outcome = agent.run_task_sync(task(), state={"items": items})

    assert outcome["name"] == ["1:b", "3:d"]
    assert outcome.status is RunStatus.COMPLETE


def test_where_expression_may_read_the_state(agent: Agent) -> None:
    @agent.node(map_over="items", where="item >= least")
    async def keep(item: int) -> int:
        return item

    outcome = agent.run_task_sync(task(), state={"items": [1, 2, 3, 4], "least": 3})

    assert outcome["keep"] == [3, 4]


def test_where_function_filters_items(agent: Agent) -> None:
    @agent.node(map_over="items", where=lambda item: item % 2 == 0)
    def even(item: int) -> int:
        return item

    assert agent.run_task_sync(task(), state={"items": list(range(7))})["even"] == [0, 2, 4, 6]


def test_results_of_filtered_map_keep_their_input_indexes(agent: Agent) -> None:
    @agent.node(map_over="items", where="item > 1", max_retries=1)
    async def double(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return 2 * item

    @agent.node
    async def collect(double: list[int], cache: Any) -> list[Any]:
        return [list(pair) async for pair in cache.results("double")]

    outcome = agent.run_task_sync(task(), state={"items": [1, 2, 3, 4]})

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["collect"] == [[1, 4], [3, 8]]
    assert outcome["double"] == [4, 8]
    assert [(failure.node, failure.item) for failure in outcome.failures] == [("double", 2)]


def test_failed_items_are_tried_again_and_then_listed(agent: Agent) -> None:
    calls: Counter[int] = Counter()

    @agent.node(map_over="items", max_retries=3)
    async def work(item: int) -> int:
        calls[item] += 1
        if item == 3 or (item == 5 and calls[item] < 3):
            raise ValueError(f"item {item}")
        return item

    @agent.node
    def total(work: list[int]) -> int:
        return sum(work)

    outcome = agent.run_task_sync(task(), state={"items": list(range(8))})

    assert outcome.status is RunStatus.PARTIAL
    assert [(each.item, each.error, each.attempts) for each in outcome.failures] == [
        (3, "ValueError: item 3", 3)
    ]
    assert outcome["total"] == sum(range(8)) - 3
    assert calls == {**dict.fromkeys(range(8), 1), 3: 3, 5: 3}


def test_map_whose_items_all_fail_is_a_failed_node(agent: Agent) -> None:
    @agent.node(map_over="items", max_retries=1)
    async def work(item: int) -> int:
        raise ValueError(f"item {item}")

    @agent.node
    def after(work: list[int]) -> int:
        return 1

    outcome = agent.run_task_sync(task(), state={"items": [1, 2]})

    assert outcome.status is RunStatus.FAILED
    assert outcome.node_results["work"].status is NodeStatus.FAILED
    assert outcome.node_results["after"].status is NodeStatus.PENDING
    assert "all 2 items failed" in (outcome.error or "")


def test_first_failed_item_fails_the_node_if_asked_for(agent: Agent) -> None:
    cancelled: list[int] = []

    @agent.node(map_over="items", on_item_error="fail", max_retries=1)
    async def work(item: int) -> int:
        if item == 1:
            raise ValueError("the first")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    outcome = agent.run_task_sync(task(), state={"items": list(range(5))})

    assert outcome.status is RunStatus.FAILED
    assert "item 1: the first" in outcome.node_results["work"].error
    assert {failure.item for failure in outcome.failures} >= {1}
    assert sorted(cancelled) == [0, 2, 3, 4]
    assert outcome.seconds < SOON_SECONDS


def test_item_over_its_timeout_is_tried_again_alone(agent: Agent) -> None:
    calls: Counter[int] = Counter()

    @agent.node(map_over="items", timeout=0.1, max_retries=2)
    async def work(item: int) -> int:
        calls[item] += 1
        if item == 2 and calls[item] == 1:
            await asyncio.sleep(30)
        return item

    outcome = agent.run_task_sync(task(), state={"items": list(range(4))})

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["work"] == [0, 1, 2, 3]
    assert calls == {0: 1, 1: 1, 2: 2, 3: 1}


def test_item_over_its_timeout_in_a_class_is_listed(agent: Agent) -> None:
    class Sleeps(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            await asyncio.sleep(30 if cache.item else 0)
            return "awake"

    agent.add_node(module_node("sleeps", Sleeps(config=within(0.05)), map_over="items", max_retries=1))

    outcome = agent.run_task_sync(task(), state={"items": [0, 1]})

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["sleeps"] == ["awake"]
    assert "timeout=0.05" in outcome.failures[0].error


def test_non_retryable_item_fails_at_once(agent: Agent) -> None:
    calls: list[int] = []

    @agent.node(map_over="items", max_retries=5)
    async def work(item: int) -> int:
        calls.append(item)
        if item == 1:
            raise NonRetryableException("never")
        return item

    outcome = agent.run_task_sync(task(), state={"items": [0, 1, 2]})

    assert sorted(calls) == [0, 1, 2]
    assert outcome.failures[0].attempts == 1


@pytest.mark.parametrize("is_async", [True, False])
def test_items_never_exceed_the_concurrency_of_their_node(agent: Agent, is_async: bool) -> None:
    running, most = 0, 0

    async def asynchronous(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        return item

    def in_threads(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        running -= 1
        return item

    agent.node(name="work", map_over="items", max_concurrency=4)(asynchronous if is_async else in_threads)

    outcome = agent.run_task_sync(task(), state={"items": list(range(60))})

    assert outcome["work"] == list(range(60))
    assert most <= 4
    assert most == 4 or not is_async


def test_as_many_items_run_at_a_time_as_a_node_asks_for_unless_the_agent_is_given_less(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def most_at_a_time(**limits: int) -> int:
        agent = agent_on(redis_url, **limits)
        running, most = 0, 0

        @agent.node(map_over="items", max_concurrency=120)
        async def work(item: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.05)
            running -= 1

        await agent.run_task(task(), state={"items": list(range(240))})
        return most

    assert asyncio.run(most_at_a_time()) == 120
    assert caplog.text == ""
    assert asyncio.run(most_at_a_time(max_concurrent_tasks=100)) == 100
    assert "node 'work' asks for max_concurrency=120, but max_concurrent_tasks=100" in caplog.text


def test_items_share_the_slots_of_the_run(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=3)
    running, most = 0, 0

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1

    agent.node(name="one", map_over="items")(work)
    agent.node(name="two", map_over="items")(work)

    outcome = agent.run_task_sync(task(), state={"items": list(range(20))})

    assert outcome.status is RunStatus.COMPLETE
    assert most == 3


def test_items_that_append_and_increment_never_run_twice(agent: Agent) -> None:
    calls: Counter[int] = Counter()

    @agent.node(map_over="items")
    async def work(item: int, cache: Any) -> int:
        calls[item] += 1
        await cache.append("seen", item)
        await cache.increment("sum", item)
        return item

    outcome = agent.run_task_sync(task(), state={"items": list(range(100))})

    assert sorted(outcome["seen"]) == list(range(100))
    assert outcome["sum"] == sum(range(100))
    assert set(calls.values()) == {1}


def test_items_that_claim_get_different_things(agent: Agent) -> None:
    @agent.node(map_over="items")
    async def work(item: int, cache: Any) -> int:
        seat = await cache.claim("seats", where="item['guest'] == null")
        seat.set(guest=item)
        return int(seat.index)

    seats = [{"guest": None} for _ in range(50)]
    outcome = agent.run_task_sync(task(), state={"items": list(range(40)), "seats": seats})

    assert len(set(outcome["work"])) == 40
    guests = [seat["guest"] for seat in outcome["seats"] if seat["guest"] is not None]
    assert sorted(guests) == list(range(40))


def test_items_that_read_and_write_one_key_lose_nothing(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=8)

    @agent.node(map_over="items")
    async def work(item: int, cache: Any) -> None:
        count = await cache.get("count", 0)
        await asyncio.sleep(0)
        await cache.set("count", count + 1)

    outcome = agent.run_task_sync(task(), state={"items": list(range(40))})

    assert outcome["count"] == 40


def test_failed_item_leaves_none_of_its_writes(agent: Agent) -> None:
    @agent.node(map_over="items", max_retries=2)
    async def work(item: int, cache: Any) -> int:
        await cache.append("seen", item)
        if item == 2:
            raise ValueError("two")
        return item

    outcome = agent.run_task_sync(task(), state={"items": [1, 2, 3]})

    assert sorted(outcome["seen"]) == [1, 3]


def test_empty_map_is_a_success_without_results(agent: Agent) -> None:
    agent.node(name="work", map_over="items")(lambda item: item)

    outcome = agent.run_task_sync(task(), state={"items": []})

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["work"] == []
    assert outcome.result == []


def test_map_over_something_that_is_no_list_fails_and_names_it(agent: Agent) -> None:
    agent.node(name="work", map_over="items", max_retries=1)(lambda item: item)

    outcome = agent.run_task_sync(task(), state={"items": "text"})

    assert outcome.status is RunStatus.FAILED
    assert "'items'" in outcome.failures[0].error
    assert "str" in outcome.failures[0].error


def test_second_visit_of_a_map_replaces_the_records_of_the_first(agent: Agent) -> None:
    @agent.node
    async def numbers(cache: Any) -> list[int]:
        size = await cache.get("size", 5)
        await cache.set("size", size - 3)
        return list(range(size))

    @agent.node(map_over="numbers")
    async def double(item: int) -> int:
        return 2 * item

    @agent.decide(after="double", to="numbers")
    async def again(double: list[int]) -> str | None:
        return "numbers" if len(double) == 5 else None

    outcome = agent.run_task_sync(task())

    assert outcome["double"] == [0, 2]
    assert outcome.node_results["double"].visits == 2


def test_expression_may_read_the_results_of_a_map(agent: Agent) -> None:
    @agent.node(map_over="items")
    async def score(item: int) -> int:
        return item

    agent.node(name="high", dependencies=["score"], condition="sum(score) > 5")(lambda: "high")
    agent.node(name="low", dependencies=["score"], condition="len(nodes.score) < 2")(lambda: "low")

    outcome = agent.run_task_sync(task(), state={"items": [1, 2, 3]})

    assert outcome["high"] == "high"
    assert outcome.node_results["low"].status is NodeStatus.SKIPPED


def test_thousands_of_items_take_few_commits_and_show_their_progress(agent: Agent, redis_url: str) -> None:
    agent.node(name="work", map_over="items", max_concurrency=200)(_same)

    outcome = agent.run_task_sync(task(), state={"items": list(range(5_000))})

    assert outcome["work"] == list(range(5_000))
    with client(redis_url) as connection:
        progress = connection.hgetall(f"gf:run:{{{outcome.run_id}}}:map:work")
    assert progress["total"] == progress["done"] == "5000"
    assert outcome.seconds < SOON_SECONDS


async def _same(item: int) -> int:
    return item
