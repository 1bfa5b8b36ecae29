"""What users build graphs from: modules, nodes, decisions, tasks."""

import subprocess
import sys

import pytest
from pydantic import Field, ValidationError

import graphflow.graph
from graphflow.graph import (
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleConfig,
    ModuleType,
    Node,
    NodeConfig,
    RunStatus,
    Task,
    TaskStatus,
)


class Splitter(AgentModule):
    name = "splitter"
    type = ModuleType.PLANNER
    config = ModuleConfig(timeout=5)
    chunk_size: int = 3

    async def process(self, cache, semaphore):
        return {"status": "success", "result": self.chunk_size}


def test_class_body_overrides_fields_without_annotations():
    module = Splitter()

    assert (module.name, module.type, module.config.timeout) == ("splitter", ModuleType.PLANNER, 5)
    assert module.chunk_size == 3


def test_overrides_are_inherited_and_may_be_overridden_again():
    class Finer(Splitter):
        name = "finer"
        chunk_size = 1

    class Finest(Finer):
        type: ModuleType = ModuleType.OBSERVER

    assert (Finer().name, Finer().type, Finer().chunk_size) == ("finer", ModuleType.PLANNER, 1)
    assert (Finest().name, Finest().type, Finest().chunk_size) == ("finer", ModuleType.OBSERVER, 1)
    assert Splitter().chunk_size == 3


def test_arguments_win_over_the_class_body():
    module = Splitter(name="other", chunk_size=7)

    assert (module.name, module.chunk_size) == ("other", 7)


def test_override_in_a_class_body_is_validated():
    class Odd(AgentModule):
        type = "no such type"

    with pytest.raises(ValidationError, match="type"):
        Odd()


def test_instances_of_one_class_share_no_mutable_default():
    class Listed(AgentModule):
        to = ["a"]
        seen: list[int] = Field(default_factory=list)

    first, second = Listed(), Listed()
    first.to.append("b")
    first.seen.append(1)
    first.config.context["k"] = 1

    assert (second.to, second.seen, second.config.context) == (["a"], [], {})


def test_name_defaults_to_the_class_name_and_type_to_executor():
    class Nameless(AgentModule):
        pass

    assert (Nameless().name, Nameless().type) == ("Nameless", ModuleType.EXECUTOR)


def test_unknown_keyword_is_an_error_that_names_it():
    with pytest.raises(ValidationError, match="chunk_sise"):
        Splitter(chunk_sise=3)
    with pytest.raises(ValidationError, match="max_retrys"):
        NodeConfig(max_retrys=3)
    with pytest.raises(ValidationError, match="condtion"):
        FlowDecision(next_node="a", condtion="x")


def test_flow_control_module_needs_only_its_config():
    module = FlowControlModule(flow_config=FlowControlConfig(default="splitter"))

    assert (module.name, module.type) == ("flow_control", ModuleType.FLOW_CONTROL)


def test_flow_control_module_can_be_derived_with_plain_overrides():
    class Hub(FlowControlModule):
        name = "hub"
        flow_config = FlowControlConfig(decisions=[FlowDecision(next_node=["a", "END"], condition="x")])

    assert Hub().name == "hub"
    assert Hub().flow_config.decisions[0].targets == ("a", "END")


def test_all_six_module_types_are_accepted():
    names = ["planner", "executor", "flow_control", "subgraph", "discriminator", "observer"]

    assert [Node(name="n", type=name).type.value for name in names] == names


def test_retry_from_is_read_as_on_error():
    assert NodeConfig(retry_from="planner").on_error == "planner"
    assert NodeConfig(on_error="planner").on_error == "planner"


def test_attempts_are_one_without_retries():
    assert NodeConfig().attempts == 3
    assert NodeConfig(max_retries=5).attempts == 5
    assert NodeConfig(max_retries=5, retry_on_failure=False).attempts == 1


def test_node_keeps_the_very_modules_it_was_given():
    module = Splitter()

    assert Node(name="n", modules=[module]).modules[0] is module


def test_statuses_are_lower_case_strings_and_four_are_final():
    assert TaskStatus is RunStatus
    assert [status for status in RunStatus if status.is_final] == [
        "complete",
        "partial",
        "failed",
        "cancelled",
    ]
    assert f"{RunStatus.WAITING}" == "waiting"


def test_task_is_the_same_with_params_in_another_order():
    task = Task(type="numbers", params={"a": 1, "b": {"c": [1e16], "d": {"x", "y"}}})

    assert task.difference(Task(type="numbers", params={"b": {"d": {"y", "x"}, "c": [1e16]}, "a": 1})) is None
    assert (
        task.difference(Task(type="numbers", params={"a": 1, "b": {"c": (1e16,), "d": {"x", "y"}}}))
        == "params differ"
    )


def test_task_difference_ignores_ids():
    task = Task(type="numbers", objective="double", params={"n": 1})

    assert task.difference(Task(type="numbers", objective="double", params={"n": 1})) is None
    assert task.difference(Task(type="other", objective="double", params={"n": 1})) == "type differs"
    assert task.difference(Task(type="numbers", objective="double", params={"n": 2})) == "params differ"


def test_graph_package_exports_what_it_lists_and_refuses_the_rest():
    for name in set(graphflow.graph.__all__) - {"Agent", "END"}:
        assert getattr(graphflow.graph, name).__module__.startswith("graphflow.graph.")
    assert graphflow.graph.END == "END"
    assert set(graphflow.graph.__all__) <= set(dir(graphflow.graph))
    with pytest.raises(AttributeError, match="Agnt"):
        _ = graphflow.graph.Agnt


def test_importing_the_nouns_loads_no_engine_and_no_redis():
    code = "import sys, graphflow.graph.nodes, graphflow.graph.flow; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "graphflow.graph.nodes" in loaded
    assert not {"redis", "graphflow.engine", "graphflow.store", "asyncio"} & set(loaded)
