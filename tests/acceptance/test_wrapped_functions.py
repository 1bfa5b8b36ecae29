"""Functions that call an async one, or a generator, without being one: wrappers, partials, lambdas, callable objects."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from graphflow import Agent, InvalidGraph, RunStatus, is_cancelled
from tests.acceptance.support import agent_on, task


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Calls:
    """A callable object whose call gives what the function gives."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, item: Any) -> Any:
        return self.function(item)


def in_lambda(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda item: function(item)


def in_partial(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.partial(lambda given, item: given(item), function)


WRAPPERS = [logged, Calls, in_lambda, in_partial]


async def twice(item: Any) -> Any:
    await asyncio.sleep(0)
    return item * 2


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_body_that_calls_an_async_function_is_awaited(agent: Agent, wrap: Callable[..., Any]) -> None:
    async def step(cache: Any) -> int:
        result: int = await cache.step("twice", wrap(twice), 4, key=4)
        return result

    async def batch(item: list[int]) -> list[int]:
        return [await twice(one) for one in item]

    agent.node(name="each", map_over="items")(wrap(twice))
    agent.node(name="in_batches", map_over="items", batch_size=2)(wrap(batch))
    agent.node(name="in_step")(step)

    outcome = agent.run_task_sync(task(), state={"items": [1, 2, 3]})

    assert outcome.status is RunStatus.COMPLETE
    assert (outcome["each"], outcome["in_batches"], outcome["in_step"]) == ([2, 4, 6], [2, 4, 6], 8)


def test_decision_and_wrapper_around_a_function_with_the_cache_are_awaited(agent: Agent) -> None:
    async def chooses() -> str:
        return "chosen"

    @agent.node
    @logged
    async def writes(cache: Any) -> str:
        await cache.set("key", "value")
        return "written"

    agent.decide(to=["chosen", "other"], name="decides")(lambda: chooses())
    agent.node(name="chosen")(lambda: 1)
    agent.node(name="other")(lambda: 2)

    outcome = agent.run_task_sync(task())

    assert (outcome["key"], outcome["writes"]) == ("value", "written")
    assert outcome["chosen"] == 1
    assert "other" not in outcome


def test_item_that_goes_on_as_a_coroutine_keeps_its_slot_its_time_and_its_attempts(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=2)
    at_once = most = 0

    async def work(item: int) -> int:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            await asyncio.sleep(0)
            assert not is_cancelled()
            if item == 4:
                raise ValueError("no 4")
            return item
        finally:
            at_once -= 1

    async def hang(item: int) -> None:
        await asyncio.sleep(3600)

    agent.node(name="work", map_over="items", max_retries=2)(in_lambda(work))
    agent.node(name="hang", map_over="hanging", max_retries=1, timeout=0.1)(in_lambda(hang))

    outcome = agent.run_task_sync(task(), state={"items": list(range(8)), "hanging": [0]})

    assert outcome["work"] == [0, 1, 2, 3, 5, 6, 7]
    failures = {failure.item: (failure.error, failure.attempts) for failure in outcome.failures[:2]}
    assert failures == {
        4: ("ValueError: no 4", 2),
        0: ("ModuleTimeout: no result within timeout=0.1 s", 1),
    }
    assert most == 2


def test_what_is_not_awaited_is_neither_true_nor_stored(agent: Agent) -> None:
    async def yes(item: Any) -> bool:
        return False

    async def add(value: int, result: int) -> int:
        return value + result

    async def forgets(cache: Any) -> None:
        waits = twice(1)
        try:
            await cache.set("key", waits)
        finally:
            waits.close()

    async def claims(cache: Any) -> Any:
        return await cache.claim("items", where=in_lambda(yes))

    def one(item: int) -> int:
        return item

    agent.node(name="where", map_over="items", where=in_lambda(yes))(one)
    agent.node(name="reduce", map_over="items", reduce=lambda *both: add(*both))(one)
    agent.node(name="forgets")(forgets)
    agent.node(name="claims")(claims)

    outcome = agent.run_task_sync(task(), state={"items": [1, 2, 3]})

    failures = {failure.node: (failure.error, failure.attempts) for failure in outcome.failures}
    assert failures["where"][0].startswith("NonRetryableException: where returned a coroutine, which is not")
    assert failures["reduce"][0].startswith(
        "NonRetryableException: reduce returned a coroutine, which is not"
    )
    assert failures["claims"][0].startswith("NonRetryableException: where of claim() returned a coroutine")
    assert failures["forgets"][0] == (
        "UnstorableValue: cannot store 'key': a coroutine is still to be awaited; store what it gives"
    )


def test_where_and_reduce_that_are_known_to_be_async_are_refused_with_the_graph(agent: Agent) -> None:
    class Asks:
        async def __call__(self, item: Any) -> bool:
            return True

    async def add(value: int, result: int) -> int:
        return value + result

    agent.node(name="work", map_over="items", where=Asks(), reduce=functools.partial(add))(lambda item: item)

    with pytest.raises(InvalidGraph) as refused:
        agent.run_task_sync(task(), state={"items": [1]})

    assert "where is async" in str(refused.value)
    assert "reduce is async" in str(refused.value)


def test_where_and_reduce_that_yield_are_refused_and_a_generator_is_never_true(agent: Agent) -> None:
    def yields(*_: Any) -> Iterator[bool]:
        yield False

    async def yields_later(*_: Any) -> AsyncIterator[bool]:
        yield False

    def one(item: int) -> int:
        return item

    async def claims(cache: Any) -> Any:
        return await cache.claim("items", where=yields)

    agent.node(name="at_once", map_over="items", where=in_lambda(yields), max_retries=3)(one)
    agent.node(name="later", map_over="items", where=in_lambda(yields_later))(one)
    agent.node(name="claims")(claims)

    failures = agent.run_task_sync(task(), state={"items": [1, 2]}).failures

    assert {failure.node: (failure.error, failure.attempts) for failure in failures} == {
        name: (
            f"NonRetryableException: {asked} returned {kind}, which is not gone through; make it a plain function",
            1,
        )
        for name, asked, kind in [
            ("at_once", "where", "a generator"),
            ("later", "where", "an async generator"),
            ("claims", "where of claim()", "a generator"),
        ]
    }

    agent.node(name="refused", map_over="items", where=yields, reduce=yields_later)(one)
    with pytest.raises(InvalidGraph) as refused:
        agent.compile(["items"])
    assert [problem.partition(",")[0] for problem in refused.value.problems] == [
        "node 'refused': reduce yields",
        "node 'refused': where yields",
    ]


def test_wrapped_generators_are_sources(agent: Agent) -> None:
    @logged
    def numbers() -> Iterator[int]:
        yield from (1, 2, 3)

    @logged
    async def letters(numbers_of: int = 2) -> AsyncIterator[str]:
        for number in range(numbers_of):
            yield "ab"[number]

    agent.node(name="doubled", map_over=numbers)(twice)
    agent.node(name="repeated", map_over=functools.partial(letters, numbers_of=1))(twice)

    outcome = agent.run_task_sync(task())

    assert (outcome["doubled"], outcome["repeated"]) == ([2, 4, 6], ["aa"])


def test_source_whose_wrapper_gives_no_generator_is_told_so(agent: Agent) -> None:
    def listed(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper() -> Any:
            return list(function())

        return wrapper

    @listed
    def numbers() -> Iterator[int]:
        yield from (1, 2, 3)

    agent.node(name="doubled", map_over=numbers)(twice)

    failure = agent.run_task_sync(task()).failures[0]

    assert (failure.attempts, failure.error) == (
        1,
        "NonRetryableException: map_over: 'numbers' returned a list, not a generator; let it yield the items, or return "
        "a generator",
    )


def test_wrapper_that_takes_no_names_is_refused_with_the_graph(agent: Agent) -> None:
    def positional(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    @agent.node(map_over="items")
    @positional
    def work(item: int) -> int:
        return item

    with pytest.raises(InvalidGraph, match="wrapper that does not take 'item' by name"):
        agent.run_task_sync(task(), state={"items": [1]})
