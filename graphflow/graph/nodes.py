"""A named place in the graph, with its limits and policies; and a graph inside of such a place (rule 17)."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from pydantic import AliasChoices, ConfigDict, Field, PlainValidator, SerializeAsAny, field_validator

from graphflow.bounds import as_read, number_or_share, whole_number
from graphflow.codec import register_type
from graphflow.graph.modules import AgentModule, ModuleType
from graphflow.graph.noun import Names, Noun
from graphflow.settings import DEFAULT_MAX_CRASHES, DEFAULT_MAX_RETRIES, DEFAULT_MAX_VISITS

if TYPE_CHECKING:
    import asyncio

    from graphflow.graph.cache import Cache

#: What is no such number is left as it is: the graph that the node belongs to is refused with all its problems at once.
Count = Annotated[int, PlainValidator(as_read(whole_number))]
Source = Annotated[str | Callable[..., Any] | None, PlainValidator(lambda value: value)]
Share = Annotated[int | float, PlainValidator(as_read(number_or_share))]


@register_type(name="graphflow.SnapshotControl")
class SnapshotControl(StrEnum):
    """When the run's state is kept as a snapshot: each time the node has succeeded or failed, the first time, or not."""

    NEVER = "never"
    ONCE = "once"
    ALWAYS = "always"


class NodeConfig(Noun):
    """Limits and policies of one node."""

    model_config = ConfigDict(populate_by_name=True)

    #: Run the node's modules at the same time instead of one after another.
    parallel: bool = False
    #: Evaluated each time the node is considered; false means skipped.
    condition: str | None = None
    #: Attempts in total, for each module run and each item of a map.
    max_retries: Count = DEFAULT_MAX_RETRIES
    retry_on_failure: bool = True
    #: Starts of this node in one run; 0 is no limit.
    max_visits: Count = DEFAULT_MAX_VISITS
    #: Module runs of this node (items or batches of a map) at a time, also those that work on when their time is up; None
    #: leaves it to the agent's limit.
    max_concurrency: Count | None = None
    #: Node that starts when this one has failed for good; asimov's `retry_from`.
    on_error: str | None = Field(default=None, validation_alias=AliasChoices("on_error", "retry_from"))
    #: "settled" runs the node although dependencies failed.
    run_when: Literal["succeeded", "settled"] = "succeeded"
    #: Deaths of the process, the last one with nothing else in flight, after which the node or item is failed.
    max_crashes: Count = DEFAULT_MAX_CRASHES
    #: State keys that the functions of this node may name as parameters. Of a sub-graph: key inside -> what it is given, a
    #: key, a node or an expression outside.
    inputs: Names | dict[str, str] = Field(default_factory=list)
    #: State keys that this node writes; a function's parameter of that name depends on this node. Of a sub-graph: key
    #: outside -> what it is given, a key, a node or an expression inside.
    outputs: Names | dict[str, str] = Field(default_factory=list)
    #: Where this map node has its items from: a state key or node that holds them, or a generator function (sync or
    #: async) that yields them. A generator's parameters are filled by name; one called `start` is given the number of
    #: elements to leave out, those that were taken before a crash.
    map_over: Source = None
    #: Of a map over the results of another map: an item starts as soon as the other map has its result, instead of when
    #: that map is done.
    pipelined: bool = False
    #: Items that the module gets at a time, as a list; it returns a list with one result for each.
    batch_size: Count | None = None
    #: Items that have to succeed, as a number or (below 1) as a share of all; with fewer the node fails. None: one, if there
    #: are any.
    min_success: Share | None = None
    #: Folds the results, in input order, into one: the node's result instead of their list.
    reduce: Callable[[Any, Any], Any] | None = None
    #: Which items to process: an expression over `item` and `index`, or a function of the item.
    where: str | Callable[[Any], bool] | None = None
    #: "collect" lists failed items and goes on, "fail" fails the node at the first.
    on_item_error: Literal["collect", "fail"] = "collect"
    executor: str = "inline"
    resources: dict[str, float] = Field(default_factory=dict)

    @property
    def attempts(self) -> int:
        """Attempts in total, with `retry_on_failure` taken into account."""
        return self.max_retries if self.retry_on_failure else 1


class NodeOptions(TypedDict, total=False):
    """The fields of `NodeConfig` as keyword arguments."""

    parallel: bool
    condition: str | None
    max_retries: int
    retry_on_failure: bool
    max_visits: int
    max_concurrency: int | None
    on_error: str | None
    run_when: Literal["succeeded", "settled"]
    max_crashes: int
    inputs: str | list[str] | dict[str, str]
    outputs: str | list[str] | dict[str, str]
    map_over: str | Callable[..., Any] | None
    pipelined: bool
    batch_size: int | None
    min_success: int | float | None
    reduce: Callable[[Any, Any], Any] | None
    where: str | Callable[[Any], bool] | None
    on_item_error: Literal["collect", "fail"]
    executor: str
    resources: dict[str, float]


class Graph:
    """Nodes with their limits: all of an agent that counts where it is a node's module."""

    max_concurrent_tasks: int | None = None
    max_total_iterations: int | None = None
    #: Seconds from the entering to the end.
    deadline: float | None = None
    error_mailbox: str | None = None
    auto_snapshot: bool = False

    def __init__(self) -> None:
        self._nodes: list[Node] = []

    @property
    def in_order(self) -> tuple[Node, ...]:
        """Its nodes in the order in which they were added, also those whose name is used twice."""
        return tuple(self._nodes)


class SubgraphModule(AgentModule):
    """An agent as a node's module: the node enters its graph."""

    name: str = "sub-graph"
    type: ModuleType = ModuleType.SUBGRAPH
    graph: Graph

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
        raise NotImplementedError("a sub-graph is entered; it has no process of its own")


class Node(Noun):
    """A named place in the graph. `start=True` starts it with the run in any case, `start=False` never by itself.

    With an agent as its only module it is a sub-graph (rule 17).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    type: ModuleType = ModuleType.EXECUTOR
    modules: list[SerializeAsAny[AgentModule]] = Field(default_factory=list)
    dependencies: Names = Field(default_factory=list)
    node_config: NodeConfig = Field(default_factory=NodeConfig)
    start: bool | None = None
    #: None leaves it to the agent's `auto_snapshot`.
    snapshot: SnapshotControl | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @field_validator("modules", mode="before")
    @classmethod
    def _agents_as_modules(cls, modules: object) -> object:
        if not isinstance(modules, list | tuple):
            return modules
        return [SubgraphModule(graph=each) if isinstance(each, Graph) else each for each in modules]
