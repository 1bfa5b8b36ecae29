"""What `outcome[...]` knows about the keys of a map: it has them if, and only if, the map succeeded."""

from __future__ import annotations

import pytest

from graphflow import Agent, RedisCache, Task


def _agent(url: str, *, source: list[int] | None) -> Agent:
    agent = Agent(cache=RedisCache(url))

    @agent.node(max_retries=1)
    def numbers():
        if source is None:
            raise ValueError("no source")
        return source

    @agent.node(map_over="numbers", max_retries=1, on_item_error="fail")
    def inverse(number):
        return 1 / number

    return agent


def test_map_that_succeeded_is_among_the_keys_of_the_outcome(redis_url: str) -> None:
    outcome = _agent(redis_url, source=[1, 2]).run_task_sync(Task(type="keys"))

    assert outcome.keys() == ["inverse", "numbers"]
    assert {key: outcome[key] for key in outcome} == {"inverse": [1.0, 0.5], "numbers": [1, 2]}


@pytest.mark.parametrize(
    ("source", "reason"), [(None, "inverse never ran: numbers failed"), ([1, 0], "inverse failed")]
)
def test_key_error_says_why_a_map_has_no_results(
    redis_url: str, source: list[int] | None, reason: str
) -> None:
    outcome = _agent(redis_url, source=source).run_task_sync(Task(type="keys"))

    assert "inverse" not in outcome
    assert outcome.get("inverse", "none") == "none"
    with pytest.raises(KeyError, match=reason):
        outcome["inverse"]


def test_key_error_of_a_misspelt_key_names_what_there_is(redis_url: str) -> None:
    outcome = _agent(redis_url, source=[1]).run_task_sync(Task(type="keys"))

    with pytest.raises(KeyError, match="no state key 'invers'; there are: inverse, numbers"):
        outcome["invers"]
