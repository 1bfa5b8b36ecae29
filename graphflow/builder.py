"""Putting a graph together: nodes with their modules, and functions that become nodes by a decorator.

The graph is checked as a whole when it is compiled (`planning/compile.py`), not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, Never, NoReturn, TypeVar, Unpack, overload

from graphflow.graph.flow import names_of
from graphflow.graph.functions import function_name
from graphflow.graph.modules import END, FunctionModule, ModuleConfig, ModuleType
from graphflow.graph.nodes import Graph, Node, NodeConfig, NodeOptions, SnapshotControl, SubgraphModule
from graphflow.graph.noun import refuse_unknown, settings_of
from graphflow.settings import DEFAULT_TIMEOUT_SECONDS

_Function = TypeVar("_Function", bound=Callable[..., Any])
#: What a node is made of: a function, or an agent.
_Made = TypeVar("_Made", bound=Callable[..., Any] | Graph)


class GraphBuilder(Graph):
    """The nodes of a graph in the order in which they were added."""

    @property
    def nodes(self) -> dict[str, Node]:
        return {node.name: node for node in self._nodes}

    def add_node(self, node: Node) -> Node:
        """Add a node. Its dependencies may come later; the graph is checked as a whole when it is run."""
        if not isinstance(node, Node):
            raise TypeError(
                f"add_node takes a Node, not {type(node).__name__}; functions are added by @agent.node"
            )
        self._nodes.append(node)
        return node

    def add_multiple_nodes(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self.add_node(node)

    @overload
    def node(self, function: _Made, /) -> _Made: ...
    @overload
    def node(
        self,
        /,
        *,
        name: str | None = None,
        type: ModuleType = ModuleType.EXECUTOR,
        dependencies: str | Sequence[str] = (),
        start: bool | None = None,
        snapshot: SnapshotControl | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[NodeOptions],
    ) -> Callable[[_Made], _Made]: ...
    def node(
        self,
        function: _Made | None = None,
        /,
        *,
        name: str | None = None,
        type: ModuleType = ModuleType.EXECUTOR,
        dependencies: str | Sequence[str] = (),
        start: bool | None = None,
        snapshot: SnapshotControl | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[NodeOptions],
    ) -> _Made | Callable[[_Made], _Made]:
        """Make a function a node; its parameters name what it depends on. The function is returned unchanged. Called with
        an agent instead, `agent.node(name=...)(other)`, the node is that agent's graph, a sub-graph.

        `options` are the fields of `NodeConfig`, `timeout` is in seconds per attempt. UnknownSetting.
        """
        if function is not None and not callable(function):
            raise TypeError(f"@agent.node takes its options by name, as @agent.node(name={function!r})")
        _refuse_unknown("@agent.node", self.node, options)

        def decorate(function: _Made) -> _Made:
            if isinstance(function, Graph):
                self._add_graph(
                    name, function, type, dependencies, start, snapshot, timeout, _config(options)
                )
                return function
            module = FunctionModule(
                name=name or function_name(function),
                type=type,
                function=function,
                config=ModuleConfig(timeout=timeout),
            )
            self._add_function(module, dependencies, start, snapshot, _config(options))
            return function

        return decorate if function is None else decorate(function)

    @overload
    def decide(self, misplaced: Never, /) -> NoReturn: ...
    @overload
    def decide(
        self,
        /,
        *,
        to: str | Sequence[str],
        after: str | Sequence[str] = (),
        name: str | None = None,
        start: bool | None = None,
        snapshot: SnapshotControl | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[NodeOptions],
    ) -> Callable[[_Function], _Function]: ...
    def decide(
        self,
        misplaced: object = None,
        /,
        *,
        to: str | Sequence[str] | None = None,
        after: str | Sequence[str] = (),
        name: str | None = None,
        start: bool | None = None,
        snapshot: SnapshotControl | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[NodeOptions],
    ) -> Callable[[_Function], _Function]:
        """Make a function flow control: it returns a name out of `to`, a list of names, END, or None to fall through.

        END need not be listed; with an empty `to` the function ends the run or falls through. UnknownSetting; TypeError
        without `to`.
        """
        _refuse_unknown("@agent.decide", self.decide, options)
        if misplaced is not None or to is None:
            raise TypeError(_what_decide_takes(misplaced))

        def decorate(function: _Function) -> _Function:
            module = FunctionModule(
                name=name or function_name(function),
                type=ModuleType.FLOW_CONTROL,
                function=function,
                to=list(names_of(to)) or [END],
                config=ModuleConfig(timeout=timeout),
            )
            self._add_function(module, after, start, snapshot, _config(options))
            return function

        return decorate

    def _add_graph(
        self,
        name: str | None,
        graph: Graph,
        kind: ModuleType,
        dependencies: Sequence[str],
        start: bool | None,
        snapshot: SnapshotControl | None,
        timeout: float,
        config: NodeConfig,
    ) -> None:
        if name is None:
            raise TypeError("a sub-graph needs a name for its node: agent.node(name='research')(other_agent)")
        module = SubgraphModule(graph=graph, config=ModuleConfig(timeout=timeout))
        self.add_node(
            Node(
                name=name,
                type=kind,
                modules=[module],
                dependencies=list(names_of(dependencies)),
                node_config=config,
                start=start,
                snapshot=snapshot,
            )
        )

    def _add_function(
        self,
        module: FunctionModule,
        dependencies: str | Sequence[str],
        start: bool | None,
        snapshot: SnapshotControl | None,
        config: NodeConfig,
    ) -> None:
        self.add_node(
            Node(
                name=module.name,
                type=module.type,
                modules=[module],
                dependencies=list(names_of(dependencies)),
                node_config=config,
                start=start,
                snapshot=snapshot,
            )
        )


def _what_decide_takes(misplaced: object) -> str:
    decides = f" on {function_name(misplaced)!r}" if callable(misplaced) else ""
    to = repr(misplaced) if isinstance(misplaced, str | list | tuple) else '["left", "right"]'
    return (
        f"@agent.decide{decides} lacks to=, the nodes that the function may choose, as @agent.decide(to={to}); "
        "to=[] if it only ends the run"
    )


def _refuse_unknown(door: str, method: Callable[..., Any], options: NodeOptions) -> None:
    """UnknownSetting for options that are no fields of NodeConfig; the nearest may be a parameter of the method."""
    known = set(settings_of(NodeConfig))
    if not options.keys() <= known:
        refuse_unknown(
            door,
            options,
            known | (signature(method).parameters.keys() - {"function", "misplaced", "options"}),
        )


def _config(options: NodeOptions) -> NodeConfig:
    # A single name is one of several to NodeConfig, but not to a type checker.
    settings: Mapping[str, Any] = options
    return NodeConfig(**settings)
