"""Failures: what of an exception is kept, and what it says about another attempt."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphflow import Agent, NoMessage, NonRetryableException, RunStatus, StoreUnreachable, register_type
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


def raised_from_no_message() -> None:
    raise RuntimeError("nobody has answered") from NoMessage(["answers"], 5)


@pytest.mark.parametrize(
    ("body", "attempts", "behind"),
    [
        (raised_from, 1, [("cause", "Declined", "card 4 is stolen")]),
        (raised_while_handling, 3, [("context", "Declined", "card 4 is stolen")]),
        (raised_from_none, 3, []),
        (raised_from_no_message, 3, [("cause", "NoMessage", str(NoMessage(["answers"], 5)))]),
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


class Odd(BaseException):
    """No Exception."""


@register_type
@dataclasses.dataclass
class Unwritable:
    raises: Any = dataclasses.field(default=None, init=False)

    def __getattribute__(self, name: str) -> Any:
        if name == "raises":
            raise object.__getattribute__(self, "kind")("odd")
        return object.__getattribute__(self, name)


def unwritable(kind: type[BaseException]) -> Unwritable:
    made = Unwritable()
    made.__dict__["kind"] = kind
    return made


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, Odd])
def test_whatever_a_function_beside_the_bodies_raises_fails_its_node(
    agent: Agent, kind: type[BaseException]
) -> None:
    def raises(*_: Any) -> Any:
        raise kind("odd")

    def numbers() -> Any:
        yield from (1, 2)

    def unwritable_numbers() -> Any:
        yield unwritable(kind)

    def one(item: int) -> int:
        return item

    async def keyed_step(cache: Any) -> None:
        await cache.step("call", print, key=unwritable(kind))

    agent.node(name="reduce", map_over="items", reduce=raises)(one)
    agent.node(name="reduce_value", map_over="items", reduce=lambda *_: unwritable(kind))(one)
    agent.node(name="where", map_over="items", where=raises, max_retries=1)(one)
    agent.node(name="where_of_generator", map_over=numbers, where=raises, max_retries=1)(one)
    agent.node(name="where_of_map", map_over="whole", where=raises, max_retries=1)(one)
    agent.node(name="element", map_over=unwritable_numbers, max_retries=1)(one)
    agent.node(name="key", max_retries=1)(keyed_step)
    agent.node(name="whole", map_over="items")(one)

    outcome = agent.run_task_sync(task(), state={"items": [1, 2]})

    assert outcome["whole"] == [1, 2]
    assert {failure.node: failure.error for failure in outcome.failures} == dict.fromkeys(
        ["reduce", "reduce_value", "where", "where_of_generator", "where_of_map", "element", "key"],
        f"{kind.__name__}: odd",
    )


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_steps_beside_each_other_that_want_to_end_the_process_fail_their_node(
    agent: Agent, kind: type[BaseException]
) -> None:
    def raises() -> None:
        raise kind("odd")

    async def raises_later() -> None:
        raise kind("odd")

    @agent.node(max_retries=1)
    async def in_gather(cache: Any) -> None:
        await asyncio.gather(
            cache.step("sync", raises, key=1),
            cache.step("async", raises_later, key=1),
        )

    @agent.node(max_retries=1)
    async def alone(cache: Any) -> None:
        await cache.step("async", raises_later, key=1)

    outcome = agent.run_task_sync(task())

    failures = {failure.node: failure for failure in outcome.failures}
    assert failures["alone"].error == f"{kind.__name__}: odd"
    assert failures["in_gather"].error == f"RuntimeError: function raised {kind.__name__}(odd)"
    assert [cause.type for cause in failures["in_gather"].causes] == [kind.__name__]


def colours(*names: str) -> Any:
    return register_type(enum.Enum("Colour", {name: name for name in names}))


def test_result_that_a_reduce_cannot_be_given_fails_the_node(agent: Agent) -> None:
    red = colours("red").red

    def mixed(_: Any, __: Any) -> None:
        # From here on its type does not know what is stored.
        colours("blue")

    agent.node(name="paint", map_over="items", reduce=mixed)(lambda item: red)

    outcome = agent.run_task_sync(task(), state={"items": [1, 2, 3]})

    assert (outcome.status, outcome.failures[0].node) == (RunStatus.FAILED, "paint")
    assert outcome.failures[0].error.startswith("ChangedType: ")


def test_generator_that_raises_as_it_is_closed_does_not_end_the_run(agent: Agent) -> None:
    async def numbers() -> Any:
        try:
            yield 1
            yield object()
        finally:
            raise SystemExit("at its end")

    @agent.node(map_over=numbers, max_retries=1)
    async def work(item: int) -> None: ...

    assert agent.run_task_sync(task()).failures[0].node == "work"


class Uncopyable(ExceptionGroup[Exception]):
    """A group that cannot make another one like itself."""

    def derive(self, excs: Any) -> Any:
        raise TypeError("no other one")


class Hidden(Exception):
    @property
    def __cause__(self) -> Any:
        raise TypeError("nobody knows")


@pytest.mark.parametrize("error", [Uncopyable("two", [ValueError(1), OSError(2)]), Hidden("one")], ids=repr)
@pytest.mark.parametrize("is_async", [True, False])
def test_exception_whose_class_raises_when_it_is_looked_at_fails_its_node(
    agent: Agent, error: Exception, is_async: bool
) -> None:
    async def body() -> None:
        raise error

    def sync_body() -> None:
        raise error

    agent.node(name="work", max_retries=1)(body if is_async else sync_body)

    (failure,) = agent.run_task_sync(task()).failures

    assert failure.error.startswith(f"{type(error).__name__}: ")


@pytest.mark.parametrize(
    ("place", "sent", "handler", "code"),
    [
        # Python's own handler gives way to one that lets what runs end.
        ("body", signal.SIGINT, "signal.default_int_handler", 128 + signal.SIGINT),
        ("reduce", signal.SIGTERM, "lambda *_: sys.exit(7)", 7),
    ],
)
def test_process_that_a_signal_ends_in_the_midst_of_users_code_ends(
    tmp_path: Path, place: str, sent: signal.Signals, handler: str, code: int
) -> None:
    program = tmp_path / "hit.py"
    program.write_text(HIT)

    ended = subprocess.run(
        [sys.executable, str(program), place, str(int(sent)), handler],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""


HIT = """
import asyncio, os, signal, sys
from graphflow import Agent, Task
from graphflow.testing import MemoryCache

place, number, handler = sys.argv[1:]
signal.signal(int(number), eval(handler))
agent = Agent(cache=MemoryCache())

def hit(value, result):
    os.kill(os.getpid(), int(number))
    return result

@agent.node(map_over="items", reduce=hit if place == "reduce" else max)
async def work(item):
    return hit(None, item) if place == "body" else item

# A loop without the handler that asyncio.run sets for itself.
print(asyncio.new_event_loop().run_until_complete(agent.run_task(Task(type="hit"), state={"items": [1, 2]})))
"""
