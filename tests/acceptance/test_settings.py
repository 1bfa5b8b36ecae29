"""Settings that are numbers are refused when they cannot be meant: by name, with the value given and the bounds."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from typer.testing import CliRunner

from graphflow import Agent, AgentModule, InvalidGraph, ModuleConfig, NodeConfig, RedisCache
from graphflow.cli.main import app
from graphflow.errors import GraphflowError, InvalidSetting
from tests.acceptance.support import agent_on, module_node, task
from tests.helpers import run

WHOLE = "give a whole number of at least 1"
SECONDS = "give a finite number of seconds above 0"

AGENT_REFUSALS = [
    *[
        ("lease_seconds", value, shown, "give a finite number of seconds from 0.05 to 3,600")
        for value, shown in (
            (0, "0"),
            (-1, "-1"),
            (0.04, "0.04"),
            (math.nan, "nan"),
            (math.inf, "inf"),
            (1e18, "1e+18"),
            (True, "True (bool)"),
            (None, "None"),
            ("10", "'10' (str)"),
            (timedelta(seconds=10), "datetime.timedelta(seconds=10) (timedelta)"),
            (Decimal("sNaN"), "Decimal('sNaN')"),
        )
    ],
    ("stall_seconds", math.inf, "inf", "give a finite number of seconds above 0, or None"),
    ("stall_seconds", 9, "9", "give a finite number of seconds of at least lease_seconds, which is 10"),
    *[
        ("deadline", value, shown, f"{SECONDS}, or None")
        for value, shown in ((math.nan, "nan"), (0, "0"), (-math.inf, "-inf"), (10**400, "100000"))
    ],
    *[
        ("max_concurrent_tasks", value, shown, f"{WHOLE}, or None")
        for value, shown in (
            ("3", "'3' (str)"),
            (0, "0"),
            (True, "True (bool)"),
            (2.0, "2.0 (float)"),
        )
    ],
    ("max_concurrent_tasks", 2**63, "9223372036854775808", f"{WHOLE} and below 2**63, or None"),
    ("max_total_iterations", 0, "0", f"{WHOLE}, or None"),
    ("max_total_iterations", False, "False (bool)", f"{WHOLE}, or None"),
    *[
        (name, value, shown, "give a finite number of seconds from 0 (kept for ever) to 3,153,600,000")
        for name in ("keep_complete_seconds", "keep_other_seconds")
        for value, shown in (
            (-1, "-1"),
            (math.inf, "inf"),
            (math.nan, "nan"),
            (1e18, "1e+18"),
            ("7", "'7' (str)"),
        )
    ],
]


@pytest.mark.parametrize(("setting", "value", "shown", "bounds"), AGENT_REFUSALS)
def test_a_setting_of_an_agent_out_of_bounds_is_refused_as_the_agent_is_made(
    setting: str, value: Any, shown: str, bounds: str
) -> None:
    with pytest.raises(InvalidSetting) as refused:
        Agent(**{setting: value})

    assert str(refused.value).startswith(f"{setting} is ")
    assert shown in str(refused.value)
    assert bounds in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_number_too_long_for_a_text_is_refused_by_its_type() -> None:
    with pytest.raises(InvalidSetting, match=r"^max_concurrent_tasks is of type int; .* below 2"):
        Agent(max_concurrent_tasks=10**5000)
    with pytest.raises(InvalidSetting, match=r"^deadline is of type int; "):
        Agent(deadline=10**5000)


def test_a_setting_that_an_agent_is_given_later_is_refused_before_anything_is_stored(redis_url: str) -> None:
    agent = agent_on(redis_url)
    agent.node(name="one")(lambda: 1)
    agent.lease_seconds = 0
    with pytest.raises(InvalidSetting, match="lease_seconds is 0; "):
        agent.run_task_sync(task(), run_id="refused-setting")

    agent.lease_seconds = 10
    agent.max_concurrent_tasks = "3"  # type: ignore[assignment]
    with pytest.raises(InvalidGraph, match=r"max_concurrent_tasks is '3' \(str\); "):
        agent.run_task_sync(task(), run_id="refused-setting")

    agent.max_concurrent_tasks = 3
    assert agent.run_task_sync(task(), run_id="refused-setting")["one"] == 1


def test_numbers_of_other_types_count_as_what_they_are() -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    agent = Agent(
        max_concurrent_tasks=Three(),  # type: ignore[arg-type]
        deadline=Decimal("1.5"),  # type: ignore[arg-type]
        lease_seconds=5,
    )

    assert (agent.max_concurrent_tasks, agent.deadline, agent.lease_seconds) == (3, 1.5, 5.0)
    assert [type(value) for value in (agent.max_concurrent_tasks, agent.deadline, agent.lease_seconds)] == [
        int,
        float,
        float,
    ]


def test_a_run_stands_still_for_thirty_seconds_or_a_longer_lease_before_anybody_minds() -> None:
    assert Agent().stall_seconds == 30
    assert Agent(lease_seconds=60).stall_seconds == 60
    assert Agent(lease_seconds=60, stall_seconds=90).stall_seconds == 90


def test_all_settings_of_nodes_out_of_bounds_are_in_the_one_error_about_the_graph(redis_url: str) -> None:
    class Works(AgentModule):
        async def process(self, cache: Any, semaphore: Any) -> int:
            return 1

    agent = agent_on(redis_url)
    agent.add_node(module_node("reader", Works(), dependencies=["writr"]))
    agent.node(name="a", max_retries=0, max_visits=-1, max_concurrency="3", max_crashes=True)(lambda: 1)
    agent.node(name="b", map_over="given", batch_size=2.5, min_success=math.nan)(lambda item: item)
    agent.node(name="c", map_over="given", min_success=True)(lambda item: item)
    agent.node(name="d", timeout=math.inf)(lambda: 1)
    agent.add_node(module_node("e", Works(name="slow", config=ModuleConfig(timeout="1"))))  # type: ignore[arg-type]

    with pytest.raises(InvalidGraph) as refused:
        agent.run_task_sync(task(), state={"given": [1]}, run_id="refused-settings")

    share = "give a whole number of at least 0, or a share of all below 1, or None"
    assert set(refused.value.problems) >= {
        f"node 'a': max_retries is 0; {WHOLE}",
        "node 'a': max_visits is -1; give a whole number of at least 0 (no limit)",
        f"node 'a': max_concurrency is '3' (str); {WHOLE}, or None",
        f"node 'a': max_crashes is True (bool); {WHOLE}",
        f"node 'b': batch_size is 2.5 (float); {WHOLE}, or None",
        f"node 'b': min_success is nan; {share}",
        f"node 'c': min_success is True (bool); {share}",
        f"node 'd': module 'd': timeout is inf; {SECONDS}",
        f"node 'e': module 'slow': timeout is '1' (str); {SECONDS}",
    }
    assert len(refused.value.problems) == 10
    assert "'writr'" in str(refused.value)


def test_a_setting_that_a_node_is_given_later_is_refused_too(redis_url: str) -> None:
    agent = agent_on(redis_url)
    agent.node(name="a")(lambda: 1)
    agent.nodes["a"].node_config = NodeConfig(max_retries=2)
    agent.nodes["a"].node_config.max_retries = math.nan  # type: ignore[assignment]

    with pytest.raises(InvalidGraph, match="node 'a': max_retries is nan"):
        agent.run_task_sync(task())


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", True])
def test_arguments_of_calls_out_of_bounds_are_refused(redis_url: str, value: Any) -> None:
    agent = agent_on(redis_url)

    with pytest.raises(InvalidSetting, match=r"^grace_seconds is .*above 0"):
        agent.drain(value)
    with pytest.raises(InvalidSetting, match=r"^limit is .*whole number of at least 1, or None"):
        run(agent.recover(limit=value))
    with pytest.raises(InvalidSetting, match=r"^at is .*whole number of at least 1, or None"):
        run(agent.fork("nothing", at=value))


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", True])
def test_a_patience_out_of_bounds_fails_the_module_that_waits_at_once(redis_url: str, value: Any) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def waiter(cache: Any) -> Any:
        return await cache.get_message("box", timeout=value)

    outcome = agent.run_task_sync(task())

    assert outcome.status == "failed"
    assert "timeout is " in outcome.failures[0].error
    assert f"{SECONDS}, or None" in outcome.failures[0].error
    assert outcome.failures[0].attempts == 1


@pytest.mark.parametrize(
    "words",
    [
        ("run", "nowhere.py", "--grace", "0"),
        ("run", "nowhere.py", "--grace", "nan"),
        ("resume", "nothing", "--grace", "inf"),
        ("retry", "nothing", "--grace", "-1"),
        ("signal", "nothing", "name", "1", "--grace", "1e400"),
        ("retry", "nothing", "--at", "0"),
        ("list", "-n", "0"),
        ("list", "-n", "99999999999999999999"),
    ],
)
def test_options_out_of_bounds_are_wrong_usage(words: tuple[str, ...]) -> None:
    answer = CliRunner().invoke(app, words)

    assert answer.exit_code == 2, answer
    assert "number" in answer.output
    assert words[-2] in answer.output


@pytest.mark.parametrize(
    ("value", "shown"), [("refused", "'refused'"), (None, "None"), (True, "True (bool)")]
)
def test_a_word_for_risks_that_nobody_knows_is_refused(value: Any, shown: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        RedisCache("memory://unused", on_risk=value)

    assert str(refused.value) == f"on_risk is {shown}; give 'warn', 'refuse' or 'ignore'"


def test_the_error_is_one_of_the_tree_and_a_value_error() -> None:
    assert issubclass(InvalidSetting, GraphflowError)
    assert issubclass(InvalidSetting, ValueError)
