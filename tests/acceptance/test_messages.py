"""Module runs that talk to each other: delivered with the commit, taken with the commit, and nobody waits in a slot."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from graphflow import AgentModule, RunStatus
from tests.acceptance.support import agent_on, client, module_node, task, within


def messages_in(url: str, run_id: str, mailbox: str) -> list[Any]:
    with client(url) as connection:
        texts = connection.lrange(f"gf:run:{{{run_id}}}:mailbox:{mailbox}", 0, -1)
    return [json.loads(text)["value"] for text in texts]


def test_one_slot_is_enough_for_a_module_that_waits_for_another(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=1)

    @agent.node
    async def asks(cache):
        return await cache.get_message("answers")

    @agent.node
    async def answers(cache):
        await cache.publish_to_mailbox("answers", {"text": "here"})

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["asks"] == {"text": "here"}


def test_question_and_answer_in_one_slot(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=1)

    @agent.node
    async def client_(cache):
        await cache.publish_to_mailbox("questions", 6)
        return await cache.get_message("answers")

    @agent.node
    async def server(cache):
        await cache.publish_to_mailbox("answers", 7 * await cache.get_message("questions"))

    assert agent.run_task_sync(task())["client_"] == 42


def test_messages_leave_with_the_commit_in_their_order(redis_url: str) -> None:
    agent = agent_on(redis_url)
    seen_before_the_commit = []

    @agent.node
    async def sends(cache):
        for number in (1, 2, 3):
            await cache.publish_to_mailbox("numbers", number)
        seen_before_the_commit.append(messages_in(redis_url, "messages-in-order", "numbers"))

    @agent.node
    async def takes(cache, sends):
        return [await cache.get_message("numbers") for _ in range(3)]

    outcome = agent.run_task_sync(task(), run_id="messages-in-order")

    assert seen_before_the_commit == [[]]
    assert outcome["takes"] == [1, 2, 3]
    assert messages_in(redis_url, "messages-in-order", "numbers") == []


def test_a_module_that_fails_sends_nothing_and_gives_back_what_it_took(redis_url: str) -> None:
    agent = agent_on(redis_url)
    taken = []

    @agent.node
    async def sends(cache):
        await cache.publish_to_mailbox("in", "the message")

    @agent.node(max_retries=2)
    async def takes(cache, sends):
        taken.append(await cache.get_message("in"))
        await cache.publish_to_mailbox("out", len(taken))
        if len(taken) == 1:
            raise ValueError("after it was taken")

    outcome = agent.run_task_sync(task(), run_id="message-given-back")

    assert outcome.status is RunStatus.COMPLETE
    assert taken == ["the message"] * 2
    assert messages_in(redis_url, "message-given-back", "out") == [2]
    assert messages_in(redis_url, "message-given-back", "in") == []


def test_each_message_goes_to_one_taker(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def sends(cache):
        for number in range(20):
            await cache.publish_to_mailbox("work", number)

    @agent.node(map_over="workers", max_concurrency=5)
    async def worker(item, sends, cache):
        message = await cache.get_message("work")
        await asyncio.sleep(0)
        return message

    outcome = agent.run_task_sync(task(), state={"workers": list(range(20))})

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert sorted(outcome["worker"]) == list(range(20))


def test_items_that_wait_let_the_others_run(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=2)

    @agent.node(map_over="numbers", max_concurrency=1)
    async def chain(number, cache):
        previous = await cache.get_message(f"to {number}") if number < 4 else 0
        await cache.publish_to_mailbox(f"to {number - 1}", previous + 1)
        return previous

    outcome = agent.run_task_sync(task(), state={"numbers": [0, 1, 2, 3, 4]})

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["chain"] == [4, 3, 2, 1, 0]


def test_patience_that_ends_is_a_timeout_error(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def waits(cache):
        try:
            await cache.get_message("nothing", timeout=0.05)
        except TimeoutError as error:
            return str(error)

    assert agent.run_task_sync(task())["waits"] == "no message in 'nothing' within timeout=0.05 s"


def test_waiting_does_not_use_up_the_timeout_of_the_module(redis_url: str) -> None:
    agent = agent_on(redis_url)

    class Waits(AgentModule):
        config = within(0.2)

        async def process(self, cache, semaphore):
            return await cache.get_message("late")

    class Sends(AgentModule):
        async def process(self, cache, semaphore):
            await asyncio.sleep(0.4)
            await cache.publish_to_mailbox("late", "at last")

    agent.add_node(module_node("waits", Waits(), max_retries=1))
    agent.add_node(module_node("sends", Sends()))

    outcome = agent.run_task_sync(task())

    assert outcome.node_results["waits"].result == "at last", outcome.error


def test_after_the_wait_the_timeout_goes_on(redis_url: str) -> None:
    agent = agent_on(redis_url)

    class Waits(AgentModule):
        config = within(0.1)

        async def process(self, cache, semaphore):
            await cache.get_message("early")
            await asyncio.sleep(30)

    agent.add_node(module_node("waits", Waits(), max_retries=1))

    @agent.node
    async def sends(cache):
        await cache.publish_to_mailbox("early", 1)

    outcome = agent.run_task_sync(task())

    assert "ModuleTimeout" in outcome.failures[0].error


def test_a_wait_that_the_module_itself_breaks_off_leaves_the_slots_as_they_were(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=1)
    running: list[int] = []
    most: list[int] = []

    @agent.node
    async def impatient(cache):
        for _ in range(3):
            try:
                async with asyncio.timeout(0.01):
                    await cache.get_message("nothing")
            except TimeoutError:
                pass
        return "went on"

    @agent.node(map_over="numbers")
    async def work(number):
        running.append(number)
        most.append(len(running))
        await asyncio.sleep(0.001)
        running.remove(number)

    outcome = agent.run_task_sync(task(), state={"numbers": list(range(30))})

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["impatient"] == "went on"
    assert max(most) == 1


def test_a_run_in_which_all_wait_for_messages_fails_and_names_them(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def waits(cache):
        await cache.get_message("nobody writes here")

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert "stalled: 'waits' waits for a message in 'nobody writes here'" in outcome.error


def test_a_retry_under_way_is_no_stall(redis_url: str) -> None:
    agent = agent_on(redis_url)
    attempts = []

    @agent.node
    async def waits(cache):
        return await cache.get_message("later")

    @agent.node(max_retries=3)
    async def sends(cache):
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("not yet")
        await cache.publish_to_mailbox("later", "now")

    assert agent.run_task_sync(task())["waits"] == "now"


def test_results_go_to_the_output_mailbox_and_are_read_by_who_declares_it(redis_url: str) -> None:
    agent = agent_on(redis_url)

    class Writer(AgentModule):
        output_mailbox = "pages"

        async def process(self, cache, semaphore):
            return {"status": "success", "result": "a page"}

    class Reader(AgentModule):
        input_mailboxes = ["other", "pages"]

        async def process(self, cache, semaphore):
            return await cache.get_message()

    agent.add_node(module_node("reader", Reader()))
    agent.add_node(module_node("writer", Writer()))

    assert agent.run_task_sync(task()).node_results["reader"].result == "a page"


def test_what_fails_for_good_goes_to_the_error_mailbox(redis_url: str) -> None:
    agent = agent_on(redis_url, error_mailbox="errors of the run")

    @agent.node(map_over="numbers", max_retries=1)
    def odd(number):
        if number == 2:
            raise ValueError("two")

    @agent.node(max_retries=2)
    def fails(task):
        raise LookupError("in vain")

    agent.run_task_sync(task(), state={"numbers": [1, 2]}, run_id="errors-in-a-mailbox")

    found = messages_in(redis_url, "errors-in-a-mailbox", "errors of the run")
    assert sorted(found, key=str) == sorted(
        [
            {"node": "odd", "item": 1, "error": "ValueError: two", "attempts": 1},
            {"node": "fails", "item": None, "error": "LookupError: in vain", "attempts": 2},
        ],
        key=str,
    )


def test_a_message_from_outside_reaches_who_waits(redis_url: str) -> None:
    agent = agent_on(redis_url, lease_seconds=0.3)

    @agent.node
    async def waits(cache):
        return await cache.get_message("outside", timeout=20)

    async def main() -> Any:
        running = asyncio.create_task(agent.run_task(task(), run_id="message-from-outside"))
        while True:
            with client(redis_url) as connection:
                if connection.hget("gf:run:{message-from-outside}:nodes", "waits") == "running":
                    break
            await asyncio.sleep(0.01)
        await agent.send_message("message-from-outside", "outside", {"hello": 1})
        return await running

    assert asyncio.run(main())["waits"] == {"hello": 1}


def test_what_left_before_the_wait_does_not_leave_again_after_a_retry(redis_url: str) -> None:
    agent = agent_on(redis_url)
    runs = []

    @agent.node(max_retries=2)
    async def asks(cache):
        await cache.publish_to_mailbox("questions", "why")
        answer = await cache.get_message("answers")
        runs.append(answer)
        if len(runs) == 1:
            raise ValueError("once more")
        return answer

    @agent.node
    async def answers(cache):
        await cache.publish_to_mailbox("answers", f"because of {await cache.get_message('questions')}")

    outcome = agent.run_task_sync(task(), run_id="question-asked-once")

    assert outcome["asks"] == "because of why"
    assert runs == ["because of why"] * 2
    assert messages_in(redis_url, "question-asked-once", "questions") == []


def test_a_conflict_over_what_was_read_before_the_wait_repeats_the_module_run(redis_url: str) -> None:
    agent = agent_on(redis_url)
    seen = []

    @agent.node
    async def waits(cache):
        before = await cache.get("number")
        message = await cache.get_message("go")
        seen.append((before, message))
        return before

    @agent.node
    async def changes(cache):
        await cache.set("number", 2)
        await cache.publish_to_mailbox("go", "go on")

    outcome = agent.run_task_sync(task(), state={"number": 1})

    assert outcome["waits"] == 2
    assert seen == [(2, "go on")]


@pytest.mark.parametrize("name", ["", "with {braces}", 7])
def test_a_mailbox_has_a_name_that_can_be_a_key(redis_url: str, name: Any) -> None:
    agent = agent_on(redis_url)

    @agent.node(max_retries=1)
    async def sends(cache):
        await cache.publish_to_mailbox(name, 1)

    assert "cannot be a mailbox" in agent.run_task_sync(task()).failures[0].error
