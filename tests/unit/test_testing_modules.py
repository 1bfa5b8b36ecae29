"""A module alone, with what it reads, and what it leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from graphflow import AgentModule, AnswerRefused, NoSignal, Task
from graphflow.errors import (
    MissingKey,
    NoMessage,
    StateError,
    TransactionClosed,
    UnstorableValue,
    WaitsInVain,
)
from graphflow.testing import module_cache

SEMAPHORE: Any = None


class Approval(BaseModel):
    yes: bool


class Order(AgentModule):
    async def process(self, cache, semaphore):
        receipt = await cache.step("charge", lambda amount: f"receipt {amount}", await cache.get("amount"))
        await cache.append("log", receipt)
        await cache.publish_to_mailbox("receipts", {"text": receipt})
        approval = await cache.wait_for_signal("approve", schema=Approval)
        await cache.set("approved", approval.yes)
        return {"status": "success", "result": receipt}


def test_what_a_module_writes_is_in_the_state_afterwards() -> None:
    async def main() -> None:
        async with module_cache(state={"amount": 7}, signals={"approve": {"yes": True}}) as cache:
            returned = await Order().process(cache, SEMAPHORE)
            assert cache.state["approved"] is True

        assert returned == {"status": "success", "result": "receipt 7"}
        assert cache.state == {"amount": 7, "log": ["receipt 7"], "approved": True}
        assert cache.sent == [("receipts", {"text": "receipt 7"})]
        assert cache.steps == [("charge", "receipt 7")]
        assert cache.awaited_signal is None

    asyncio.run(main())


def test_step_that_is_remembered_is_not_called() -> None:
    async def main() -> None:
        async with module_cache(
            state={"amount": 7}, steps={"charge": "an old receipt"}, signals={"approve": {"yes": False}}
        ) as cache:
            await Order().process(cache, SEMAPHORE)

        assert cache.state["log"] == ["an old receipt"]
        assert cache.steps == []

    asyncio.run(main())


def test_signal_that_is_not_there_ends_the_module_run_without_a_commit() -> None:
    async def main() -> None:
        async with module_cache(state={"amount": 7}) as cache:
            await Order().process(cache, SEMAPHORE)
            raise AssertionError("it does not go on")

        assert cache.awaited_signal == "approve"
        assert (cache.state, cache.sent) == ({"amount": 7}, [])
        assert cache.steps == [("charge", "receipt 7")], "a step is remembered whatever becomes of the run"

    asyncio.run(main())


def test_answer_that_is_refused_ends_the_module_run_and_says_why() -> None:
    async def main() -> None:
        async with module_cache(state={"a": 1}, signals={"approve": "Bob"}) as cache:
            await cache.set("a", 2)
            raise AnswerRefused(f"not {await cache.wait_for_signal('approve')}")

        assert (cache.awaited_signal, cache.refused) == ("approve", "not Bob")
        assert cache.state == {"a": 1}

    asyncio.run(main())


def test_signal_that_is_overdue_raises() -> None:
    async def main() -> None:
        async with module_cache(overdue=["approve"]) as cache:
            with pytest.raises(NoSignal, match="'approve' within timeout=5 s"):
                await cache.wait_for_signal("approve", timeout=5)

        assert cache.awaited_signal is None

    asyncio.run(main())


def test_module_that_raises_leaves_the_state_as_it_was() -> None:
    async def main() -> None:
        caches = []

        async def fails() -> None:
            async with module_cache(state={"a": 1}) as cache:
                caches.append(cache)
                await cache.set("a", 2)
                await cache.publish_to_mailbox("box", 1)
                await cache.get("b")

        with pytest.raises(MissingKey):
            await fails()

        assert (caches[0].state, caches[0].sent) == ({"a": 1}, [])

    asyncio.run(main())


def test_deleted_key_is_gone() -> None:
    async def main() -> None:
        async with module_cache(state={"a": 1, "b": 2}) as cache:
            await cache.delete("a")
            await cache.set("c", 3, immediate=True)

        assert cache.state == {"b": 2, "c": 3}

    asyncio.run(main())


@pytest.mark.parametrize("boxes", [["in"], "in"])
def test_messages_are_taken_the_oldest_first_and_from_the_boxes_of_the_module(boxes: str | list[str]) -> None:
    async def main() -> None:
        async with module_cache(messages={"in": [1, 2]}, input_mailboxes=boxes) as cache:
            assert await cache.get_message() == 1
            assert await cache.get_message("in") == 2
            with pytest.raises(NoMessage):
                await cache.get_message("in", timeout=3600)
            with pytest.raises(WaitsInVain, match="a message in 'in', which nobody sends"):
                await cache.get_message("in")

    asyncio.run(main())


def test_task_results_and_item_are_those_that_are_given() -> None:
    async def main() -> None:
        task = Task(type="numbers", params={"n": 1})
        async with module_cache(task=task, results={"double": [2, 4]}, item={"x": 1}, index=5) as cache:
            assert (await cache.get("task")).params == {"n": 1}
            assert [pair async for pair in cache.results("double")] == [(0, 2), (1, 4)]
            assert (cache.item, cache.index) == ({"x": 1}, 5)

        async with module_cache() as cache:
            with pytest.raises(StateError, match="node with map_over"):
                _ = cache.item
            with pytest.raises(StateError, match="map_over"):
                [pair async for pair in cache.results("double")]

    asyncio.run(main())


def test_cache_is_closed_when_the_block_has_ended() -> None:
    async def main() -> None:
        async with module_cache() as cache:
            pass

        with pytest.raises(TransactionClosed):
            await cache.get("a", None)

    asyncio.run(main())


def test_message_that_was_sent_before_a_wait_has_left_whatever_comes_after() -> None:
    async def main() -> None:
        async with module_cache() as cache:
            await cache.publish_to_mailbox("questions", "how much?")
            with pytest.raises(WaitsInVain):
                await cache.get_message("answers")
            await cache.publish_to_mailbox("questions", "how many?")

            assert cache.sent == [("questions", "how much?"), ("questions", "how many?")]
            assert len(cache.outgoing) == 1

        assert cache.sent[:1] == [("questions", "how much?")]

    asyncio.run(main())


def test_claimed_item_is_changed() -> None:
    async def main() -> None:
        async with module_cache(state={"todo": [{"n": 1, "done": False}, {"n": 2, "done": False}]}) as cache:
            claimed = await cache.claim("todo", where={"n": 2})
            claimed.set(done=True)

        assert cache.state["todo"] == [{"n": 1, "done": False}, {"n": 2, "done": True}]

    asyncio.run(main())


def test_value_that_cannot_be_stored_is_refused_before_the_block() -> None:
    async def main() -> None:
        with pytest.raises(UnstorableValue):
            async with module_cache(state={"a": object()}):
                raise AssertionError("it does not begin")

    asyncio.run(main())
