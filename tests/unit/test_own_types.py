"""graphflow's own types as values of a state: stored under names that are kept for them."""

from __future__ import annotations

import enum
from typing import Any

import pytest

from graphflow import (
    Agent,
    InvalidGraph,
    MapProgress,
    ModuleResult,
    ModuleType,
    NodeResult,
    NodeStatus,
    RunFailure,
    RunResult,
    RunStatus,
    Snapshot,
    SnapshotControl,
    Task,
)
from graphflow.codec import decode, encode, register_type
from graphflow.errors import InvalidName
from graphflow.testing import MemoryCache

FAILURE = RunFailure("reader", 3, "ValueError: no", 2)
MODULE = ModuleResult("reader", NodeStatus.SUCCEEDED, {"a": (1, 2)}, None)
VALUES: list[Any] = [
    *(*RunStatus, *NodeStatus, *ModuleType, *SnapshotControl),
    Task(type="numbers", params={"data": [1, 2]}, status=RunStatus.COMPLETE),
    FAILURE,
    MODULE,
    NodeResult("reader", NodeStatus.FAILED, None, [MODULE], "no", 1, 2, 3.5, 4.5),
    MapProgress(total=3, done=1, stragglers=((2, 1.5),)),
    Snapshot(1, ("reader",), 2.5, 7),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_own_types_come_back_equal_and_of_their_type(value: Any) -> None:
    text = encode(value)

    assert f'"$type":"graphflow.{type(value).__name__}"' in text
    assert decode(text) == value
    assert type(decode(text)) is type(value)
    assert encode(decode(text)) == text


def test_failure_with_its_causes_comes_back_equal() -> None:
    agent = Agent(cache=MemoryCache())

    @agent.node(max_retries=1)
    def work() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    (failure,) = agent.run_task_sync(Task(type="test")).failures

    assert failure.causes
    assert decode(encode(failure)) == failure


def test_names_of_own_types_are_kept_for_them() -> None:
    class Mine(enum.Enum):
        A = 1

    with pytest.raises(InvalidName, match="graphflow's own types are called so"):
        register_type(Mine, name="graphflow.Mine")


def test_what_holds_more_than_values_is_refused_with_what_to_store_of_it() -> None:
    inner, outer, annotated = (Agent(cache=MemoryCache()) for _ in range(3))
    inner.node(name="work")(lambda: 1)

    @outer.node(name="report")
    async def report():  # type: ignore[no-untyped-def]
        return await inner.run_task(Task(type="inner"))

    @annotated.node(name="report")
    async def annotated_report() -> RunResult:
        return await inner.run_task(Task(type="inner"))

    words = "store what you need of it, such as its status or result"
    assert words in str(outer.run_task_sync(Task(type="outer")).error)
    with pytest.raises(InvalidGraph, match=f"returns RunResult: RunResult is graphflow's own .*{words}"):
        annotated.run_task_sync(Task(type="outer"))


def test_outcome_of_a_run_inside_a_run_can_be_kept_and_asked_for_in_conditions() -> None:
    inner, outer = Agent(cache=MemoryCache()), Agent(cache=MemoryCache())

    @inner.node
    def work() -> None:
        raise ValueError("no luck")

    @outer.node
    async def report() -> dict[str, Any]:
        outcome = await inner.run_task(Task(type="inner"))
        return {"status": outcome.status, "failures": outcome.failures}

    @outer.node(condition="report.status == 'failed' and report.failures[0].node == 'work'")
    def seen(report: dict[str, Any]) -> RunStatus:
        assert isinstance(report["failures"][0], RunFailure)
        status = report["status"]
        assert isinstance(status, RunStatus)
        return status

    outcome = outer.run_task_sync(Task(type="outer"))

    assert outcome.result is RunStatus.FAILED, outcome.error
