"""A graph compiled: what the rules need to know about each node, in the form in which they need it.

Nodes are numbered in topological order, and sets of nodes are bit masks over these numbers, so that a question such as
"is an ancestor of this dependency active" costs one `&`. Compiling and refusing bad graphs is done in `compile.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from graphflow.expressions import Expression
from graphflow.graph.modules import AgentModule, ModuleType
from graphflow.graph.nodes import NodeConfig, SnapshotControl
from graphflow.ids import NodeNumber
from graphflow.settings import DEFAULT_TIMEOUT_SECONDS

#: The default of a parameter that has none.
REQUIRED: Final = object()


class Source(Enum):
    """Where a function's parameter gets its value from."""

    TASK = "task"
    CACHE = "cache"
    SEMAPHORE = "semaphore"
    ITEM = "item"
    INDEX = "index"
    #: Of a generator: the number of elements to leave out.
    START = "start"
    #: The result of a node (of a map node: its results in input order).
    NODE = "node"
    #: A state key.
    KEY = "key"
    #: Nothing fills it: the function's own default stands.
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Binding:
    """One parameter of a function and what fills it. `name` is the node or state key for NODE and KEY."""

    parameter: str
    source: Source
    name: str = ""
    default: Any = REQUIRED


@dataclass(frozen=True, slots=True)
class PlanModule:
    """One module that is run as an attempt; flow control that the engine evaluates itself is not among these."""

    module: AgentModule
    #: For a function: what fills its parameters. None for a module class.
    bindings: tuple[Binding, ...] | None = None
    #: Whether its body is a coroutine function; the others run in threads.
    is_async: bool = True
    #: Whether its parameters are an item and its index, at most: as an item of a map it can touch no state.
    is_plain: bool = False
    #: Seconds for one attempt.
    timeout: float = DEFAULT_TIMEOUT_SECONDS

    @property
    def name(self) -> str:
        return self.module.name


@dataclass(frozen=True, slots=True)
class PlanDecision:
    """A decision with its targets looked up."""

    targets: tuple[NodeNumber, ...]
    #: True if END is among its targets.
    ends: bool
    condition: Expression | None
    #: State keys deleted when it fires.
    clears: tuple[str, ...]
    repeat: bool
    #: How messages call it: its condition, "else" or "default".
    label: str


@dataclass(frozen=True, slots=True)
class PlanFlow:
    """Flow control held as data: what `FlowControlConfig` says, compiled."""

    decisions: tuple[PlanDecision, ...]
    default: PlanDecision | None
    select_first: bool
    #: State keys and node names that all conditions together read; refraction of else and default looks at these.
    names: frozenset[str]
    node_names: frozenset[str]


@dataclass(frozen=True, slots=True)
class PlanGenerator:
    """A generator function that yields the items of a map."""

    function: Callable[..., Any]
    bindings: tuple[Binding, ...]
    is_async: bool

    @property
    def seeks(self) -> bool:
        """Whether it leaves out by itself what was taken before."""
        return any(binding.source is Source.START for binding in self.bindings)


@dataclass(frozen=True, slots=True)
class PlanMap:
    """How a map node comes by its items, and what it makes of their results."""

    #: The node whose result is the source, or None for a state key or a generator.
    source_node: NodeNumber | None
    #: What messages call the source: the node, state key or function.
    source: str
    where: Expression | Callable[[Any], bool] | None
    fail_fast: bool
    generator: PlanGenerator | None = None
    #: The source is a map: its records are gone through as they are, one by one.
    over_map: bool = False
    #: It begins when that map has its items, and gets each result as soon as it is there.
    pipelined: bool = False
    batch_size: int | None = None
    min_success: int | float | None = None
    reduce: Callable[[Any, Any], Any] | None = None

    @property
    def is_fed(self) -> bool:
        """Its items come a page at a time."""
        return self.generator is not None or self.over_map

    @property
    def borrows(self) -> bool:
        """Its items are the records of another map, of which it makes no copy."""
        return self.over_map and self.where is None

    def needed(self, total: int) -> int:
        """How many of so many items have to succeed."""
        if self.min_success is None:
            return min(1, total)
        if self.min_success < 1:
            return math.ceil(self.min_success * total)
        return math.ceil(self.min_success)


@dataclass(frozen=True, slots=True)
class PlanNode:
    """One node with everything that the rules ask about it. Numbers of other nodes are their places in the plan."""

    index: NodeNumber
    name: str
    type: ModuleType
    config: NodeConfig
    modules: tuple[PlanModule, ...]
    #: Flow control that ends the node's modules, or is the whole node. None if the node does not decide this way.
    flow: PlanFlow | None
    #: Numbers of the nodes, and whether END, that a returned decision may name; None if no module may return one.
    returns: tuple[frozenset[NodeNumber], bool] | None
    condition: Expression | None
    dependencies: tuple[NodeNumber, ...]
    dependents: tuple[NodeNumber, ...]
    #: Of a root that waits to be chosen: in-graph flow controls that name it and nodes whose on_error it is.
    choosers: tuple[NodeNumber, ...]
    #: A root that waits to be chosen and is named by a supervisor is never skipped.
    named_by_supervisor: bool
    #: Starts with the run.
    starts: bool
    #: Flow control that stands apart (rule 6).
    supervises: bool
    #: An end node in the sense of the rules: its success is the run's success.
    is_end: bool
    #: Bit masks over dependencies and choosers, transitively; without the node itself unless it is on a cycle.
    ancestors: int
    descendants: int
    on_error: NodeNumber | None
    map: PlanMap | None
    #: Nodes whose on_error is this node.
    handles: tuple[NodeNumber, ...] = ()
    #: Built with start=False: starts when a decision, a supervisor or an on_error names it, never by its dependencies.
    only_chosen: bool = False
    #: Bit mask of its dependencies.
    needs: int = 0
    #: Bit mask of its dependents and of the nodes that wait for it to choose them.
    awaited_by: int = 0
    #: Bit mask of the maps that go through the records of this one.
    lent_to: int = 0
    #: Those of them that are pipelined.
    streams_to: int = 0
    #: Whether the run's state is kept when the node has succeeded or failed; how a run goes does not depend on it.
    snapshot: SnapshotControl = SnapshotControl.NEVER
    #: Number of the scope that it stands in, and what comes before names there: "" or `research/`.
    scope: int = 0
    prefix: str = ""
    #: Of a sub-graph: the number of the scope of its graph.
    inner: int | None = None
    #: Its starts count towards max_total_iterations (rule 9).
    is_counted: bool = True

    @property
    def bit(self) -> int:
        return 1 << self.index

    @property
    def own_name(self) -> str:
        """As its own graph calls it; `name` has the path before it."""
        return self.name[len(self.prefix) :]

    @property
    def decides(self) -> bool:
        """Whether its success carries a choice among other nodes."""
        return self.flow is not None or self.returns is not None

    @property
    def is_pure_flow(self) -> bool:
        """Nothing to run: the engine decides as soon as the node is ready."""
        return self.flow is not None and not self.modules

    @property
    def lists_results(self) -> bool:
        """A map whose result is the list of its records, under its name in the state as well."""
        return self.map is not None and self.map.reduce is None

    @property
    def is_reduced(self) -> bool:
        """A map whose result is one value."""
        return self.map is not None and self.map.reduce is not None

    @property
    def waits(self) -> bool:
        """Whether only a choice starts it: it has no dependencies, or `start=False` and none of them may choose it."""
        return not self.dependencies or (
            self.only_chosen and set(self.choosers).isdisjoint(self.dependencies)
        )

    @property
    def awaited(self) -> tuple[NodeNumber, ...]:
        """The nodes whose settling may make this one ready, or have it skipped."""
        return (*self.dependencies, *self.choosers)


@dataclass(frozen=True, slots=True)
class PlanCopy:
    """A value that crosses the border of a sub-graph: `key` on one side is given what `value` is on the other."""

    key: str
    value: Expression
    #: It is a name alone: what is stored under it is taken as it is.
    is_name: bool


@dataclass(frozen=True, slots=True)
class PlanScope:
    """One graph among those of a plan: that of the run, which is number 0, or that of a sub-graph (rule 17).

    Its own nodes stand beside each other in the plan, and behind them the nodes of all graphs inside it.
    """

    max_concurrent_tasks: int
    max_total_iterations: int
    #: Seconds from the start of the run, or from the entering, to its end, or None.
    deadline: float | None
    #: Bit masks of its own nodes, and of these with all nodes inside them at any depth.
    members: int
    within: int
    number: int = 0
    #: The sub-graph whose graph it is; None for that of the run.
    node: NodeNumber | None = None
    prefix: str = ""
    #: How many scopes are around it.
    depth: int = 0
    #: Mailbox that is told what failed for good, or None.
    error_mailbox: str | None = None
    #: Supervisors in the order in which they were added.
    supervisors: tuple[NodeNumber, ...] = ()
    #: What it is given when it is entered, and what it gives when it has succeeded.
    inputs: tuple[PlanCopy, ...] = ()
    outputs: tuple[PlanCopy, ...] = ()
    #: What the names of keys inside its own sub-graphs begin with: nobody else reads or writes these.
    borders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph compiled and validated. Two plans of one hash run the same way, whatever their modules' bodies do."""

    name: str
    #: Those of the run's own graph first, then those of its sub-graphs.
    nodes: tuple[PlanNode, ...]
    #: First 12 hex digits of the SHA-256 over names, edges, conditions and configs; bodies do not count.
    hash: str
    #: The graph as JSON, for other processes and pictures.
    json: str
    #: The run's own graph first, each before those inside it.
    scopes: tuple[PlanScope, ...]
    warnings: tuple[str, ...] = ()
    by_name: dict[str, NodeNumber] = field(default_factory=dict)
    #: Bit mask of the sub-graphs.
    subgraphs: int = 0
    #: Bit mask of the nodes with run_when="settled".
    settled_mask: int = 0
    #: Bit mask of the map nodes whose results some expression reads.
    maps_in_expressions: int = 0
    #: False for one that was read from the store: its modules are not here, see `stored_plan.py`.
    is_runnable: bool = True

    @property
    def max_concurrent_tasks(self) -> int:
        """Module runs of the run at a time."""
        return self.scopes[0].max_concurrent_tasks

    @property
    def max_total_iterations(self) -> int:
        return self.scopes[0].max_total_iterations

    @property
    def deadline(self) -> float | None:
        """Seconds from the start of a run to its end, or None."""
        return self.scopes[0].deadline

    def node(self, name: str) -> PlanNode:
        return self.nodes[self.by_name[name]]

    def own_nodes(self, scope: PlanScope) -> tuple[PlanNode, ...]:
        """The nodes of one graph, without those inside its sub-graphs."""
        if len(self.scopes) == 1:
            return self.nodes
        first = (scope.members & -scope.members).bit_length() - 1
        return self.nodes[first : scope.members.bit_length()]

    def around(self, node: PlanNode) -> Iterator[PlanScope]:
        """The graphs of sub-graphs that the node stands in, the innermost first; that of the run is not among them."""
        scope = self.scopes[node.scope]
        while scope.node is not None:
            yield scope
            scope = self.scopes[self.nodes[scope.node].scope]

    def names(self, mask: int) -> tuple[str, ...]:
        return tuple(self.nodes[index].name for index in bits(mask))


def lender_of(node: PlanNode, borrowed: int) -> str | None:
    """The map whose records are the items of this map, which `borrowed` them from that visit; None if it is 0: then it
    has items of its own."""
    return node.map.source if borrowed and node.map is not None else None


def bits(mask: int) -> Iterator[NodeNumber]:
    """The numbers of the bits set in `mask`, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1  # type: ignore[misc]
        mask ^= low
