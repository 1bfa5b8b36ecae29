"""F29: results that are not data. What each value does is in tests/unit/test_codec.py, what a module's results and sets do in
tests/acceptance/test_state.py; here are the ways into a run that these leave out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from graphflow import Agent, Task
from graphflow.errors import UnstorableValue
from tests.acceptance.support import agent_on, keys_of_run, task
from tests.helpers import run

RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)

UNSTORABLE = {
    "object": ({"a": [object()]}, "object"),
    "not a number": ([float("nan")], "NaN"),
    "infinity": (float("inf"), "NaN and Infinity"),
    "lone surrogate": ("\ud800", "surrogate"),
    "recursive": (RECURSIVE, "contains itself"),
    "keys that are no text": ({1: 2}, "dict key"),
    "generator": ((one for one in ()), "generator"),
}
#: Values that come back equal and of the same type.
STORABLE = [
    2**53 + 1,
    -(2**70),
    b"\x00\xff",
    datetime(2026, 1, 1, tzinfo=UTC),
    {1, 2},
    (1, (2,)),
    {"": []},
    1e308,
    None,
]


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


@pytest.mark.parametrize("name", UNSTORABLE)
def test_item_whose_result_is_no_data_fails_alone_and_at_once(agent: Agent, name: str) -> None:
    value, says = UNSTORABLE[name]

    @agent.node(map_over="numbers")
    async def work(number: int) -> Any:
        return value if number == 1 else number

    outcome = agent.run_task_sync(task(), state={"numbers": [0, 1, 2]})

    assert outcome["work"] == [0, 2]
    (failure,) = outcome.failures
    assert (failure.node, failure.item, failure.attempts) == ("work", 1, 1)
    assert says in failure.error, failure.error


@pytest.mark.parametrize("name", UNSTORABLE)
def test_task_that_is_no_data_is_refused_before_anything_is_stored(
    agent: Agent, redis_url: str, tmp_path: Path, name: str
) -> None:
    agent.node(name="nothing")(lambda: None)

    with pytest.raises(UnstorableValue, match="cannot store"):
        agent.run_task_sync(Task(type="test", params={"value": UNSTORABLE[name][0]}), run_id=tmp_path.name)

    assert keys_of_run(redis_url, tmp_path.name) == []


@pytest.mark.parametrize("name", ["object", "lone surrogate"])
def test_what_is_sent_to_a_run_has_to_be_data(agent: Agent, tmp_path: Path, name: str) -> None:
    agent.node(name="nothing")(lambda: None)
    agent.run_task_sync(task(), run_id=tmp_path.name)

    with pytest.raises(UnstorableValue):
        run(agent.signal(tmp_path.name, "go", UNSTORABLE[name][0]))
    with pytest.raises(UnstorableValue):
        run(agent.send_message(tmp_path.name, "box", UNSTORABLE[name][0]))


def test_data_comes_back_as_it_went_in_by_every_way(agent: Agent) -> None:
    @agent.node
    async def one(task: Task, given: Any, cache: Any) -> Any:
        await cache.set("kept", task.params["values"])
        assert await cache.step("asked", lambda: given, key="given") == given
        return given

    @agent.node(map_over="one")
    async def each(value: Any) -> Any:
        return value

    @agent.node
    async def last(one: Any, each: list[Any], kept: Any = None) -> Any:
        return one == each == STORABLE

    outcome = agent.run_task_sync(task(values=STORABLE), state={"given": STORABLE})

    for found in (outcome["one"], outcome["each"], outcome["kept"]):
        assert found == STORABLE
        assert [type(value) for value in found] == [type(value) for value in STORABLE]
    assert outcome["last"] is True
