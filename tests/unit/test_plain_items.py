"""What the short path asks once for all items of a map, and what an item comes to on it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from graphflow import Agent
from graphflow.engine.attempt import Attempt
from graphflow.engine.maps.plain import PlainBody, plain_body
from graphflow.engine.returned import Returned
from graphflow.errors import NonRetryableException
from graphflow.planning.plan import PlanNode

#: Nothing is delegated here.
NOWHERE: Any = None


def node_of(function: Any, **config: Any) -> PlanNode:
    agent = Agent()
    agent.node(name="work", map_over="items", **config)(function)
    return agent.compile(["items"]).nodes[0]


def item_of(node: PlanNode, text: str, index: int = 7, batch: tuple[int, ...] = ()) -> Attempt:
    body = plain_body(node, NOWHERE)
    assert body is not None
    return Attempt(body, 1, index, text, batch)


def run(node: PlanNode, attempt: Attempt) -> Any:
    assert isinstance(attempt.body, PlainBody)
    return attempt.body.call.run(attempt.text, attempt.batch or attempt.index)


def test_only_what_takes_nothing_but_the_item_and_its_index_goes_the_short_path() -> None:
    async def reads_state(item: int, cache: Any) -> None: ...
    async def reads_a_key(item: int, items: list[int]) -> None: ...

    assert isinstance(plain_body(node_of(lambda item: item), NOWHERE), PlainBody)
    assert isinstance(plain_body(node_of(lambda item, index: item), NOWHERE), PlainBody)
    assert plain_body(node_of(reads_state), NOWHERE) is None
    assert plain_body(node_of(reads_a_key), NOWHERE) is None


def test_item_and_index_are_given_by_name() -> None:
    def work(word: str, *, index: int) -> str:
        return f"{index}:{word}"

    node = node_of(work)

    assert run(node, item_of(node, '"a"')) == '"7:a"'


def test_batch_is_given_as_lists_and_has_a_result_for_each() -> None:
    def work(words: list[str], index: list[int]) -> list[str]:
        return [f"{place}:{word}" for place, word in zip(index, words, strict=True)]

    node = node_of(work, batch_size=2)

    assert run(node, item_of(node, '["a","b"]', 4, (4, 6))) == Returned(results=['"4:a"', '"6:b"'])


@pytest.mark.parametrize(
    ("value", "error"), [(object(), "UnstorableValue"), ("x" * 9_000_000, "ValueTooLarge")]
)
def test_value_that_cannot_be_stored_fails_the_item_for_good(value: object, error: str) -> None:
    node = node_of(lambda item: value)

    failure = run(node, item_of(node, "1")).failure

    assert (failure.type, failure.retryable, failure.traceback) == (error, False, "")


def test_what_the_body_raises_is_the_items_failure() -> None:
    def work(item: int) -> None:
        raise NonRetryableException(f"no {item}")

    node = node_of(work)

    failure = run(node, item_of(node, "1")).failure

    assert (failure.summary, failure.retryable) == ("NonRetryableException: no 1", False)


def test_what_comes_after_its_time_is_not_looked_at() -> None:
    async def work(item: int) -> int:
        return item

    attempt = item_of(node_of(work), "1")
    attempt.is_overdue = True

    came_to = attempt.body.came_to(attempt, 1)

    assert isinstance(came_to, Returned)
    assert came_to.failure is not None
    assert came_to.failure.type == "ModuleTimeout"


def test_call_of_an_item_can_be_sent_elsewhere() -> None:
    body = plain_body(node_of(scaled), NOWHERE)
    assert body is not None

    call = pickle.loads(pickle.dumps(body.call))

    assert call.run("3", 0) == "30"


def scaled(item: int) -> int:
    return item * 10
