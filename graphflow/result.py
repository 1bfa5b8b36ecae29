"""What a run came to, for the people who asked for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphflow.codec import decode, register_type
from graphflow.graph.tasks import RunStatus, Task
from graphflow.ids import ItemNumber
from graphflow.planning.plan import Plan, PlanNode
from graphflow.rules.explain import asked, explain
from graphflow.run import Cause, Failure, NodeState, NodeStatus, Run


class _Record:
    """A record whose fields can also be subscripted by their names, as asimov's result dicts are."""

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None


@register_type(name="graphflow.RunFailure")
@dataclass(frozen=True)
class RunFailure(_Record):
    """Something that failed for good: a node, or one item of a map node."""

    node: str
    #: Index of the item, or None if the node itself failed.
    item: int | None
    #: Type and message of what was raised or returned.
    error: str
    attempts: int
    #: Truncated text of the traceback, without the engine's frames.
    traceback: str = ""
    #: The exceptions behind it, each before those behind itself: members of a group, causes, contexts.
    causes: tuple[Cause, ...] = ()

    def __str__(self) -> str:
        place = self.node if self.item is None else f"{self.node} item {self.item}"
        times = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"{place} failed{times}: {self.error}"


def run_failure(node: str, item: int | None, failure: Failure, attempts: int) -> RunFailure:
    return RunFailure(node, item, failure.summary, attempts, failure.traceback, failure.causes)


@register_type(name="graphflow.ModuleResult")
@dataclass(frozen=True)
class ModuleResult(_Record):
    """What one module of a node came to."""

    name: str
    status: NodeStatus
    result: Any
    error: str | None


@register_type(name="graphflow.NodeResult")
@dataclass(frozen=True)
class NodeResult(_Record):
    """What one node came to in its last visit. Times are seconds since 1970, 0 where there is none."""

    name: str
    status: NodeStatus
    #: The last module's result; None if the node did not succeed.
    result: Any
    results: list[ModuleResult]
    error: str | None
    visits: int
    attempts: int
    started: float
    finished: float

    @property
    def seconds(self) -> float:
        return max(0.0, self.finished - self.started) if self.started else 0.0


@dataclass
class RunResult:
    """What a run came to. `outcome["key"]` reads its final state; a missing key's KeyError says why it is missing."""

    run_id: str
    status: RunStatus
    task: Task
    #: Why the run failed or stopped early, and how to try again; None if it is complete.
    error: str | None
    #: Result of the end node, a dict by name if several end nodes succeeded, None if none did.
    result: Any
    node_results: Mapping[str, NodeResult]
    failures: list[RunFailure]
    #: Supervisors' decisions that were true at the end and could not fire.
    held: tuple[str, ...]
    #: Seconds since 1970.
    started: float
    finished: float
    plan: Plan = field(repr=False)
    run: Run = field(repr=False)
    read_map: Callable[[str], list[Any]] = field(repr=False)

    @property
    def seconds(self) -> float:
        return max(0.0, self.finished - self.started)

    @property
    def is_complete(self) -> bool:
        return self.status is RunStatus.COMPLETE

    def __getitem__(self, key: str) -> Any:
        if key in self.run.state:
            return decode(self.run.state[key], key)
        if self._has_map(key):
            return self.read_map(key)
        raise KeyError(self._why_missing(key))

    def __contains__(self, key: str) -> bool:
        return key in self.run.state or self._has_map(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - this is that get

    def keys(self) -> list[str]:
        maps = (node.name for node in self.plan.nodes if self._has_map(node.name))
        return sorted({*self.run.state, *maps})

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def explain(self, node: str) -> str:
        """In one sentence, why the node is where it is."""
        return explain(self.plan, self.run, node)

    def _has_map(self, key: str) -> bool:
        """Whether it is a map node that succeeded: then its results are read as a state key is."""
        index = self.plan.by_name.get(key)
        if index is None or not self.plan.nodes[index].lists_results:
            return False
        return self.run.nodes[index].settled_as is NodeStatus.SUCCEEDED

    def _why_missing(self, key: str) -> str:
        if key in self.plan.by_name:
            return self.explain(key)
        writers = [node.name for node in self.plan.nodes if key in node.config.outputs]
        if writers:
            return f"{key} was not set: {self.explain(writers[0])}"
        return f"no state key {key!r}; there are: {', '.join(self.keys()) or 'none'}"


def run_result(
    plan: Plan,
    run: Run,
    failed_items: Mapping[str, list[tuple[ItemNumber, Failure, int]]],
    read_map: Callable[[str], list[Any]],
) -> RunResult:
    """The result of a run that is over."""
    node_results = _NodeResults(plan, run, read_map)
    failures = _failures(plan, run, failed_items)
    return RunResult(
        run_id=run.id,
        status=run.status,
        task=run.task,
        error=_error(plan, run, failures),
        result=_end_result(plan, run, node_results),
        node_results=node_results,
        failures=failures,
        held=run.held,
        started=run.started / 1000,
        finished=run.finished / 1000,
        plan=plan,
        run=run,
        read_map=read_map,
    )


class _NodeResults(Mapping[str, NodeResult]):
    """Node results by name, each decoded when it is looked at."""

    def __init__(self, plan: Plan, run: Run, read_map: Callable[[str], list[Any]]) -> None:
        self._plan = plan
        self._run = run
        self._read_map = read_map

    def __getitem__(self, name: str) -> NodeResult:
        index = self._plan.by_name[name]
        return _node_result(self._plan.nodes[index], self._run.nodes[index], self._read_map)

    def __iter__(self) -> Iterator[str]:
        return iter(self._plan.by_name)

    def __len__(self) -> int:
        return len(self._plan.by_name)

    def __repr__(self) -> str:
        return f"<node results of {', '.join(self)}>"


def _node_result(node: PlanNode, state: NodeState, read_map: Callable[[str], list[Any]]) -> NodeResult:
    succeeded = state.status is NodeStatus.SUCCEEDED
    if node.lists_results:
        result = read_map(node.name) if succeeded else None
    else:
        result = decode(state.result, node.name) if succeeded and state.result is not None else None
    modules = [
        ModuleResult(
            module.name,
            ran.status,
            decode(ran.result, node.name) if ran.result is not None else None,
            ran.failure.summary if ran.failure else None,
        )
        for module, ran in zip(node.modules, state.modules, strict=False)
    ]
    return NodeResult(
        name=node.name,
        status=state.status,
        result=result,
        results=modules,
        error=state.failure.summary if state.failure else None,
        visits=state.visits,
        attempts=state.attempts,
        started=state.started / 1000,
        finished=state.finished / 1000,
    )


def _failures(
    plan: Plan, run: Run, failed_items: Mapping[str, list[tuple[ItemNumber, Failure, int]]]
) -> list[RunFailure]:
    found: list[RunFailure] = []
    for node in plan.nodes:
        state = run.nodes[node.index]
        for item, failure, attempts in failed_items.get(node.name, []):
            found.append(run_failure(node.name, item, failure, attempts))
        if state.status is NodeStatus.FAILED and state.failure is not None:
            found.append(run_failure(node.name, None, state.failure, state.attempts))
    return found


def _end_result(plan: Plan, run: Run, node_results: Mapping[str, NodeResult]) -> Any:
    ends = [
        node.name
        for node in plan.nodes
        if node.is_end and run.nodes[node.index].status is NodeStatus.SUCCEEDED
    ]
    if len(ends) == 1:
        return node_results[ends[0]].result
    return {name: node_results[name].result for name in ends} or None


def _what_it_waits_for(plan: Plan, run: Run) -> str:
    place, wait = min(run.waits.items(), key=lambda entry: entry[1].since)
    node = plan.nodes[place.node].name
    item = "" if place.item is None else f" item {place.item}"
    others = f" ({len(run.waits) - 1} more wait)" if len(run.waits) > 1 else ""
    return (
        f"{node}{item} waits for the signal {wait.signal!r}{asked(wait)}{others}; send it with: graphflow signal {run.id} "
        f"{wait.signal} JSON, or await agent.signal({run.id!r}, {wait.signal!r}, value) and agent.resume({run.id!r})"
    )


def _error(plan: Plan, run: Run, failures: list[RunFailure]) -> str | None:
    if run.status is RunStatus.COMPLETE:
        return run.error
    if run.status is RunStatus.SUSPENDED:
        return _what_it_waits_for(plan, run)
    reason = run.error or (f"{len(failures)} failed, first: {failures[0]}" if failures else run.status.value)
    if run.status is RunStatus.CANCELLED:
        return reason
    return f"{reason}; to try again what failed: graphflow retry {run.id}, or await agent.fork({run.id!r})"
