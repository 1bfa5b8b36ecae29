"""Stored runs go on by the rules that began them: golden runs, folded again, come to the same transitions."""

from __future__ import annotations

import pytest

from graphflow.ids import RunId
from graphflow.rules.advance import advance, apply
from graphflow.run import NodeState, Run
from graphflow.state.names import initial_texts
from tests.replay.graphs import GOLDEN
from tests.replay.record import record
from tests.replay.recording import FOLDER, Recording, as_json, digest_of, facts_of, from_json

ANEW = "if that is meant, see tests/replay/README.md"


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_run_comes_to_the_same_transitions(name: str) -> None:
    recording, golden = Recording.load(name), GOLDEN[name]
    initial = initial_texts(golden.state)
    plan = golden.build("memory://golden").compile(list(initial))
    assert plan.hash == recording.plan_hash, f"the graph is no longer the one that was recorded: {ANEW}"
    run = Run(RunId("golden"), golden.task, [NodeState() for _ in plan.nodes], state=dict(initial))

    for number, step in enumerate(recording.steps):
        transition = advance(plan, run, step.input, step.now, step.draw, room=step.room)
        assert facts_of(transition) == step.facts, f"step {number} of {name} tells another story; {ANEW}"
        assert digest_of(transition) == step.digest, f"step {number} of {name} changes other things; {ANEW}"
        apply(run, transition, plan)

    assert run.status.value == recording.status
    assert run.status.is_final


def test_every_golden_run_has_its_file_and_every_file_its_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(GOLDEN)


def test_golden_runs_go_through_what_the_rules_are_about() -> None:
    steps = [step for name in GOLDEN for step in Recording.load(name).steps]

    inputs = {type(step.input).__name__ for step in steps}
    told = {fact.split(" ", 1)[0] for step in steps for fact in step.facts}

    assert inputs >= {
        "Begin", "Started", "RetryDue", "Outcome", "ItemsStored", "ItemOutcomes", "StateSet", "Stop"
    }  # fmt: skip
    assert told >= {
        "RunStarted", "RunFinished", "NodeStarted", "NodeSucceeded", "NodeFailed", "NodeSkipped", "NodeStopped",
        "RetryScheduled", "DecisionFired", "MapOpened", "ItemsFinished", "ItemFailed", "LimitReached",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["parallel_agent", "map_with_failures"])
def test_recording_is_what_the_engine_folds(name: str, redis_url: str) -> None:
    """Recorded anew, a run differs in times and in the order of what happens at once, not in its end."""
    anew, stored = record(name, redis_url), Recording.load(name)

    assert anew.plan_hash == stored.plan_hash
    assert anew.status == stored.status
    assert anew.steps[0].facts == stored.steps[0].facts
    assert all(from_json(as_json(step.input)) == step.input for step in anew.steps)
