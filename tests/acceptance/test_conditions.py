"""Conditions while a run goes on: large states, few evaluations, errors with their cause."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from graphflow import (
    Agent,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleType,
    Node,
    NodeStatus,
    RunStatus,
    register_type,
)
from graphflow.expressions import expression as expression_module
from tests.acceptance.support import agent_on, task
from tests.helpers import SOON_SECONDS
from tests.parallel_agent import ALL_DONE, PENDING, ParallelProcessor, naive_agent, numbers


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each expression is evaluated."""
    counted: Counter[str] = Counter()
    evaluate = expression_module.Expression.evaluate

    def counting(self: expression_module.Expression, *args: Any, **kwargs: Any) -> Any:
        counted[self.text] += 1
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(expression_module.Expression, "evaluate", counting)
    return counted


def test_naive_list_of_100_000_subtasks_is_evaluated_once_per_change(
    redis_url: str, evaluations: Counter[str]
) -> None:
    class MarksAll(ParallelProcessor):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            subtasks = await cache.get("subtasks")
            if subtasks[0]["status"] == "pending":
                done = [{"id": st["id"], "status": "completed", "results": st["data"]} for st in subtasks]
                await cache.set("subtasks", done)
                await cache.set("completed_subtasks", done)

    outcome = naive_agent(redis_url, processor=MarksAll).run_task_sync(numbers(300_000))

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["total_items_processed"] == 300_000
    # Three decisions share the text of PENDING, the aggregator that of its decision. Missing, pending, done: no more.
    assert evaluations[PENDING] <= 3
    assert evaluations[ALL_DONE] <= 3


def test_decisions_with_one_text_are_evaluated_once_per_change_of_what_they_read(
    redis_url: str, evaluations: Counter[str]
) -> None:
    outcome = naive_agent(redis_url).run_task_sync(numbers(20))

    assert outcome.status is RunStatus.COMPLETE
    # The supervisor decides at the start, then after each of three rounds of processors.
    assert evaluations[PENDING] <= 5


def test_expressions_are_parsed_when_the_graph_is_compiled_and_not_while_it_runs(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import graphflow.planning.sketch as sketch

    parsed: Counter[str] = Counter()
    parse = sketch.parse_expression

    def counting(text: str, *args: Any, **kwargs: Any) -> Any:
        parsed[text] += 1
        return parse(text, *args, **kwargs)

    monkeypatch.setattr(sketch, "parse_expression", counting)
    outcome = naive_agent(redis_url).run_task_sync(numbers(20))

    assert outcome.status is RunStatus.COMPLETE
    assert parsed == {PENDING: 3, ALL_DONE: 2}


def test_condition_reads_state_node_results_and_the_task(agent: Agent) -> None:
    agent.node(name="size")(lambda: 3)
    conditions = {
        "by_state": "limit == 7",
        "by_result": "size == 3",
        "by_node": "nodes.size > 2",
        "by_task": "task.params.ready and task.type == 'test'",
        "by_absence": "nothing_there == null",
        "never": "nothing_there > 3",
    }
    for name, condition in conditions.items():
        agent.node(name=name, dependencies=["size"], condition=condition)(lambda: "ran")

    outcome = agent.run_task_sync(task(ready=True), state={"limit": 7})

    assert outcome.status is RunStatus.COMPLETE
    assert [name for name in conditions if name in outcome] == list(conditions)[:-1]
    assert outcome.node_results["never"].status is NodeStatus.SKIPPED


@register_type(name="conditions.Size")
@dataclasses.dataclass
class Size:
    width: int


@register_type(name="conditions.Level")
class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@register_type(name="conditions.Bill")
@dataclasses.dataclass
class Bill:
    amount: Decimal
    due: date
    level: Level = Level.LOW


def test_decision_between_decimals_takes_the_branch_that_python_would(agent: Agent) -> None:
    @agent.node
    def spent() -> Decimal:
        return Decimal("9.50")

    agent.add_node(
        Node(
            name="check",
            dependencies=["spent"],
            modules=[
                FlowControlModule(
                    flow_config=FlowControlConfig(
                        decisions=[FlowDecision(next_node="buy", condition="limit > spent")], default="stop"
                    )
                )
            ],
        )
    )
    agent.node(name="buy", start=False)(lambda: "bought")
    agent.node(name="stop", start=False)(lambda: "stopped")

    outcome = agent.run_task_sync(task(), state={"limit": Decimal("100.00")})

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome.result == "bought"


def test_conditions_read_the_values_of_state_results_and_task(agent: Agent) -> None:
    agent.node(name="bill")(lambda: Bill(Decimal("9.50"), date(2026, 11, 20), Level.HIGH))
    conditions = {
        "by_number": "bill.amount < task.params.limit",
        "by_date": "bill.due < today and bill.due > '2026-11-19'",
        "by_member": "bill.level == 'high' and nodes.bill.level in levels",
        "by_time": "today - bill.due < task.params.grace",
        "never": "bill.amount > task.params.limit or bill.level == 'low'",
    }
    for name, condition in conditions.items():
        agent.node(name=name, dependencies=["bill"], condition=condition)(lambda: "ran")

    outcome = agent.run_task_sync(
        task(limit=Decimal(10), grace=timedelta(days=30)),
        state={"today": date(2026, 12, 1), "levels": [Level.HIGH]},
    )

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert [name for name in conditions if name in outcome] == list(conditions)[:-1]


@pytest.mark.parametrize("source", ["list", "generator", "map"])
def test_where_of_a_map_sees_items_as_other_conditions_see_values(agent: Agent, source: str) -> None:
    bills = [
        Bill(Decimal(amount), date(2026, 11, day)) for amount, day in (("9.5", 1), ("100", 2), ("20", 3))
    ]

    if source == "generator":

        def bills_source():  # type: ignore[no-untyped-def]
            yield from bills
    elif source == "list":
        agent.node(name="bills_source")(lambda: bills)
    else:
        agent.node(name="numbers")(lambda: [0, 1, 2])
        agent.node(name="bills_source", map_over="numbers")(lambda number: bills[number])

    over: Any = bills_source if source == "generator" else "bills_source"

    @agent.node(
        map_over=over, where="item.amount > limit and item.due > '2026-11-01' and item.level == 'low'"
    )
    def paid(bill: Bill) -> int:
        return bill.due.day

    outcome = agent.run_task_sync(task(), state={"limit": Decimal(10)})

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["paid"] == [2, 3]


@pytest.mark.parametrize(
    ("condition", "types"),
    [
        ("level > other", "Level and Level"),
        ("due > limit", "date and Decimal"),
        ("due == text", "date and str"),
        ("due > 'tomorrow'", "a date is compared with a literal that is none"),
    ],
)
def test_values_without_an_order_fail_the_node_with_both_types(
    agent: Agent, condition: str, types: str
) -> None:
    agent.node(name="reader", condition=condition)(lambda: "never")

    outcome = agent.run_task_sync(
        task(),
        state={
            "level": Level.HIGH,
            "other": Level.LOW,
            "due": date(2026, 11, 20),
            "limit": Decimal(1),
            "text": "2026-11-20",
        },
    )

    assert outcome.status is RunStatus.FAILED
    assert types in outcome.failures[0].error


def test_condition_reads_models_as_dicts_of_their_fields_in_state_and_task(agent: Agent) -> None:
    agent.node(name="by_state", condition="size.width == 3")(lambda: "ran")
    agent.node(name="by_task", condition="task.params.size.width == 4")(lambda: "ran")

    outcome = agent.run_task_sync(task(size=Size(4)), state={"size": Size(3)})

    assert outcome.result == {"by_state": "ran", "by_task": "ran"}


def test_type_error_between_present_values_fails_the_node_with_both_types(agent: Agent) -> None:
    agent.node(name="reader", condition="text > 3")(lambda: "never")

    outcome = agent.run_task_sync(task(), state={"text": "five"})

    assert outcome.status is RunStatus.FAILED
    assert outcome.failures[0].node == "reader"
    assert "str" in outcome.failures[0].error
    assert "int" in outcome.failures[0].error


def test_condition_that_never_ends_is_stopped(agent: Agent) -> None:
    agent.node(name="reader", condition="sum([i * j for i in range(9999) for j in range(9999)]) > 0")(
        lambda: "never"
    )

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert outcome.failures[0].error.startswith("BudgetExceeded")
    assert outcome.seconds < SOON_SECONDS


def _flow(agent: Agent, *decisions: FlowDecision, **config: Any) -> None:
    module = FlowControlModule(flow_config=FlowControlConfig(decisions=list(decisions), **config))
    agent.add_node(Node(name="flow", type=ModuleType.FLOW_CONTROL, modules=[module], dependencies=["begin"]))


def test_all_true_decisions_fire_and_clear_their_condition_variables(agent: Agent) -> None:
    agent.node(name="begin")(lambda: 1)
    _flow(
        agent,
        FlowDecision(next_node="a", condition="x > 1", condition_variables=["x"]),
        FlowDecision(next_node="b", condition="y > 1", condition_variables=["y"]),
        FlowDecision(next_node="c", condition="z > 1", condition_variables=["z"]),
    )
    for name in "abc":
        agent.node(name=name, dependencies=["flow"])(lambda: "ran")

    outcome = agent.run_task_sync(task(), state={"x": 2, "y": 2, "z": 0})

    assert outcome.result == {"a": "ran", "b": "ran"}
    assert [key for key in "xyz" if key in outcome] == ["z"]


def test_first_true_decision_alone_fires_if_asked_for(agent: Agent) -> None:
    agent.node(name="begin")(lambda: 1)
    _flow(
        agent,
        FlowDecision(next_node="a", condition="x > 9"),
        FlowDecision(next_node="b", condition="x > 1"),
        FlowDecision(next_node="c", condition="x > 0"),
        select="first",
    )
    for name in "abc":
        agent.node(name=name, dependencies=["flow"])(lambda: "ran")

    outcome = agent.run_task_sync(task(), state={"x": 2})

    assert [name for name in "abc" if name in outcome] == ["b"]


def test_default_fires_when_no_decision_is_true(agent: Agent) -> None:
    agent.node(name="begin")(lambda: 1)
    _flow(agent, FlowDecision(next_node="a", condition="x > 9"), default="c")
    for name in "ac":
        agent.node(name=name, dependencies=["flow"])(lambda: "ran")

    outcome = agent.run_task_sync(task(), state={"x": 2})

    assert [name for name in "ac" if name in outcome] == ["c"]
