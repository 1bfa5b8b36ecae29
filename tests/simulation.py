"""The reference scheduler: runs a plan purely in memory, in an order that the test draws.

A module run reads and writes at the moment it ends, so every execution is one of those that the state's transactions
allow. What is folded when: an attempt's start when it gets a slot, its outcome when it is picked. `pick` says which of
the things that could happen next does; `cut` after how many of them free slots are filled again (a batch).
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from graphflow import events
from graphflow.codec import decode_plain, encode
from graphflow.graph.flow import FlowControlConfig, FlowControlModule, FlowDecision
from graphflow.graph.modules import AgentModule, ModuleConfig, ModuleType
from graphflow.graph.nodes import Graph, Node, NodeConfig
from graphflow.graph.tasks import Task
from graphflow.inputs import Begin, Entered, Input, ItemOutcomes, ItemsStored, Outcome, RetryDue, Started
from graphflow.planning.compile import compile_plan
from graphflow.planning.plan import Plan, bits
from graphflow.rules.advance import advance, apply
from graphflow.rules.readiness import Verdict, readiness, recount
from graphflow.run import Failure, NodeState, NodeStatus, Run
from graphflow.transition import Transition

# Graphs


class Work(AgentModule):
    """A module whose body is a behaviour of the simulation."""

    async def process(self, cache: Any, semaphore: Any) -> Any:
        raise AssertionError("the simulation does not call modules")


def work(
    name: str,
    *after: str,
    to: Iterable[str] = (),
    start: bool | None = None,
    modules: int = 1,
    stop_on_success: bool = False,
    flow: FlowControlConfig | None = None,
    **config: Any,
) -> Node:
    """A node that does something. With `to` its behaviour may decide, with `flow` it decides by conditions."""
    made: list[AgentModule] = [
        Work(name=f"{name}.{place}", config=ModuleConfig(stop_on_success=stop_on_success))
        for place in range(modules)
    ]
    made[-1].to = list(to)
    if flow is not None:
        made.append(FlowControlModule(flow_config=flow))
    return Node(
        name=name, modules=made, dependencies=list(after), start=start, node_config=NodeConfig(**config)
    )


def flow(
    *decisions: FlowDecision | str, default: str | list[str] | None = None, select: Any = "all"
) -> FlowControlConfig:
    """Decisions are FlowDecisions or texts such as `x if condition`; `x, y` names two."""
    return FlowControlConfig(
        decisions=[_decision(each) for each in decisions], default=default, select=select
    )


def choose(
    name: str,
    *decisions: FlowDecision | str,
    after: Iterable[str] = (),
    default: str | list[str] | None = None,
    select: Any = "all",
    start: bool | None = None,
    **config: Any,
) -> Node:
    """Flow control that the engine evaluates."""
    module = FlowControlModule(flow_config=flow(*decisions, default=default, select=select))
    kind = ModuleType.FLOW_CONTROL
    return Node(
        name=name,
        type=kind,
        modules=[module],
        dependencies=list(after),
        start=start,
        node_config=NodeConfig(**config),
    )


def _decision(text: FlowDecision | str) -> FlowDecision:
    if isinstance(text, FlowDecision):
        return text
    names, _, condition = text.partition(" if ")
    targets = [name.strip() for name in names.split(",")]
    return FlowDecision(next_node=targets if len(targets) > 1 else targets[0], condition=condition or None)


def plan_of(*nodes: Node, max_concurrent_tasks: int = 100, max_total_iterations: int | None = None) -> Plan:
    return compile_plan(
        nodes,
        name="test",
        max_concurrent_tasks=max_concurrent_tasks,
        max_total_iterations=max_total_iterations,
        deadline=None,
    )


class Inner(Graph):
    """A graph to be a node's module, in the place of an agent."""

    def __init__(self, *nodes: Node, **limits: Any) -> None:
        super().__init__()
        self._nodes += nodes
        for setting, value in limits.items():
            setattr(self, setting, value)


def sub(name: str, graph: Graph, *after: str, start: bool | None = None, **config: Any) -> Node:
    """A sub-graph."""
    node_config = NodeConfig(**config)
    return Node(
        name=name,
        modules=[graph],
        dependencies=list(after),
        start=start,
        node_config=node_config,  # type: ignore[list-item]
    )


def new_run(plan: Plan, state: dict[str, Any] | None = None, params: dict[str, Any] | None = None) -> Run:
    texts = {key: encode(value) for key, value in (state or {}).items()}
    task = Task(type="test", params=params or {})
    return Run("r", task, [NodeState() for _ in plan.nodes], state=texts)  # type: ignore[arg-type]


# Behaviours


@dataclass(frozen=True)
class To:
    """What a behaviour returns to decide."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)


class Fail(Exception):
    """A failure of the module; `final` if it is not to be tried again."""

    def __init__(self, message: str = "boom", final: bool = False) -> None:
        super().__init__(message)
        self.final = final


@dataclass
class View:
    """What a module run sees and changes."""

    plan: Plan
    run: Run
    node: str
    module: int
    #: The attempt of the sub-graph around it.
    entering: int = 1
    item: Any = None
    index: int | None = None
    writes: dict[str, str | None] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        return self.plan.node(self.node).prefix

    @property
    def visit(self) -> int:
        return self.run.nodes[self.plan.by_name[self.node]].visits

    @property
    def attempt(self) -> int:
        return self.run.nodes[self.plan.by_name[self.node]].modules[self.module].attempts + 1

    def get(self, key: str, default: Any = None) -> Any:
        key = self.prefix + key
        text = self.writes[key] if key in self.writes else self.run.state.get(key)
        return default if text is None else decode_plain(text)

    def set(self, key: str, value: Any) -> None:
        self.writes[self.prefix + key] = encode(value)

    def delete(self, key: str) -> None:
        self.writes[self.prefix + key] = None

    def result(self, name: str) -> Any:
        state = self.run.nodes[self.plan.by_name[self.prefix + name]]
        if state.settled_as is not NodeStatus.SUCCEEDED or state.result is None:
            return None
        return decode_plain(state.result)


Behaviour = Callable[[View], Any]


class Opaque:
    """A behaviour that also does something at the moment at which its node is ready."""

    def begin(self, view: View) -> None:
        raise NotImplementedError

    def __call__(self, view: View) -> Any:
        raise NotImplementedError


def write(**values: Any) -> Behaviour:
    """A behaviour that sets these keys."""

    def behaviour(view: View) -> None:
        for key, value in values.items():
            view.set(key, value)

    return behaviour


def count(key: str) -> Behaviour:
    """A behaviour that adds one to a key and returns the sum."""

    def behaviour(view: View) -> int:
        value = view.get(key, 0) + 1
        view.set(key, value)
        return int(value)

    return behaviour


def fails(*attempts: int, final: bool = False) -> Behaviour:
    """A behaviour that fails, in these visits if any are named."""

    def behaviour(view: View) -> None:
        if not attempts or view.visit in attempts:
            raise Fail(final=final)

    return behaviour


# Running


class Simulation:
    """One run of a plan. `history` lists (what, node) in the order in which it happened."""

    def __init__(
        self,
        plan: Plan,
        behaviours: dict[str, Behaviour] | None = None,
        *,
        state: dict[str, Any] | None = None,
        params: dict[str, Any] | None = None,
        pick: Callable[[int], int] = lambda count: 0,
        cut: Callable[[], int] = lambda: 1,
        checks: bool = False,
        entering: int = 1,
    ) -> None:
        self.plan = plan
        #: If it is the run of a graph that stands for a sub-graph: the attempt of that.
        self.entering = entering
        self.run = new_run(plan, state, params)
        self.behaviours = behaviours or {}
        self.events: list[events.Event] = []
        self.inputs: list[tuple[Input, float, float]] = []
        self.transitions: list[Transition] = []
        self._pick = pick
        self._cut = cut
        self._checks = checks
        self._now = 0.0
        self._ready: deque[tuple[int, int]] = deque()
        #: What could happen next: (node, module) that run or wait for a retry, (map node, item index).
        self._pending: list[tuple[str, int, int]] = []
        self._items: dict[int, dict[int, str]] = {}

    def finish(self) -> Run:
        """Drive the run to its end. AssertionError if nothing is pending although it is not over."""
        self.fold(Begin())
        while not self.run.status.is_final:
            self.admit()
            for _ in range(self._cut()):
                if not self.run.status.is_final and self._pending:
                    self.step()
        return self.run

    def admit(self) -> None:
        running = sum(what == "run" for what, _, _ in self._pending)
        while self._ready and running < self.plan.max_concurrent_tasks:
            node, module = self._ready.popleft()
            self.fold(Started(node, module))
            self._pending.append(("run", node, module))
            running += 1
        assert self._pending or self.run.status.is_final, "nothing is in flight, yet the run is not over"

    def step(self) -> None:
        """One of the things that could happen next happens."""
        what, node, place = self._pending.pop(self._pick(len(self._pending)))
        if what == "retry":
            self.fold(RetryDue(node, place))
        elif what == "item":
            self.fold(self._item_outcome(node, place))
        elif self.plan.nodes[node].map is not None:
            self.fold(self._items_of(node))
        else:
            self.fold(self._outcome(node, place))

    def fold(self, outcome: Input) -> Transition:
        self._now += 1
        before = copy.deepcopy(self.run) if self._checks else None
        self.inputs.append((outcome, self._now, 0.5))
        transition = advance(self.plan, self.run, outcome, self._now, 0.5)
        if before is not None:
            self._check(before, outcome, transition)
        apply(self.run, transition, self.plan)
        active, fresh = self.run.active, self.run.fresh
        recount(self.plan, self.run)
        assert (active, fresh) == (self.run.active, self.run.fresh), (
            "the masks differ from the states of the nodes"
        )
        if self._checks:
            self._check_that_nothing_was_overlooked()
        self.transitions.append(transition)
        self.events += transition.events
        self._take_up(transition)
        for index in transition.entering:
            self.fold(Entered(index))
        return transition

    def _check(self, before: Run, outcome: Input, transition: Transition) -> None:
        """`advance` leaves the run as it is, is a function of its arguments, and `apply` is one of its own."""
        before.seen, before.evaluated = self.run.seen, self.run.evaluated
        assert before == self.run
        before.seen, before.evaluated = {}, {}
        assert advance(self.plan, before, outcome, self._now, 0.5) == transition
        twin = copy.deepcopy(before)
        apply(before, transition, self.plan)
        apply(twin, copy.deepcopy(transition), self.plan)
        assert before == twin

    def _check_that_nothing_was_overlooked(self) -> None:
        if self.run.status.is_final or self.run.limit:
            return
        for node in self.plan.nodes:
            outer = self.plan.scopes[node.scope].node
            if outer is not None:
                state = self.run.nodes[outer]
                if not state.has_entered or state.graph.limit:
                    continue
            if not self.run.active >> node.index & 1:
                masks = self.run.active, self.run.fresh
                verdict = readiness(self.plan, self.run.nodes.__getitem__, *masks, node.index)
                assert verdict is Verdict.WAIT, f"{node.name!r} was overlooked: {verdict.name}"

    def _take_up(self, transition: Transition) -> None:
        for index in bits(transition.stopped):
            self._ready = deque(entry for entry in self._ready if entry[0] != index)
            self._pending = [entry for entry in self._pending if entry[1] != index]
        self._ready += transition.ready
        for node, _ in transition.ready:
            behaviour = self.behaviours.get(self.plan.nodes[node].name)
            if isinstance(behaviour, Opaque):
                behaviour.begin(self.view(node))
        self._pending += [("retry", node, place) for node, place, _ in transition.delayed]
        for node, change in transition.maps.items():
            if change.opened is not None:
                self._items[node] = dict(change.opened)
                self._pending += [("item", node, index) for index, _ in change.opened]

    def view(self, node: int, place: int = 0) -> View:
        plan_node = self.plan.nodes[node]
        outer = self.plan.scopes[plan_node.scope].node
        entering = self.entering if outer is None else self.run.nodes[outer].attempts + 1
        return View(self.plan, self.run, plan_node.name, place, entering)

    def _outcome(self, node: int, place: int) -> Outcome:
        plan_node = self.plan.nodes[node]
        view = self.view(node, place)
        outcome = Outcome(node, place, view.visit)
        try:
            value = self.behaviours.get(plan_node.name, lambda view: None)(view)
        except Fail as error:
            outcome.failure = Failure("Fail", str(error), retryable=not error.final)
            return outcome
        decides = plan_node.returns is not None and place == len(plan_node.modules) - 1
        if decides and isinstance(value, To):
            outcome.decision = value.names
        outcome.result = encode(list(value.names) if isinstance(value, To) else value)
        outcome.writes = view.writes
        return outcome

    def _items_of(self, node: int) -> ItemsStored:
        plan_node = self.plan.nodes[node]
        assert plan_node.map is not None
        view = View(self.plan, self.run, plan_node.name, 0)
        source = plan_node.map.source
        items = view.result(source) if plan_node.map.source_node is not None else view.get(source)
        return ItemsStored(
            node, view.visit, [(index, encode(item)) for index, item in enumerate(items or [])]
        )

    def _item_outcome(self, node: int, index: int) -> ItemOutcomes:
        name = self.plan.nodes[node].name
        view = View(self.plan, self.run, name, 0, 1, decode_plain(self._items[node][index]), index)
        outcome = ItemOutcomes(node, view.visit)
        try:
            outcome.done = [(index, encode(self.behaviours.get(name, lambda view: view.item)(view)))]
            outcome.writes = view.writes
        except Fail as error:
            outcome.failed = [(index, Failure("Fail", str(error)), 1)]
        return outcome

    # What tests ask

    def state(self, name: str) -> NodeState:
        return self.run.nodes[self.plan.by_name[name]]

    def status(self, name: str) -> str:
        return self.state(name).status.value

    def visits(self, *names: str) -> tuple[int, ...]:
        return tuple(self.state(name).visits for name in names)

    def value(self, key: str) -> Any:
        text = self.run.state.get(key)
        return None if text is None else decode_plain(text)

    def told(self, kind: type[events.Event], node: str | None = None) -> list[events.Event]:
        """The events of one kind, of one node if named."""
        return [
            event
            for event in self.events
            if type(event) is kind and node in (None, getattr(event, "node", None))
        ]


#: Two arrival orders for tests that name none of their own: the oldest first, the newest first.
ORDERS: dict[str, Callable[[int], int]] = {
    "oldest first": lambda count: 0,
    "newest first": lambda count: count - 1,
}


def simulate(plan: Plan, behaviours: dict[str, Behaviour] | None = None, **options: Any) -> Simulation:
    simulation = Simulation(plan, behaviours, checks=True, **options)
    simulation.finish()
    return simulation
