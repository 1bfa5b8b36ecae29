"""Messages and who waits for them: without a slot, without a place in the line, while its time stands still."""

from __future__ import annotations

import asyncio

import pytest

from graphflow import Agent, Task
from graphflow.graph.tasks import RunStatus
from graphflow.inputs import MessagesSent
from graphflow.run import Message, message_text
from graphflow.testing import TurnedClock
from tests.unit.scene import Scene, agent, scene, turned


def receiver(timeout=None, count=1, **options) -> Agent:
    """`count` nodes that wait for a message in `box`."""
    made = agent(**options)
    for number in range(count):

        @made.node(name=f"waits{number}", timeout=20)
        async def waits(cache):
            return await cache.get_message("box", timeout=timeout)

    return made


def send(s: Scene, *values: str) -> None:
    for number, value in enumerate(values):
        message = Message("box", message_text(f"m{number}", "", value))
        s.messages.react(s.fold(MessagesSent([message])))


def test_message_that_is_there_is_taken_without_a_wait() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(receiver()) as s:
            send(s, '"hello"')

            attempt = s.start("waits0")
            await clock.settle()

            assert s.came_to(attempt).result == '"hello"'
            assert [mailbox for mailbox, _ in attempt.transaction.taken] == ["box"]

    turned(main)


def test_who_waits_has_no_slot_and_its_time_stands_still() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(receiver(max_concurrent_tasks=1)) as s:
            attempt = s.start("waits0")

            await clock.turn(1000)

            assert s.ended == []
            assert (s.slots.free, attempt.is_aside) == (1, True)
            assert (
                "waits for a message in 'box', which nothing will send" in (s.messages.stalled or ("", ""))[1]
            )

    turned(main)


def test_who_came_first_is_served_first_and_goes_on_when_it_has_a_slot() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(receiver(count=2)) as s:
            first, second = s.start("waits0"), s.start("waits1")
            await clock.settle()

            send(s, '"one"')
            await clock.settle()
            assert [*s.slots.returning] == [first]
            assert s.ended == []
            s.admission.admit()
            await clock.settle()

            assert s.came_to(first).result == '"one"'
            assert second.is_aside

    turned(main)


def test_who_waits_too_long_goes_on_without_a_message() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(receiver(timeout=7)) as s:
            attempt = s.start("waits0")
            await clock.turn(6.9)
            assert not s.slots.returning
            await clock.turn(0.2)
            assert s.messages.stalled is None
            s.admission.admit()
            await clock.settle()

            assert s.came_to(attempt).failure.type == "NoMessage"

    turned(main)


def test_message_of_who_is_stopped_as_it_comes_is_free_for_the_next() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(receiver(count=2)) as s:
            first, second = s.start("waits0"), s.start("waits1")
            await clock.settle()
            send(s, '"one"')

            s.slots.stop_node(first.node.index)
            await clock.settle()
            s.admission.admit()
            await clock.settle()

            assert s.came_to(second).result == '"one"'

    turned(main)


def test_what_a_module_run_left_behind_waits_in_vain_when_it_is_over() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(receiver()) as s:
            attempt = s.start("waits0")
            await clock.settle()

            s.messages.drop(attempt)
            await clock.settle()

            assert s.messages.stalled is None
            send(s, '"one"')
            assert s.messages.mailboxes.reserve(["box"]) is not None

    turned(main)


def test_run_in_which_nobody_will_send_fails_at_once() -> None:
    made = receiver()

    outcome = TurnedClock().run(made.run_task(Task(type="test")))

    assert outcome.status is RunStatus.FAILED
    assert "stalled: 'waits0' waits for a message in 'box'" in (outcome.error or "")


def test_two_that_ask_and_answer_each_other_come_to_their_ends() -> None:
    made = agent(max_concurrent_tasks=1)

    @made.node
    async def asks(cache):
        await cache.publish_to_mailbox("questions", 20)
        return await cache.get_message("answers")

    @made.node
    async def answers(cache):
        question = await cache.get_message("questions")
        await cache.publish_to_mailbox("answers", question + 1)
        return question

    clock = TurnedClock()
    outcome = clock.run(made.run_task(Task(type="test")))

    assert (outcome["asks"], outcome["answers"]) == (21, 20)
    assert clock.seconds < 1


@pytest.mark.parametrize("when", [0.5, 30])
def test_message_from_outside_reaches_who_waits_for_it(when: float) -> None:
    made = agent()

    @made.node
    async def waits(cache):
        return await cache.get_message("box", timeout=1000)

    async def main(clock: TurnedClock) -> None:
        running = asyncio.create_task(made.run_task(Task(type="test"), run_id="r"))
        await clock.turn(when)

        await made.send_message("r", "box", "hello")

        assert (await running)["waits"] == "hello"
        assert clock.seconds - when < made.lease_seconds / 2

    turned(main)
