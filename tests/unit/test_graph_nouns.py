"""What users build graphs from: modules, nodes, decisions, tasks."""

import subprocess
import sys

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import graphflow.graph
from graphflow import Agent, InvalidGraph
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


@pytest.mark.parametrize(
    ("door", "sentence"),
    [
        (
            lambda: Agent().node(retries=3),
            "@agent.node has no setting 'retries'; did you mean 'max_retries' or",
        ),
        (
            lambda: Agent().node(dependancies=[]),
            "@agent.node has no setting 'dependancies'; did you mean 'dep",
        ),
        (
            lambda: Agent().decide(to="a", afer="b"),
            "@agent.decide has no setting 'afer'; did you mean 'after'",
        ),
        (lambda: Agent(nmae="a"), "Agent has no setting 'nmae'; did you mean 'name'?"),
        (lambda: Task(type="a", parms={}), "Task has no setting 'parms'; did you mean 'params'?"),
        (lambda: Task(typ="a"), "Task has no setting 'typ'; did you mean 'type'?"),
        (
            lambda: Node(name="a", dependency=[]),
            "Node has no setting 'dependency'; did you mean 'dependencies'?",
        ),
        (
            lambda: Node(name="a", max_retries=3),
            "Node has no setting 'max_retries'; give it as node_config=NodeC",
        ),
        (
            lambda: Node(name="a", node_config={"retries": 3}),
            "NodeConfig has no setting 'retries'; did you mean",
        ),
        (
            lambda: NodeConfig(retry_form="a"),
            "NodeConfig has no setting 'retry_form'; did you mean 'retry_from'",
        ),
        (lambda: ModuleConfig(timout=3), "ModuleConfig has no setting 'timout'; did you mean 'timeout'?"),
        (lambda: Splitter(chunk_sise=3), "Splitter has no setting 'chunk_sise'; did you mean 'chunk_size'?"),
        (
            lambda: Splitter(timeout=3),
            "Splitter has no setting 'timeout'; give it as config=ModuleConfig(timeou",
        ),
        (lambda: FlowDecision(next="a"), "FlowDecision has no setting 'next'; did you mean 'next_node'?"),
        (
            lambda: FlowControlConfig(decision=[]),
            "FlowControlConfig has no setting 'decision'; did you mean 'dec",
        ),
        (
            lambda: FlowControlModule(flow_config={"decisions": [{"next": "a"}]}),
            "FlowDecision has no setting 'next'; did you mean 'next_node'?",
        ),
    ],
)
def test_unknown_setting_is_refused_with_the_nearest_name(door, sentence):
    with pytest.raises(InvalidGraph) as refused:
        door()

    assert str(refused.value).startswith(sentence)
    assert refused.value.problems == (str(refused.value),)
    assert refused.value.__cause__ is None


def test_all_unknown_settings_are_told_at_once_and_what_else_is_wrong():
    with pytest.raises(InvalidGraph) as refused:
        NodeConfig(pararell=True, retry_form="a")
    assert len(refused.value.problems) == 2

    with pytest.raises(InvalidGraph) as refused:
        Node(name=5, node_config={"retries": 3})
    assert sorted(problem.partition(";")[0] for problem in refused.value.problems) == [
        "Node.name: Input should be a valid string",
        "NodeConfig has no setting 'retries'",
    ]


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [
        ("input_mailbox", "did you mean 'input_mailboxes'"),
        ("timeout", "give it as config=ModuleConfig(timeout=...)"),
    ],
)
def test_class_body_with_an_unknown_setting_is_refused_with_the_nearest_name(attribute, sentence):
    with pytest.raises(InvalidGraph) as refused:
        type("Odd", (AgentModule,), {attribute: 5, "__module__": __name__})

    assert str(refused.value).startswith(f"Odd has no setting {attribute!r}; {sentence}")
    assert str(refused.value).endswith("(a field of your own needs an annotation)")


def test_task_inside_of_another_model_is_validated_as_data():
    class Request(BaseModel):
        task: Task

    with pytest.raises(ValidationError, match="Task has no setting 'parms'; did you mean") as refused:
        Request(task={"type": "a", "parms": {}})

    assert refused.value.errors()[0]["loc"] == ("task",)


def test_module_class_that_takes_more_than_its_fields_takes_it():
    class Open(AgentModule):
        model_config = ConfigDict(extra="allow")
        size: int = Field(1, alias="length")

    assert Open(length=3, colour="red").model_extra == {"colour": "red"}


def test_one_name_need_not_be_in_a_list():
    def one(item):
        return item

    agent = Agent()
    agent.node(name="a", dependencies="items", inputs="given", outputs="made")(one)
    agent.decide(name="b", to="a", after="items")(one)

    assert (agent.nodes["a"].dependencies, agent.nodes["b"].dependencies) == (["items"], ["items"])
    assert (agent.nodes["a"].node_config.inputs, agent.nodes["a"].node_config.outputs) == (
        ["given"],
        ["made"],
    )
    assert Node(name="c", dependencies="items").dependencies == ["items"]
    assert FlowDecision(next_node="a", condition_variables="done").condition_variables == ["done"]
    module = Splitter(to="first", input_mailboxes="orders")
    assert (module.to, module.input_mailboxes) == (["first"], ["orders"])


def test_keys_of_the_state_to_compile_for_may_be_one_name():
    agent = Agent()
    agent.node(name="a", map_over="items")(lambda item: item)

    assert agent.compile("items").nodes[0].map.source == "items"


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
