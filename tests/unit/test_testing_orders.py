"""Every order in which the module runs of a small graph can end, played by the engine's own scheduler."""

from __future__ import annotations

import asyncio
from math import factorial

import pytest

from graphflow import Task
from graphflow.graph.tasks import RunStatus
from graphflow.result import RunResult
from graphflow.testing import play_every_order
from tests.unit.scene import agent

TASK = Task(type="test")


def beside(*names: str, **options):
    """Nodes that run beside each other and note in which order their commits came."""
    made = agent(**options)
    for name in names:

        @made.node(name=name)
        async def node(cache, name=name):
            await cache.append("order", name)

    return made


def test_every_order_is_played_once() -> None:
    orders: list[tuple[str, ...]] = []

    played = play_every_order(beside("a", "b", "c", "d"), TASK, lambda o: orders.append(tuple(o["order"])))

    assert (played.orders, played.is_every) == (factorial(4), True)
    assert len(set(orders)) == len(orders) == factorial(4)


def test_of_more_orders_as_many_are_drawn_by_a_seed_that_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    drawn: list[list[tuple[str, ...]]] = []
    for seed in (1, 1, 2):
        orders: list[tuple[str, ...]] = []
        played = play_every_order(
            beside("a", "b", "c", "d", "e"),
            TASK,
            lambda o, orders=orders: orders.append(tuple(o["order"])),
            orders=20,
            seed=seed,
        )
        drawn.append(orders)
        assert (played.orders, played.is_every, played.seed) == (20, False, seed)

    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 20
    assert "drawn by seed=2" in capsys.readouterr().out


def test_who_reads_what_another_has_changed_meanwhile_loses_nothing() -> None:
    made = agent()
    runs: list[str] = []
    for name in ("a", "b", "c"):

        @made.node(name=name)
        async def node(cache, name=name):
            runs.append(name)
            await cache.set("n", await cache.get("n", 0) + 1)

    def check(outcome: RunResult) -> None:
        assert outcome["n"] == 3

    played = play_every_order(made, TASK, check)

    assert played.is_every
    assert len(runs) > 3 * played.orders, "some have lost a conflict and run again"


def test_items_of_a_map_end_in_every_order() -> None:
    made = agent()

    @made.node(map_over="xs")
    def double(item):
        return 2 * item

    results: list[list[int]] = []
    play_every_order(made, TASK, lambda o: results.append(o["double"]), state={"xs": [1, 2, 3]})

    assert results == [[2, 4, 6]] * factorial(3)


def test_retry_comes_before_and_after_what_runs_beside_it() -> None:
    made = agent()
    calls = [0]

    @made.node(max_retries=2)
    async def shaky(cache):
        calls[0] += 1
        await cache.append("order", "shaky")
        if calls[0] % 2:
            raise ValueError("first")

    @made.node
    async def other(cache):
        await cache.append("order", "other")

    seen: set[tuple[str, ...]] = set()
    played = play_every_order(made, TASK, lambda o: seen.add(tuple(o["order"])))

    assert seen == {("shaky", "other"), ("other", "shaky")}
    assert played.orders > 2


def test_failure_of_a_check_names_the_order_and_the_seed() -> None:
    def check(outcome: RunResult) -> None:
        assert outcome["order"] != ["b", "a"]

    with pytest.raises(AssertionError) as failed:
        play_every_order(beside("a", "b"), TASK, check, seed=3)

    [note] = failed.value.__notes__
    assert note.startswith("in the order b; a (seed=3")


def test_body_that_sleeps_goes_on_when_nothing_is_held() -> None:
    made = agent()

    @made.node
    async def sleeps():
        await asyncio.sleep(100)
        return 1

    outcomes: list[RunResult] = []
    play_every_order(made, TASK, outcomes.append)

    assert [outcome["sleeps"] for outcome in outcomes] == [1]


def test_run_that_waits_for_a_signal_ends_as_suspended() -> None:
    made = agent()

    @made.node
    async def asks(cache):
        return await cache.wait_for_signal("answer")

    statuses: list[RunStatus] = []
    play_every_order(made, TASK, lambda o: statuses.append(o.status))

    assert statuses == [RunStatus.SUSPENDED]


def test_no_orders_are_none_to_play() -> None:
    with pytest.raises(ValueError, match="play at least 1"):
        play_every_order(beside("a"), TASK, orders=0)
