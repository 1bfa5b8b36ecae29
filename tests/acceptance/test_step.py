"""What a step came to is remembered at once, whatever becomes of the module run that called it."""

from __future__ import annotations

import asyncio
import functools
from hashlib import sha256
from typing import Any

import pytest

from graphflow import AgentModule, RunStatus
from tests.acceptance.support import agent_on, client, keys_of_run, module_node, task, within
from tests.helpers import SOON_SECONDS

calls: list[Any] = []


@pytest.fixture(autouse=True)
def forget_calls() -> None:
    calls.clear()


async def ask(question: str) -> str:
    calls.append(question)
    return f"answer to {question}"


def ask_in_thread(question: str) -> str:
    calls.append(question)
    return f"answer to {question}"


@pytest.mark.parametrize("function", [ask, ask_in_thread])
def test_a_retry_does_not_call_a_step_again(redis_url: str, function: Any) -> None:
    agent = agent_on(redis_url)
    attempts = []

    @agent.node(max_retries=2)
    async def think(cache):
        answer = await cache.step("ask", function, "why")
        attempts.append(answer)
        if len(attempts) == 1:
            raise ValueError("after the answer")
        return answer

    outcome = agent.run_task_sync(task())

    assert outcome["think"] == "answer to why"
    assert attempts == ["answer to why"] * 2
    assert calls == ["why"]


def test_other_arguments_are_another_call(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def think(cache):
        return [await cache.step("ask", ask, question) for question in ("why", "how", "why")]

    outcome = agent.run_task_sync(task())

    assert outcome["think"] == ["answer to why", "answer to how", "answer to why"]
    assert calls == ["why", "how", "why"], "the second equal call of one module run is a call of its own"


def test_after_a_conflict_with_other_arguments_no_answer_goes_to_the_wrong_subtask(redis_url: str) -> None:
    agent = agent_on(redis_url)
    both_read = asyncio.Barrier(2)
    runs = {"first": 0, "second": 0}

    def taker(name: str) -> AgentModule:
        class Taker(AgentModule):
            async def process(self, cache, semaphore):
                subtasks = await cache.get("subtasks")
                runs[name] += 1
                pending = next(subtask for subtask in subtasks if subtask["answer"] is None)
                pending["answer"] = await cache.step("ask", ask, pending["question"])
                if runs[name] == 1:
                    await both_read.wait()
                await cache.set("subtasks", subtasks)

        return Taker(name=name)

    for name in runs:
        agent.add_node(module_node(name, taker(name)))
    subtasks = [{"question": question, "answer": None} for question in ("a", "b")]

    outcome = agent.run_task_sync(task(), state={"subtasks": subtasks})

    assert [subtask["answer"] for subtask in outcome["subtasks"]] == ["answer to a", "answer to b"]
    assert sorted(runs.values()) == [1, 2], "one of the two lost"
    assert calls == ["a", "a", "b"], "each asked for the first subtask, the one that lost then for the second"


def test_a_conflict_with_the_same_arguments_does_not_call_again(redis_url: str) -> None:
    agent = agent_on(redis_url)
    runs = []
    begun, written = asyncio.Event(), asyncio.Event()

    @agent.node
    async def reader(cache):
        await cache.get("number")
        runs.append(await cache.step("ask", ask, "why"))
        begun.set()
        await written.wait()
        return await cache.get("number")

    @agent.node
    async def writer(cache):
        await begun.wait()
        await cache.set("number", 2)

    @agent.node
    def after(writer):
        written.set()

    outcome = agent.run_task_sync(task(), state={"number": 1})

    assert outcome["reader"] == 2
    assert runs == ["answer to why"] * 2
    assert calls == ["why"]


def test_equal_steps_of_two_items_are_two_calls(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(map_over="numbers")
    async def think(number, cache):
        return await cache.step("ask", ask, "the same")

    outcome = agent.run_task_sync(task(), state={"numbers": [1, 2, 3]})

    assert outcome["think"] == ["answer to the same"] * 3
    assert len(calls) == 3


def test_an_item_that_is_tried_again_does_not_call_again(redis_url: str) -> None:
    agent = agent_on(redis_url)
    failed = []

    @agent.node(map_over="numbers", max_retries=2)
    async def think(number, cache):
        answer = await cache.step("ask", ask, f"item {number}")
        if number not in failed:
            failed.append(number)
            raise ValueError("once for each")
        return answer

    outcome = agent.run_task_sync(task(), state={"numbers": [1, 2, 3]})

    assert outcome["think"] == ["answer to item 1", "answer to item 2", "answer to item 3"]
    assert sorted(calls) == ["item 1", "item 2", "item 3"]


def test_another_visit_calls_again(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def think(cache):
        await cache.increment("rounds")
        return await cache.step("ask", ask, "why")

    @agent.decide(after="think", to=["think"])
    async def again(cache):
        return "think" if await cache.get("rounds") < 3 else None

    agent.run_task_sync(task(), state={"rounds": 0})

    assert calls == ["why"] * 3


def test_the_commit_of_the_visit_forgets_its_steps(redis_url: str) -> None:
    agent = agent_on(redis_url)
    stored: list[int] = []

    def stored_steps(run_id: str) -> int:
        with client(redis_url) as connection:
            return connection.hlen(f"gf:run:{{{run_id}}}:steps")

    @agent.node
    async def think(cache):
        await cache.step("ask", ask, "why")
        stored.append(stored_steps("steps-forgotten"))

    @agent.node(map_over="numbers")
    async def items(number, think, cache):
        stored.append(stored_steps("steps-forgotten"))
        await cache.step("ask", ask, number)

    @agent.node
    def after(items):
        stored.append(stored_steps("steps-forgotten"))

    outcome = agent.run_task_sync(task(), state={"numbers": [1]}, run_id="steps-forgotten")

    assert outcome.status is RunStatus.COMPLETE
    assert stored == [1, 0, 0]
    assert not [key for key in keys_of_run(redis_url, "steps-forgotten") if key.endswith(":steps")]


def test_a_node_that_failed_for_good_keeps_its_steps_for_who_tries_it_again(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(max_retries=1)
    async def think(cache):
        await cache.step("ask", ask, "why")
        raise ValueError("in vain")

    @agent.node(run_when="settled", dependencies=["think"])
    def after():
        with client(redis_url) as connection:
            return connection.hlen("gf:run:{steps-of-a-failure}:steps")

    outcome = agent.run_task_sync(task(), run_id="steps-of-a-failure")

    assert outcome["after"] == 1


def test_a_function_that_uses_variables_around_it_needs_a_key(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(max_retries=1)
    async def without(cache):
        question = "why"
        return await cache.step("ask", lambda: ask_in_thread(question))

    @agent.node
    async def with_key(cache):
        return [
            await cache.step("ask", lambda: ask_in_thread(question), key=question)  # noqa: B023
            for question in ("why", "how")
        ]

    outcome = agent.run_task_sync(task())

    assert "pass them as arguments, or pass key=" in outcome.failures[0].error
    assert outcome["with_key"] == ["answer to why", "answer to how"]


def test_the_arguments_of_a_partial_count(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def think(cache):
        return [await cache.step("ask", functools.partial(ask, question)) for question in ("why", "how")]

    assert agent.run_task_sync(task())["think"] == ["answer to why", "answer to how"]


def test_a_result_that_cannot_be_stored_names_the_step(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(max_retries=1)
    async def think(cache):
        await cache.step("make", object)

    outcome = agent.run_task_sync(task())

    assert "cannot store 'step make'" in outcome.failures[0].error


def test_a_step_that_raises_is_called_again(redis_url: str) -> None:
    agent = agent_on(redis_url)

    async def fails_once() -> str:
        calls.append("call")
        if len(calls) == 1:
            raise ConnectionError("try again")
        return "fine"

    @agent.node
    async def think(cache):
        return await cache.step("ask", fails_once, key="")

    assert agent.run_task_sync(task())["think"] == "fine"
    assert len(calls) == 2


def test_a_lease_that_is_lost_during_a_step_is_not_the_failure_of_the_module(redis_url: str) -> None:
    agent = agent_on(redis_url)

    async def ask_and_lose_the_lease(question: str) -> str:
        if not calls:
            with client(redis_url) as connection:
                connection.delete("gf:run:{lease-lost-in-a-step}:lease")
        return await ask(question)

    @agent.node(max_retries=1)
    async def think(cache):
        return await cache.step("ask", ask_and_lose_the_lease, "why", key="why")

    outcome = agent.run_task_sync(task(), run_id="lease-lost-in-a-step")

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome.node_results["think"].attempts == 1
    assert outcome["think"] == "answer to why"
    assert outcome.seconds < SOON_SECONDS, "nobody waits for what cannot be stored"


def test_a_step_of_a_module_run_that_ran_out_of_time_is_remembered(redis_url: str) -> None:
    agent = agent_on(redis_url)
    runs = []

    class Slow(AgentModule):
        config = within(0.2)

        async def process(self, cache, semaphore):
            answer = await cache.step("ask", ask, "why")
            runs.append(answer)
            if len(runs) == 1:
                await asyncio.sleep(30)
            return answer

    agent.add_node(module_node("slow", Slow()))

    outcome = agent.run_task_sync(task())

    assert outcome.result == "answer to why"
    assert len(runs) == 2
    assert calls == ["why"]


# Digests of earlier versions


def earlier_digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:32]


@pytest.mark.parametrize("exponent", ["1e16", "1e+16"])
def test_a_step_of_a_run_that_was_suspended_before_an_upgrade_is_not_paid_again(
    redis_url: str, exponent: str
) -> None:
    agent = agent_on(redis_url)
    run_id = f"before-{len(exponent)}"

    class Asker:
        def ask(self, *args: Any) -> str:
            calls.append(args)
            return f"answer {len(calls)}"

    @agent.node
    async def think(cache):
        answers = [await cache.step("ask", Asker().ask, {"b": 1e16, "a": 1}) for _ in range(2)]
        answers.append(await cache.step("ask", Asker().ask, "other", key=(1e16,)))
        await cache.publish_to_mailbox("box", {"b": 1e16, "a": 1})
        answers.append(await cache.get_message("box"))
        await cache.wait_for_signal("go")
        return answers

    first = agent.run_task_sync(task(), run_id=run_id)
    assert first.status is RunStatus.SUSPENDED, first.error
    (steps,) = [key for key in keys_of_run(redis_url, run_id) if key.endswith(":steps")]
    new = sha256(b'{"arguments":[{"a":1,"b":1e+16}],"self":[]}').hexdigest()[:32]
    keyed = sha256(b'{"key":{"$type":"tuple","value":[1e+16]}}').hexdigest()[:32]
    sent = sha256(b'{"mailbox":"box","value":{"a":1,"b":1e+16}}').hexdigest()[:32]
    old = earlier_digest(f'arguments [{{"b":{exponent},"a":1}}]')
    renamed = {
        f"step:2:{new}": f"step:{old}",
        f"step:2:{keyed}": "step:" + earlier_digest(f'key {{"$type":"tuple","value":[{exponent}]}}'),
        f"sent:0:2:{sent}": "sent:0:" + earlier_digest(f'box\n{{"b":{exponent},"a":1}}'),
    }
    with client(redis_url) as redis:
        fields = redis.hgetall(steps)
        for place in renamed:
            assert any(place in field for field in fields), (place, fields)
        for field, text in fields.items():
            for place, digest in renamed.items():
                if place in field:
                    redis.hdel(steps, field)
                    redis.hset(steps, field.replace(place, digest), text)

    async def answered() -> Any:
        await agent.signal(run_id, "go", 1)
        return await agent.resume(run_id)

    outcome = asyncio.run(answered())

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["think"][:3] == ["answer 1", "answer 2", "answer 3"]
    assert len(calls) == 3


def test_arguments_in_another_order_are_the_same_call(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(max_retries=2)
    async def think(cache):
        options = {"a": 1, "b": 2} if not calls else {"b": 2, "a": 1}
        answer = await cache.step("ask", ask, options)
        if len(calls) == 1 and options == {"a": 1, "b": 2} and list(options) == ["a", "b"]:
            raise ValueError("after the answer")
        return answer

    assert agent.run_task_sync(task()).status is RunStatus.COMPLETE
    assert len(calls) == 1
