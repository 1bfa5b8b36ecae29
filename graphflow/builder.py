"""Putting a graph together: nodes with their modules, and functions that become nodes by a decorator.

The graph is checked as a whole when it is compiled (`planning/compile.py`), not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any, TypeVar, Unpack, overload

from graphflow.graph.flow import names_of
from graphflow.graph.functions import function_name
from graphflow.graph.modules import END, FunctionModule, ModuleConfig, ModuleType
from graphflow.graph.nodes import Node, NodeConfig, NodeOptions, SnapshotControl
from graphflow.graph.noun import refuse_unknown, settings_of
from graphflow.settings import DEFAULT_TIMEOUT_SECONDS

_Function = TypeVar("_Function", bound=Callable[..., Any])


class GraphBuilder:
    """The nodes of a graph in the order in which they were added."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []

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
    def node(self, function: _Function, /) -> _Function: ...
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
    ) -> Callable[[_Function], _Function]: ...
    def node(
        self,
        function: _Function | None = None,
        /,
        *,
        name: str | None = None,
        type: ModuleType = ModuleType.EXECUTOR,
        dependencies: str | Sequence[str] = (),
        start: bool | None = None,
        snapshot: SnapshotControl | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[NodeOptions],
    ) -> _Function | Callable[[_Function], _Function]:
        """Make a function a node; its parameters name what it depends on. The function is returned unchanged.

        `options` are the fields of `NodeConfig`, `timeout` is in seconds per attempt. UnknownSetting.
        """
        _refuse_unknown("@agent.node", self.node, options)

        def decorate(function: _Function) -> _Function:
            module = FunctionModule(
                name=name or function_name(function),
                type=type,
                function=function,
                config=ModuleConfig(timeout=timeout),
            )
            self._add_function(module, dependencies, start, snapshot, _config(options))
            return function

        return decorate if function is None else decorate(function)

    def decide(
        self,
        *,
        to: str | Sequence[str],
        after: str | Sequence[str] = (),
        name: str | None = None,
        start: bool | None = None,
        snapshot: SnapshotControl | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[NodeOptions],
    ) -> Callable[[_Function], _Function]:
        """Make a function flow control: it returns a name out of `to`, a list of names, END, or None to fall through.

        END need not be listed; with an empty `to` the function ends the run or falls through. UnknownSetting.
        """

        _refuse_unknown("@agent.decide", self.decide, options)

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


def _refuse_unknown(door: str, method: Callable[..., Any], options: NodeOptions) -> None:
    """UnknownSetting for options that are no fields of NodeConfig; the nearest may be a parameter of the method."""
    known = set(settings_of(NodeConfig))
    if not options.keys() <= known:
        refuse_unknown(door, options, known | (signature(method).parameters.keys() - {"function", "options"}))


def _config(options: NodeOptions) -> NodeConfig:
    # A single name is one of several to NodeConfig, but not to a type checker.
    settings: Mapping[str, Any] = options
    return NodeConfig(**settings)
