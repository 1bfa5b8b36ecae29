"""Graphs become plans, and bad graphs are refused with every problem in one error."""

import json
import time

import pytest

from graphflow.errors import InvalidGraph
from graphflow.graph import (
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    ModuleConfig,
    ModuleType,
    Node,
    NodeConfig,
)
from graphflow.graph.functions import FunctionModule
from graphflow.planning.compile import compile_plan
from graphflow.planning.plan import REQUIRED, Binding, Source


class Work(AgentModule):
    async def process(self, cache, semaphore):
        return None


def plan_of(*nodes, **limits):
    settings = {"name": "test", "max_concurrent_tasks": 3, "max_total_iterations": None, "deadline": None}
    return compile_plan(nodes, **settings | limits)


def problems_of(*nodes, **limits):
    with pytest.raises(InvalidGraph) as refused:
        plan_of(*nodes, **limits)
    return refused.value.problems


def work(name, *dependencies, start=None, modules=None, **config):
    return Node(
        name=name,
        dependencies=list(dependencies),
        modules=[Work()] if modules is None else modules,
        start=start,
        node_config=NodeConfig(**config),
    )


def flow(name, *dependencies, start=None, default=None, select="all", modules=(), **conditions):
    """A node that ends in flow control; each keyword is a target with its condition."""
    decisions = [
        FlowDecision(next_node=target, condition=condition) for target, condition in conditions.items()
    ]
    config = FlowControlConfig(decisions=decisions, default=default, select=select)
    return Node(
        name=name,
        dependencies=list(dependencies),
        modules=[*modules, FlowControlModule(flow_config=config)],
        start=start,
    )


def function(body, *after, start=None, to=(), module_type=ModuleType.EXECUTOR, **config):
    module = FunctionModule(name=body.__name__, function=body, to=list(to), type=module_type)
    return Node(
        name=body.__name__,
        type=module_type,
        modules=[module],
        dependencies=list(after),
        start=start,
        node_config=NodeConfig(**config),
    )


def decide(body, *after, to):
    return function(body, *after, to=to, module_type=ModuleType.FLOW_CONTROL)


def named(plan, numbers):
    return {plan.nodes[number].name for number in numbers}


def starting(plan):
    return {node.name for node in plan.nodes if node.starts}


def ending(plan):
    return {node.name for node in plan.nodes if node.is_end}


# Order and masks


def test_nodes_come_after_what_they_depend_on_and_else_in_order_of_addition():
    plan = plan_of(work("join", "b", "a"), work("b", "root"), work("a", "root"), work("root"), work("other"))

    assert [node.name for node in plan.nodes] == ["root", "b", "a", "join", "other"]
    assert [node.index for node in plan.nodes] == [0, 1, 2, 3, 4]
    assert plan.by_name == {"root": 0, "b": 1, "a": 2, "join": 3, "other": 4}


def test_choosers_come_before_the_roots_that_wait_for_them():
    plan = plan_of(work("left"), flow("choose", "begin", left="x"), work("begin"))

    assert [node.name for node in plan.nodes] == ["begin", "choose", "left"]
    assert plan.node("left").ancestors == plan.node("begin").bit | plan.node("choose").bit
    assert plan.node("begin").descendants == plan.node("choose").bit | plan.node("left").bit


def test_ancestors_are_transitive_and_leave_the_node_itself_out():
    plan = plan_of(work("a"), work("b", "a"), work("c", "b"), work("d", "a"))

    assert plan.names(plan.node("c").ancestors) == ("a", "b")
    assert plan.names(plan.node("a").descendants) == ("b", "c", "d")
    assert named(plan, plan.node("a").dependents) == {"b", "d"}


def test_nodes_that_choose_each_other_are_their_own_ancestors():
    plan = plan_of(
        flow("hub", writer="a"),
        flow("writer", modules=[Work()], critic="b"),
        flow("critic", modules=[Work()], writer="c"),
    )

    assert plan.node("writer").ancestors == plan.node("writer").bit | plan.node("critic").bit


# Rule 1: who starts


def test_roots_start():
    assert starting(plan_of(work("a"), work("b"), work("c", "a"))) == {"a", "b"}


def test_root_that_a_decision_names_waits_to_be_chosen():
    plan = plan_of(
        work("begin"), flow("choose", "begin", default="right", left="x"), work("left"), work("right")
    )

    assert starting(plan) == {"begin"}
    assert named(plan, plan.node("left").choosers) == {"choose"}
    assert named(plan, plan.node("right").choosers) == {"choose"}
    assert plan.names(plan.node("choose").awaited_by) == ("left", "right")


def test_root_that_only_its_own_descendants_name_starts():
    plan = plan_of(
        work("planner"), work("executor", "planner"), flow("again", "executor", planner="not done")
    )

    assert starting(plan) == {"planner"}
    assert plan.node("planner").choosers == ()


def test_chooser_below_the_root_is_not_awaited():
    plan = plan_of(
        work("begin"), flow("choose", "begin", step="x"), work("step"), flow("again", "step", step="not done")
    )

    assert named(plan, plan.node("step").choosers) == {"choose"}


def test_error_handler_waits_for_the_nodes_whose_on_error_it_is():
    plan = plan_of(work("fetch", on_error="repair"), work("parse", on_error="repair"), work("repair"))

    assert starting(plan) == {"fetch", "parse"}
    assert named(plan, plan.node("repair").choosers) == {"fetch", "parse"}
    assert named(plan, plan.node("repair").handles) == {"fetch", "parse"}
    assert plan.node("fetch").on_error == plan.by_name["repair"]


def test_retry_from_an_ancestor_does_not_keep_it_from_starting():
    plan = plan_of(work("plan"), work("execute", "plan", retry_from="plan"))

    assert starting(plan) == {"plan"}


def test_start_true_starts_in_any_case():
    plan = plan_of(
        work("a"),
        flow("choose", "a", b="x", c="y"),
        work("b", start=True),
        work("c", "a", start=True),
    )

    assert starting(plan) == {"a", "b", "c"}
    assert plan.node("b").choosers == ()


def test_start_false_leaves_the_start_to_decisions_even_with_dependencies():
    plan = plan_of(work("a"), flow("choose", "a", report="x"), work("report", "a", start=False))

    report = plan.node("report")
    assert (report.starts, report.only_chosen) == (False, True)
    assert named(plan, report.dependencies) == {"a"}
    assert (report.waits, named(plan, report.choosers)) == (True, {"choose"})


def test_writer_and_critic_by_jumps_alone_are_told_about_start():
    writer = flow("writer", modules=[Work()], critic="draft != null")
    critic = flow("critic", modules=[Work()], writer="not approved")

    (problem,) = problems_of(writer, critic)
    plan = plan_of(writer.model_copy(update={"start": True}), critic)

    assert problem == (
        "nodes 'writer', 'critic' can never start: each waits to be chosen by another of them; "
        "give the one that is to begin start=True"
    )
    assert starting(plan) == {"writer"}
    assert ending(plan) == {"critic"}


def test_node_that_nothing_can_start_is_refused():
    assert problems_of(work("a"), work("b", start=False), work("c", "b")) == (
        "node 'b' can never start: it has start=False and no decision or on_error names it; "
        "name it in one, or drop start=False",
    )
    (problem,) = problems_of(work("a", start=False), flow("again", "a", a="x"))
    assert problem.startswith("node 'a' can never start: only nodes that start after it choose it")


# Rule 6: supervisors


def test_naive_parallel_agent_is_started_by_its_supervisor():
    pending = "subtasks != null and len([s for s in subtasks if s['status'] == 'pending']) > 0"
    processors = [work(f"p{number}", "splitter", condition=pending) for number in range(3)]
    hub = flow(
        "flow_control", default="splitter", p0=pending, p1=pending, p2=pending, aggregator="done != null"
    )

    plan = plan_of(work("splitter"), *processors, work("aggregator", "p0", "p1", "p2"), hub)

    assert starting(plan) == set()
    assert plan.names(sum(plan.nodes[number].bit for number in plan.scopes[0].supervisors)) == (
        "flow_control",
    )
    assert plan.node("splitter").named_by_supervisor
    assert not plan.node("aggregator").named_by_supervisor
    assert ending(plan) == {"aggregator"}
    decisions = plan.node("flow_control").flow
    assert [plan.nodes[decision.targets[0]].name for decision in decisions.decisions] == [
        "p0",
        "p1",
        "p2",
        "aggregator",
    ]
    assert [decision.label for decision in decisions.decisions] == [pending] * 3 + ["done != null"]
    assert plan.nodes[decisions.default.targets[0]].name == "splitter"
    assert decisions.names == {"subtasks", "done"}


def test_supervisors_decide_in_order_of_addition():
    plan = plan_of(work("a", "z"), flow("second", a="x"), work("z"), flow("first", a="y"))

    assert [plan.nodes[number].name for number in plan.scopes[0].supervisors] == ["second", "first"]


def test_flow_control_with_dependents_or_start_true_is_in_the_graph():
    plan = plan_of(flow("gate", default="a"), work("a", "gate"), flow("begin", start=True, b="x"), work("b"))

    assert plan.scopes[0].supervisors == ()
    assert starting(plan) == {"gate", "begin"}


def test_decision_that_names_a_supervisor_starts_nothing_and_warns():
    plan = plan_of(
        flow("hub", a="x", hub="y"), flow("a", modules=[Work()], default=["hub", "b"]), work("b", "a")
    )

    assert named(plan, plan.node("a").flow.default.targets) == {"b"}
    assert plan.node("hub").flow.decisions[1].targets == ()
    assert any("the decision starts nothing" in warning for warning in plan.warnings)


def test_supervisor_is_refused_where_something_must_run():
    def route(): ...

    problems = problems_of(
        flow("hub", a="x"),
        work("a", on_error="hub"),
        function(route, to=["hub", "END"]),
        flow("odd", a="y").model_copy(update={"node_config": NodeConfig(condition="z")}),
    )

    assert any("'route': to= names 'hub'" in problem for problem in problems)
    assert any("'a': on_error names 'hub'" in problem for problem in problems)
    assert any("'odd': flow control that stands apart is never considered" in problem for problem in problems)
    assert len(problems) == 3


# Decisions


def test_decisions_are_looked_up_once_with_end_and_label():
    config = FlowControlConfig(
        decisions=[
            FlowDecision(
                next_node=["b", "b", "END"], condition="x > nodes.a", condition_variables=["x"], repeat=True
            ),
            FlowDecision(next_node="b"),
        ],
        select="first",
    )
    plan = plan_of(
        work("a"),
        work("b", "a"),
        Node(name="c", dependencies=["a"], modules=[FlowControlModule(flow_config=config)]),
    )

    first, other = plan.node("c").flow.decisions
    assert (named(plan, first.targets), first.ends, first.clears, first.repeat) == ({"b"}, True, ("x",), True)
    assert (other.label, other.condition, other.ends) == ("else", None, False)
    assert plan.node("c").flow.select_first
    assert (plan.node("c").flow.names, plan.node("c").flow.node_names) == ({"x"}, {"a"})


def test_trailing_flow_control_makes_its_node_decide():
    plan = plan_of(flow("work", modules=[Work(), Work()], default="END"))

    node = plan.node("work")
    assert (len(node.modules), node.decides, node.is_pure_flow, node.supervises) == (2, True, False, False)
    assert node.flow.default.ends


def test_returned_decisions_are_bound_to_to():
    class Router(AgentModule):
        to = ["b", "END"]

        async def process(self, cache, semaphore): ...

    plan = plan_of(work("a", modules=[Work(), Router()]), work("b"), work("c", "a"))

    targets, may_end = plan.node("a").returns
    assert (named(plan, targets), may_end) == ({"b"}, True)
    assert plan.node("c").returns is None


def test_flow_control_may_not_name_itself_but_a_working_node_may():
    problems = problems_of(work("a"), flow("gate", "a", gate="x"))
    plan = plan_of(flow("loop", modules=[Work()], loop="x", default="END"))

    assert problems == (
        "node 'gate': flow control in the graph may not name itself; name a node that does some work",
    )
    assert named(plan, plan.node("loop").flow.decisions[0].targets) == {"loop"}


def test_endless_jumps_through_flow_control_are_refused():
    (problem,) = problems_of(
        work("a"), flow("one", "a", two="x"), flow("two", "a", three="y"), flow("three", "two", one="z")
    )

    assert problem.startswith("flow control leads to flow control for ever: one -> two -> three -> one;")


def test_jumps_through_a_node_that_works_are_no_endless_cycle():
    def route(a):
        return "one"

    plan = plan_of(work("a"), flow("one", "a", route="x"), decide(route, to=["one"]))

    assert plan.node("route").decides


def test_forward_jump_warns():
    plan = plan_of(work("a"), flow("skip", "a", late="x"), work("early", "skip"), work("late", "early"))
    branch = plan_of(
        work("a"), flow("skip", "a", early="x", late="y"), work("early", "skip"), work("late", "skip")
    )

    assert len(plan.warnings) == 1
    assert plan.warnings[0].startswith("node 'skip' may jump ahead to 'late'")
    assert branch.warnings == ()


# Rule 7: end nodes


def test_last_nodes_are_end_nodes():
    assert ending(plan_of(work("a"), work("b", "a"), work("c", "a"))) == {"b", "c"}


def test_flow_control_and_decisions_back_do_not_keep_a_node_from_being_an_end():
    def enough(executor): ...

    by_data = plan_of(work("planner"), work("executor", "planner"), flow("again", "executor", planner="x"))
    by_function = plan_of(
        work("planner"),
        work("executor", "planner"),
        decide(enough, to=["planner", "END"]),
        work("report", "executor"),
    )

    assert ending(by_data) == {"executor"}
    assert ending(by_function) == {"report"}


def test_decision_forward_makes_its_target_the_end():
    def enough(combine): ...

    plan = plan_of(
        work("combine"), decide(enough, to=["combine", "report"]), work("report", "combine", start=False)
    )

    assert ending(plan) == {"report"}


def test_end_is_found_through_flow_control():
    assert ending(plan_of(work("a"), flow("gate", "a", default="b"), work("b", "gate"))) == {"b"}


def test_every_node_is_an_end_if_there_is_none():
    plan = plan_of(
        flow("a", modules=[Work()], start=True, b="x"), flow("b", modules=[Work()], start=True, a="y")
    )

    assert ending(plan) == {"a", "b"}


def test_what_follows_an_error_handler_can_be_an_end_node():
    plan = plan_of(
        work("job", on_error="repair"),
        work("repair"),
        work("notify", "repair"),
        work("join", "repair", "job"),
    )

    assert ending(plan) == {"join", "notify"}


# Functions


def chunks(task): ...


async def double(chunk, index, task, cache, semaphore): ...


def combine(double, limit=10): ...


def test_parameters_are_bound_and_make_dependencies():
    plan = plan_of(function(combine), function(double, map_over="chunks"), function(chunks))

    assert [node.name for node in plan.nodes] == ["chunks", "double", "combine"]
    assert plan.node("chunks").modules[0].bindings == (Binding("task", Source.TASK),)
    assert [(b.parameter, b.source) for b in plan.node("double").modules[0].bindings] == [
        ("chunk", Source.ITEM),
        ("index", Source.INDEX),
        ("task", Source.TASK),
        ("cache", Source.CACHE),
        ("semaphore", Source.SEMAPHORE),
    ]
    assert plan.node("combine").modules[0].bindings == (
        Binding("double", Source.NODE, "double", REQUIRED),
        Binding("limit", Source.DEFAULT, "limit", 10),
    )
    assert plan.node("double").map.source_node == plan.by_name["chunks"]


def test_first_parameter_of_a_map_is_the_item_whatever_its_name():
    def each(task, chunks): ...

    plan = plan_of(function(chunks), function(each, map_over="chunks"))

    assert plan.node("each").modules[0].bindings == (
        Binding("task", Source.ITEM),
        Binding("chunks", Source.NODE, "chunks", REQUIRED),
    )


def test_default_of_a_dependency_is_kept():
    def report(chunks=None): ...

    plan = plan_of(function(chunks), function(report))

    assert plan.node("report").modules[0].bindings == (Binding("chunks", Source.NODE, "chunks", None),)
    assert named(plan, plan.node("report").dependencies) == {"chunks"}


def test_state_keys_come_from_outputs_inputs_and_the_initial_state():
    def report(total, rate, config): ...

    plan = plan_of(work("count", outputs=["total"]), function(report, inputs=["rate"]), state_keys=["config"])

    assert [b.source for b in plan.node("report").modules[0].bindings] == [Source.KEY] * 3
    assert named(plan, plan.node("report").dependencies) == {"count"}


def test_own_result_and_output_can_be_read_when_they_are_asked_for():
    def count(count, total=0): ...

    plan = plan_of(function(count, inputs=["count"], outputs=["total"]))

    assert plan.node("count").modules[0].bindings == (
        Binding("count", Source.KEY, "count", REQUIRED),
        Binding("total", Source.KEY, "total", 0),
    )


def test_parameter_that_nothing_fills_is_named_with_its_neighbours():
    def report(doubel, total): ...

    problems = problems_of(
        function(chunks),
        function(double, map_over="chunks"),
        function(report, outputs=["total"]),
        function(combine),
    )

    assert problems[0].startswith(
        "node 'report': nothing fills parameter 'doubel' of function 'report'; did you mean 'double'?"
    )
    assert "is written by this node alone" in problems[1]
    assert len(problems) == 2


def test_parameters_that_cannot_mean_anything_are_refused():
    def plain(cache): ...

    def selfish(selfish): ...

    def indexed(index): ...

    async def unfit(cache, item): ...

    def star(*rest): ...

    problems = problems_of(
        function(chunks),
        function(plain),
        function(selfish),
        function(indexed),
        function(unfit, map_over="chunks"),
        function(star),
    )

    assert (
        "node 'plain': function 'plain' asks for 'cache', which it would have to await; make it async def"
        in problems
    )
    assert any("'selfish' names the node itself" in problem for problem in problems)
    assert any("node 'indexed'" in problem and "in a map node only" in problem for problem in problems)
    assert any(
        "node 'unfit'" in problem and "item of the map as its first parameter" in problem
        for problem in problems
    )
    assert any("node 'star'" in problem and "*rest" in problem for problem in problems)


# Maps


def test_map_over_a_declared_key_depends_on_who_declares_it():
    def score(item): ...

    plan = plan_of(work("split", outputs=["parts"]), function(score, map_over="parts"))

    assert named(plan, plan.node("score").dependencies) == {"split"}
    assert (plan.node("score").map.source_node, plan.node("score").map.source) == (None, "parts")


def test_map_over_initial_state_needs_no_dependency():
    def score(item): ...

    plan = plan_of(function(score, map_over="parts", where="item > 3 and index < 5"), state_keys=["parts"])

    assert starting(plan) == {"score"}
    assert plan.node("score").map.where.names == set()


def test_map_over_a_key_of_a_module_class_must_not_start_first():
    def score(item): ...

    plan = plan_of(work("split"), function(score, "split", map_over="parts"))
    problems = problems_of(work("split"), function(score, map_over="parts"))

    assert plan.node("score").map.source == "parts"
    assert "map_over='parts' is neither a node nor a known state key" in problems[0]


def test_map_over_a_typo_is_refused_where_functions_produce():
    def score(item): ...

    (problem,) = problems_of(function(chunks), function(score, "chunks", map_over="chunk"))

    assert "did you mean 'chunks'?" in problem


def test_map_node_refusals():
    async def choosy(item): ...

    def score(item): ...

    problems = problems_of(
        work("two", "a", modules=[Work(), Work()], map_over="a"),
        flow("deciding", modules=[Work()], a="x").model_copy(
            update={"node_config": NodeConfig(map_over="a")}
        ),
        work("filter", where="item"),
        work("own", map_over="own"),
        work("a"),
        function(score, map_over="a", where=choosy),
    )

    assert (
        "node 'two': a map node has one module, this one has 2; put the others into nodes of their own"
        in problems
    )
    assert (
        "node 'deciding': a map node cannot decide; put the decision into a node that depends on it"
        in problems
    )
    assert "node 'filter': where filters the items of a map, but map_over is not set" in problems
    assert any("'own': map_over names the node itself" in problem for problem in problems)
    assert any("'score': where is async" in problem for problem in problems)


def test_maps_that_expressions_read_are_known():
    def score(item): ...

    def rate(item): ...

    plan = plan_of(
        function(chunks),
        function(score, map_over="chunks"),
        function(rate, map_over="chunks"),
        work("report", "score", condition="len(nodes.score) > 3"),
    )

    assert plan.names(plan.maps_in_expressions) == ("score",)


# Rule 13: refusals


def test_every_problem_is_in_one_error():
    problems = problems_of(
        work("combine", "doubel"),
        work("double", condition="x >"),
        work("double"),
        work("END"),
        work("list"),
        work("a b"),
        work("empty", modules=[]),
        flow("choose", "double", nowhere="x", default="doubl"),
        work("fallible", on_error="fallibel"),
        work("own", "own", on_error="own"),
    )

    assert "node 'combine': unknown dependency 'doubel'; did you mean 'double'?" in problems
    assert any(p.startswith("node 'double': condition: ") and "'x >'" in p for p in problems)
    assert "node 'double': this name is used twice; every node needs a name of its own" in problems
    assert sum("this name is reserved" in p for p in problems) == 2
    assert any(p.startswith("node 'a b': a name consists of") for p in problems)
    assert "node 'empty': has no modules; give it at least one to run" in problems
    assert any("node 'choose': unknown target of decision 1 'nowhere'" in p for p in problems)
    assert "node 'choose': unknown target of default 'doubl'; did you mean 'double'?" in problems
    assert "node 'fallible': unknown on_error node 'fallibel'; did you mean 'fallible'?" in problems
    assert any("node 'own': depends on itself" in p for p in problems)
    assert any("node 'own': on_error names the node itself" in p for p in problems)
    assert len(problems) == 12


def test_error_shows_every_problem_on_a_line():
    with pytest.raises(InvalidGraph, match=r"the graph has 2 problems:\n  - node 'a': .*\n  - node 'b': "):
        plan_of(work("a", "x"), work("b", "x"))


def test_empty_graph_and_limits_without_room_are_refused():
    problems = problems_of(max_concurrent_tasks=0, max_total_iterations=0, deadline=0)

    assert len(problems) == 4
    assert problems[0] == "it has no nodes; add one with add_node or @agent.node"


def test_default_of_slots_grows_to_what_a_node_asks_for():
    plan = plan_of(
        work("a", max_concurrency=200), work("b", max_concurrency=150), work("c"), max_concurrent_tasks=None
    )

    assert plan.max_concurrent_tasks == 200
    assert plan.warnings == ()
    assert json.loads(plan.json)["limits"]["max_concurrent_tasks"] == 200


def test_default_of_slots_stays_where_no_node_asks_for_more():
    plans = [plan_of(work("a", max_concurrency=limit), max_concurrent_tasks=None) for limit in (None, 5, 100)]

    assert [plan.max_concurrent_tasks for plan in plans] == [100, 100, 100]
    assert [plan.warnings for plan in plans] == [(), (), ()]


def test_slots_that_were_given_hold_and_a_node_that_asks_for_more_is_warned_about():
    plan = plan_of(
        work("wide", max_concurrency=200), work("b", max_concurrency=100), max_concurrent_tasks=100
    )

    assert plan.max_concurrent_tasks == 100
    (warning,) = plan.warnings
    assert warning.startswith(
        "node 'wide' asks for max_concurrency=200, but max_concurrent_tasks=100 lets no more run at a time"
    )
    assert warning.endswith("give the agent max_concurrent_tasks=200, or leave it out")


def test_limit_of_a_node_that_is_refused_does_not_count_for_the_slots():
    node = work("a")
    node.node_config.max_concurrency = "many"

    (problem,) = problems_of(node, max_concurrent_tasks=None)

    assert "max_concurrency" in problem


def test_dependency_cycle_is_shown_as_a_path():
    (problem,) = problems_of(work("a", "c"), work("b", "a"), work("c", "b"), work("d"))

    assert (
        problem
        == "the dependencies form a cycle: a -> b -> c -> a; drop one of them and let a decision lead back"
    )


def test_dependency_cycle_through_a_decider_says_that_the_decision_is_the_edge():
    (problem,) = problems_of(work("writer", "critic"), flow("critic", "writer", modules=[Work()], writer="x"))

    assert "writer -> critic -> writer" in problem
    assert "'critic' decides on 'writer': drop the dependency, the decision is the edge" in problem


def test_dependency_cycle_by_parameters_names_the_parameter():
    def writer(critic=None): ...

    def critic(writer): ...

    (problem,) = problems_of(function(writer), function(critic))

    assert "'critic' depends on 'writer' by its parameter 'writer'" in problem


def test_what_is_not_in_this_version_is_refused_by_name():
    class Yielding(AgentModule):
        async def process(self, cache, semaphore):
            yield 1

    async def stream(task):
        yield 1

    problems = problems_of(
        work("remote", executor="ray", resources={"num_gpus": 0.1}),
        work("path", map_over="$.a", inputs=["$.b"], outputs=["$.c"], condition="$.d"),
        work("middle", modules=[Work(config=ModuleConfig(middlewares=[object()]))]),
        work("yields", modules=[Yielding()]),
        function(stream),
        Node(name="sub", type=ModuleType.SUBGRAPH, modules=[Work()]),
    )

    for said in (
        "node 'remote': executor 'ray' is not in this version; there is 'inline'",
        "node 'remote': resources is not in this version",
        "node 'path': map_over '$.a': JSONPath is not in this version",
        "node 'path': inputs '$.b': JSONPath",
        "node 'path': outputs '$.c': JSONPath",
        "node 'path': condition: JSONPath",
        "node 'middle': module 'Work': middlewares",
        "node 'yields': module 'Yielding': a process that yields",
        "node 'stream': function",
        "node 'sub': ModuleType.SUBGRAPH is for a node whose module is an agent",
    ):
        assert any(problem.startswith(said) for problem in problems), said


def test_modules_that_cannot_run_are_refused():
    class Nothing(AgentModule):
        pass

    class Plain(AgentModule):
        def process(self, cache, semaphore): ...

    last = FlowControlModule(flow_config=FlowControlConfig(default="a"))
    problems = problems_of(
        work("a", modules=[Nothing()]),
        work("b", modules=[Plain()]),
        work("c", modules=[last, Work()]),
        work("d", modules=[last, last]),
        work("e", modules=[Work(to=["a"]), Work()]),
        work("f", modules=[Work(), Work(to=["a"])], parallel=True),
    )

    assert [problem.partition(":")[0] for problem in problems] == [f"node '{name}'" for name in "abcdef"]


# What a plan says about itself


def test_hash_ignores_bodies_limits_and_names_of_agents():
    def first():
        def chunks(task):
            return 1

        return chunks

    def second():
        def chunks(task):
            return 2

        return chunks

    one = plan_of(function(first()), name="one")
    two = plan_of(function(second()), name="two", max_concurrent_tasks=9, deadline=5)

    assert one.hash == two.hash
    assert len(one.hash) == 12


@pytest.mark.parametrize(
    "changed",
    [
        [work("a"), work("b", "a"), work("c", "a")],
        [work("a"), work("b")],
        [work("a"), work("b", "a", condition="x")],
        [work("a"), work("b", "a", max_retries=5)],
        [work("a"), work("b", "a", modules=[Work(config=ModuleConfig(timeout=5))])],
        [work("a"), work("b", "a", modules=[Work(), Work()])],
        [work("a"), flow("b", "a", modules=[Work()], default="END")],
        [work("a"), work("b", "a", start=True)],
        [work("a"), work("B", "a")],
    ],
)
def test_hash_changes_with_the_graph(changed):
    assert plan_of(*changed).hash != plan_of(work("a"), work("b", "a")).hash


def test_json_describes_the_graph_to_other_processes():
    plan = plan_of(
        function(chunks),
        function(double, map_over="chunks", max_concurrency=100),
        flow("hub", double="x > 1"),
    )

    described = json.loads(plan.json)

    assert described["name"] == "test"
    assert described["hash"] == plan.hash
    assert described["nodes"][1] == {
        "name": "double",
        "type": "executor",
        "dependencies": ["chunks"],
        "config": {"max_concurrency": 100, "map_over": "chunks"},
        "modules": [{"name": "double", "class": "function"}],
    }
    assert described["nodes"][2]["modules"][0]["flow"] == {
        "decisions": [{"to": ["double"], "condition": "x > 1"}]
    }


def test_limits_and_masks_of_the_plan():
    plan = plan_of(work("a"), work("b", "a", run_when="settled"))

    assert plan.max_total_iterations == 120
    assert plan_of(work("a"), max_total_iterations=7).max_total_iterations == 7
    assert plan.settled_mask == plan.node("b").bit


def test_compiling_calls_nothing_and_is_fast_for_a_thousand_nodes():
    def explode(task):
        raise AssertionError("a function was called")

    bodies = [function(explode).model_copy(update={"name": "root"})]
    before = [f"n{number}" for number in range(1000)]
    nodes = [
        work(name, *(before[number - 3 : number] if number > 2 else ["root"]))
        for number, name in enumerate(before)
    ]

    started = time.thread_time()
    plan = plan_of(*reversed(nodes), *bodies)
    elapsed = time.thread_time() - started

    assert len(plan.nodes) == 1001
    assert plan.node("n999").ancestors.bit_count() == 1000
    assert elapsed < 1
