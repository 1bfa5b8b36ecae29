"""Failures: what of an exception is kept, and what it says about another attempt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graphflow import Agent, NonRetryableException, RunStatus, StoreUnreachable
from tests.acceptance.support import agent_on, task


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


class Declined(NonRetryableException):
    """A card is not going to be accepted the second time."""


async def decline() -> None:
    raise Declined("card 4 is stolen")


def test_group_is_not_tried_again_if_a_member_says_so_and_tells_what_that_said(agent: Agent) -> None:
    calls = 0

    @agent.node
    async def pay() -> None:
        nonlocal calls
        calls += 1
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(3600))
            group.create_task(decline())

    outcome = agent.run_task_sync(task())

    assert calls == 1
    assert outcome.failures[0].error == (
        "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception), first Declined: card 4 is stolen"
    )
    assert "card 4 is stolen" in (outcome.error or "")
    cause = outcome.failures[0].causes[0]
    assert (cause.relation, cause.type, cause.message, cause.depth) == (
        "member",
        "Declined",
        "card 4 is stolen",
        1,
    )
    assert "in decline" in cause.traceback


def test_group_whose_members_may_all_succeed_another_time_is_tried_again(agent: Agent) -> None:
    calls = 0

    @agent.node
    async def pay() -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ExceptionGroup("two", [OSError("lost"), ExceptionGroup("one", [TimeoutError("late")])])
        return "paid"

    assert agent.run_task_sync(task())["pay"] == "paid"


def raised_from() -> None:
    try:
        raise Declined("card 4 is stolen")
    except Declined as declined:
        raise RuntimeError("the order is not paid") from declined


def raised_while_handling() -> None:
    try:
        raise Declined("card 4 is stolen")
    except Declined:
        raise RuntimeError("the other shop is closed")  # noqa: B904 - that is what it is about


def raised_from_none() -> None:
    try:
        raise Declined("card 4 is stolen")
    except Declined:
        raise RuntimeError("try again") from None


@pytest.mark.parametrize(
    ("body", "attempts", "behind"),
    [
        (raised_from, 1, [("cause", "Declined", "card 4 is stolen")]),
        (raised_while_handling, 3, [("context", "Declined", "card 4 is stolen")]),
        (raised_from_none, 3, []),
    ],
)
def test_what_an_exception_was_raised_from_counts_and_what_was_being_handled_does_not(
    agent: Agent, body: Any, attempts: int, behind: list[tuple[str, str, str]]
) -> None:
    agent.node(name="pay")(body)

    failure = agent.run_task_sync(task()).failures[0]

    assert failure.attempts == attempts
    assert [(cause.relation, cause.type, cause.message) for cause in failure.causes] == behind


def test_notes_are_part_of_what_an_exception_says(agent: Agent) -> None:
    @agent.node(max_retries=1)
    def read() -> None:
        error = ValueError("no number")
        error.add_note("in line 7 of numbers.txt")
        raise error

    assert agent.run_task_sync(task()).failures[0].error == "ValueError: no number\nin line 7 of numbers.txt"


def test_handler_and_error_mailbox_are_told_what_is_behind_a_failure(redis_url: str) -> None:
    agent = agent_on(redis_url, error_mailbox="failures")

    @agent.node(on_error="handler")
    def pay() -> None:
        raised_from()

    @agent.node(inputs=["errors"])
    async def handler(errors: list[dict[str, Any]], cache: Any) -> list[Any]:
        message = await cache.get_message("failures")
        return [errors[0]["causes"], message["value"]["causes"] if "value" in message else message["causes"]]

    outcome = agent.run_task_sync(task())

    told = {"relation": "cause", "type": "Declined", "message": "card 4 is stolen", "depth": 1}
    assert outcome["handler"] == [[told], [told]]


def test_item_that_fails_a_map_at_once_tells_what_is_behind_it(agent: Agent) -> None:
    @agent.node(map_over="cards", on_item_error="fail")
    def pay(card: int) -> None:
        raised_from()

    failure = agent.run_task_sync(task(), state={"cards": [4]}).failures[-1]

    assert failure.item is None
    assert [cause.summary for cause in failure.causes] == ["Declined: card 4 is stolen"]


def test_what_is_kept_of_a_failure_is_bounded_and_a_chain_in_a_circle_ends(agent: Agent) -> None:
    @agent.node(max_retries=1)
    def chain() -> None:
        first = error = ValueError("x" * 100_000)
        for number in range(1_000):
            error.__cause__ = ValueError(f"{number}" + "y" * 100_000)
            error = error.__cause__
        error.__cause__ = first
        raise first

    @agent.node(max_retries=1)
    def group() -> None:
        members = [ValueError(f"member {number}") for number in range(1_000)]
        raise ExceptionGroup("many", [*members, NonRetryableException("the last one")])

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    chained, grouped = outcome.failures
    assert len(chained.causes) == 16
    assert sum(len(cause.message) + len(cause.traceback) for cause in chained.causes) < 50_000
    assert len(grouped.causes) == 8


class Unprintable(Exception):
    __notes__ = 5  # type: ignore[assignment]

    def __str__(self) -> str:
        raise SystemExit


def test_what_is_behind_a_failure_and_cannot_be_shown_is_kept_all_the_same(agent: Agent) -> None:
    @agent.node(max_retries=1)
    def hides() -> None:
        raise ValueError("shown") from Unprintable()

    failure = agent.run_task_sync(task()).failures[0]

    assert failure.causes[0].summary == "Unprintable: (its message cannot be shown: SystemExit)"


def test_module_that_makes_another_error_of_its_cancellation_has_run_out_of_time(agent: Agent) -> None:
    async def client() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise OSError("the connection was closed") from None

    @agent.node(max_retries=1, timeout=0.1)
    async def fetch() -> None:
        await client()

    @agent.node(map_over="pages", max_retries=1, timeout=0.1)
    async def fetch_each(page: int) -> None:
        await client()

    async def pages_that_hang() -> Any:
        await client()
        yield 1

    @agent.node(map_over=pages_that_hang, max_retries=1, timeout=0.1)
    async def fetch_all(page: int) -> None: ...

    outcome = agent.run_task_sync(task(), state={"pages": [1]})

    failures = {failure.node: failure for failure in outcome.failures if failure.causes}
    assert {name: failure.error for name, failure in failures.items()} == {
        "fetch": "ModuleTimeout: no result within timeout=0.1 s",
        "fetch_each": "ModuleTimeout: no result within timeout=0.1 s",
        "fetch_all": "ModuleTimeout: pages_that_hang yielded nothing within timeout=0.1 s",
    }
    assert {cause.summary for failure in failures.values() for cause in failure.causes} == {
        "OSError: the connection was closed"
    }


def test_password_in_what_a_store_error_was_raised_from_is_not_kept(agent: Agent) -> None:
    @agent.node(max_retries=1)
    def look() -> None:
        raise RuntimeError("no other store") from unreachable

    unreachable = StoreUnreachable("redis://localhost", "refused")
    unreachable.__cause__ = OSError("redis://:hunter2@localhost")
    outcome = agent.run_task_sync(task())

    assert [cause.type for cause in outcome.failures[0].causes] == ["StoreUnreachable"]
    assert "hunter2" not in repr(outcome)
