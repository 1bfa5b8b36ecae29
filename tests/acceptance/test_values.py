"""Values come out of a run as they went into it, wherever they pass: params, state, results, items, steps, messages."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, PrivateAttr, field_validator

from graphflow import RunStatus, register_type
from graphflow.errors import TaskMismatch
from tests.acceptance.support import agent_on, client, keys_of_run, task


@register_type(name="values.Size")
class Size(StrEnum):
    SMALL = "small"


@register_type(name="values.Part")
class Part(BaseModel):
    cents: int
    note: str = ""

    @field_validator("cents")
    @classmethod
    def in_cents(cls, value: int) -> int:
        return value * 100


@register_type(name="values.Order")
class Order(BaseModel):
    parts: list[Part]
    price: Decimal = Decimal("12345678901234567890.12")
    size: Size = Size.SMALL
    _seen: int = PrivateAttr(default=0)


@register_type(name="values.Mark")
@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    at: datetime
    factor: dataclasses.InitVar[int] = 2


def an_order() -> Order:
    order = Order(parts=[Part(cents=3)])
    order.parts[0].note = 7  # type: ignore[assignment]  # nothing validates an assignment
    order._seen = 5
    return order


WHEN = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))


def assert_is_the_order(order: Any) -> None:
    assert type(order) is Order
    assert order == an_order()
    assert (order.parts[0].cents, order.parts[0].note, order._seen) == (300, 7, 5)
    assert order.model_fields_set == {"parts"}
    assert order.parts[0].model_fields_set == {"cents", "note"}


def test_a_model_and_a_dataclass_pass_through_a_run_as_they_are(any_redis_url: str) -> None:
    agent = agent_on(any_redis_url)
    mark = Mark(WHEN)

    async def same(order: Order) -> Order:
        return order

    @agent.node
    async def first(task, cache):
        await cache.set("order", task.params["order"])
        return [await cache.get("order"), mark]

    @agent.node(map_over="first")
    def each(item):
        return item

    @agent.node
    async def last(each, cache):
        order = await cache.step("same", same, each[0])
        await cache.publish_to_mailbox("box", order)
        order = await cache.get_message("box")
        await cache.append("orders", order)
        return {"order": (await cache.get("orders"))[0], "mark": each[1]}

    outcome = agent.run_task_sync(task(order=an_order()), run_id="values")
    again = agent.run_task_sync(task(order=an_order()), run_id="values")

    for result in (outcome, again):
        assert result.status is RunStatus.COMPLETE, result.error
        assert_is_the_order(result["last"]["order"])
        back = result["last"]["mark"]
        assert (back, back.at.fold, back.at.tzinfo) == (mark, 1, WHEN.tzinfo)


def test_params_in_another_order_are_the_same_task(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    def look(task):
        return task.params["a"]

    first = agent.run_task_sync(task(a={"x": 1e16, "y": [1]}, b=an_order()), run_id="params-order")
    again = agent.run_task_sync(task(b=an_order(), a={"y": [1], "x": 1e16}), run_id="params-order")

    assert first.result == again.result == {"x": 1e16, "y": [1]}
    with pytest.raises(TaskMismatch, match="params differ"):
        agent.run_task_sync(task(a={"x": 1e16, "y": (1,)}, b=an_order()), run_id="params-order")


def test_a_task_that_an_earlier_version_stored_is_the_same_one(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def wait(cache):
        return await cache.wait_for_signal("go")

    agent.run_task_sync(task(part=Part(cents=1), n=1e16), run_id="earlier-task")
    with client(redis_url) as redis:
        (key,) = [
            key for key in keys_of_run(redis_url, "earlier-task") if key.endswith("{earlier-task}:task")
        ]
        text = redis.hget(key, "params")
        assert isinstance(text, str)
        earlier = text.replace(',"$unset":["note"]', "").replace("1e+16", "1e16")
        assert earlier != text
        redis.hset(key, "params", earlier)

    assert (
        agent.run_task_sync(task(part=Part(cents=1), n=1e16), run_id="earlier-task").status
        is RunStatus.SUSPENDED
    )


def test_a_value_that_would_not_come_back_is_refused_at_the_set_by_key_and_type(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def store(cache):
        await cache.set("place", {"at": [Path("/a")]})

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert outcome.failures[0].node == "store"
    assert "cannot store 'place' at ['at'][0]" in str(outcome.failures[0])
    assert "Path would not come back as one; store str(value)" in str(outcome.failures[0])


def test_the_longest_time_is_kept(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def store(cache):
        await cache.set("longest", timedelta.max)
        return await cache.get("longest")

    assert agent.run_task_sync(task()).result == timedelta.max


@pytest.mark.parametrize("stored", ["1e16", "1e+16"])
def test_a_set_to_an_equal_value_after_an_upgrade_is_no_change(redis_url: str, stored: str) -> None:
    agent = agent_on(redis_url)
    run_id = f"equal-{len(stored)}"

    @agent.node
    async def store(cache):
        await cache.set("limit", 1e16)

    @agent.node
    async def again(store, cache):
        await cache.wait_for_signal("go")
        await cache.set("limit", 1e16)

    def limit() -> tuple[Any, Any]:
        with client(redis_url) as redis:
            keys = {key.rpartition(":")[2]: key for key in keys_of_run(redis_url, run_id)}
            return redis.hget(keys["state"], "limit"), redis.hget(keys["revisions"], "limit")

    assert agent.run_task_sync(task(), run_id=run_id).status is RunStatus.SUSPENDED
    before = limit()
    with client(redis_url) as redis:
        (key,) = [key for key in keys_of_run(redis_url, run_id) if key.endswith(":state")]
        redis.hset(key, "limit", stored)

    async def go_on() -> Any:
        await agent.signal(run_id, "go", 1)
        return await agent.resume(run_id)

    assert asyncio.run(go_on()).status is RunStatus.COMPLETE
    assert limit() == (stored, before[1])
