"""A crash in this process: driving breaks off, nothing after it has any effect, and the run can be resumed."""

from __future__ import annotations

import asyncio

import pytest

from graphflow import Agent, Task, failpoints
from graphflow.errors import PlaceNotPassed
from graphflow.events import ProcessDied as DeathReported
from graphflow.failpoints import FailpointHit, failpoint
from graphflow.testing import TurnedClock, crash_at
from tests.unit.scene import RUN, agent, turned

TASK = Task(type="test")
#: Where a run of `paying` comes by: every failpoint but those of errors, drains, retries and takeovers.
PLACES = [
    "create.after_reply",
    "lease.acquire",
    "lease.acquired",
    "outcome.taken",
    "commit.before",
    "commit.before_send",
    "commit.after_reply",
    "commit.acknowledged",
    "attempt.launched",
    "attempt.returned",
    "step.before_send",
    "step.after_store",
    "map.opened",
    "map.entered",
    "lease.renew",
    "run.ended",
    "expire.before",
    "lease.release",
]


def paying(calls: list[str]) -> Agent:
    made = agent(max_concurrent_tasks=4)

    @made.node
    async def pay(cache):
        return await cache.step("charge", charge, key="once")

    def charge():
        calls.append("charge")
        return "paid"

    @made.node(map_over="xs")
    async def items(item):
        await asyncio.sleep(item)
        return item

    @made.node
    def end(pay, items):
        return [pay, items]

    return made


@pytest.mark.parametrize("place", PLACES)
def test_run_that_crashed_at_any_place_is_resumed_to_the_same_end(place: str) -> None:
    calls: list[str] = []
    made = paying(calls)
    state = {"xs": [1, 2, 30]}

    with crash_at(place):
        TurnedClock().run(made.run_task(TASK, state=state, run_id=RUN))
    outcome = TurnedClock().run(made.run_task(TASK, state=state, run_id=RUN))

    assert outcome["end"] == ["paid", [1, 2, 30]]
    assert outcome.is_complete
    assert len(calls) <= 2


def test_nothing_is_stored_after_the_crash() -> None:
    made = paying([])
    store = made.cache.store()

    with crash_at("commit.before_send", turn=2):
        TurnedClock().run(made.run_task(TASK, state={"xs": [1]}, run_id=RUN))

    stored = store.runs[RUN]
    assert len([event for event in stored.events if event.kind == "RunStarted"]) == 1
    assert stored.lease is not None, "a dead process gives no lease back"
    assert not stored.is_held, "and nobody has to wait for it"
    assert stored.run.nodes[2].visits == 0


def test_death_is_counted_and_reported_to_who_goes_on() -> None:
    made = paying([])
    for deaths in (1, 2):
        with crash_at("attempt.returned"):
            TurnedClock().run(made.run_task(TASK, state={"xs": [1]}, run_id=RUN))
        assert made.cache.store().runs[RUN].run.deaths == deaths - 1

    outcome = TurnedClock().run(made.run_task(TASK, state={"xs": [1]}, run_id=RUN))

    assert outcome.run.deaths == 2
    events = made.cache.store().runs[RUN].events
    assert len([event for event in events if isinstance(event, DeathReported)]) == 2


def test_crash_inside_a_program_that_goes_on() -> None:
    made = paying([])

    async def main(clock: TurnedClock) -> None:
        with crash_at("attempt.launched", turn=2):
            await made.run_task(TASK, state={"xs": [1]}, run_id=RUN)

        assert (await made.resume(RUN))["end"] == ["paid", [1]]
        assert clock.seconds < made.lease_seconds / 2, "nobody waits for the lease of the dead"

    turned(main)


def test_crash_without_a_turned_clock() -> None:
    made = paying([])

    with crash_at("commit.after_reply", turn=2):
        made.run_task_sync(TASK, state={"xs": [0]}, run_id=RUN)

    assert made.run_task_sync(TASK, state={"xs": [0]}, run_id=RUN)["end"] == ["paid", [0]]


def test_place_that_is_not_passed_is_an_error_that_names_those_that_are() -> None:
    def run() -> None:
        with crash_at("comit.before"):
            TurnedClock().run(paying([]).run_task(TASK, state={"xs": [1]}))

    with pytest.raises(PlaceNotPassed, match=r"'comit\.before' was not passed; passed were create\.after"):
        run()


def test_place_that_is_not_passed_so_often_is_an_error() -> None:
    def pass_twice() -> None:
        with crash_at("here", turn=3):
            failpoint("here")
            failpoint("here")

    with pytest.raises(PlaceNotPassed, match="not passed 3 times"):
        pass_twice()


def test_turns_count_from_one() -> None:
    with pytest.raises(ValueError, match="turns count from 1"), crash_at("here", turn=0):
        pass


def test_what_a_block_raises_by_itself_passes() -> None:
    with pytest.raises(KeyError), crash_at("here"):
        raise KeyError


def test_failpoints_that_were_chosen_go_on_being_so() -> None:
    failpoints.configure("there@*=raise")
    with crash_at("here"):
        with pytest.raises(FailpointHit):
            failpoint("there")
        asyncio.run(_pass("here"))

    with pytest.raises(FailpointHit):
        failpoint("there")
    failpoint("here")


async def _pass(name: str) -> None:
    failpoint(name)


def test_nothing_is_logged_of_who_died_with_the_process(caplog: pytest.LogCaptureFixture) -> None:
    made = paying([])
    for place in ("attempt.launched", "attempt.returned", "lease.renew"):
        with crash_at(place):
            TurnedClock().run(made.run_task(TASK, state={"xs": [1, 2, 30]}))

    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
