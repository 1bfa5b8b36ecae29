"""F31: expressions written to break out or to use the machine up, in every place of a graph that takes one. The corpus and its
times are in tests/unit/test_expression_attacks.py, the fuzzing in tests/properties/test_expressions_fuzz.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphflow import Agent, FlowControlConfig, FlowControlModule, FlowDecision, Node
from graphflow.errors import InvalidGraph
from graphflow.graph.tasks import RunStatus
from tests.acceptance.support import agent_on, keys_of_run, task
from tests.helpers import SOON_SECONDS
from tests.unit.test_expression_attacks import REFUSED, STATE, STOPPED


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


@pytest.mark.parametrize("number", range(0, len(REFUSED), 5))
def test_hostile_text_never_gets_into_a_run(
    agent: Agent, redis_url: str, tmp_path: Path, number: int
) -> None:
    text = REFUSED[number]
    decisions = [FlowDecision(next_node="conditional", condition=text)]
    agent.node(name="conditional", condition=text)(lambda: "never")
    agent.node(name="filtered", map_over="items", where=text)(lambda item: "never")
    module = FlowControlModule(flow_config=FlowControlConfig(decisions=decisions))
    agent.add_node(Node(name="deciding", modules=[module], dependencies=["filtered"]))

    with pytest.raises(InvalidGraph) as refused:
        agent.run_task_sync(task(), state={"items": [1]}, run_id=tmp_path.name)

    for place in ("conditional", "filtered", "deciding"):
        assert any(place in problem for problem in refused.value.problems), refused.value
    assert keys_of_run(redis_url, tmp_path.name) == []


@pytest.mark.parametrize("number", range(len(STOPPED)))
def test_bomb_fails_its_node_alone_and_soon_and_changes_no_state(agent: Agent, number: int) -> None:
    agent.node(name="bombed", condition=STOPPED[number])(lambda: "never")
    agent.node(name="other")(lambda: "ran")

    outcome = agent.run_task_sync(task(), state=STATE)

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["other"] == "ran"
    assert [failure.node for failure in outcome.failures] == ["bombed"]
    assert outcome.failures[0].attempts <= 1
    assert {key: outcome[key] for key in STATE} == STATE
    assert outcome.seconds < SOON_SECONDS
