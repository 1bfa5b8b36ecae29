"""The nouns of a graph: what users build, and what engine and stores read. No I/O, and nothing is imported until used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphflow.agent import Agent
    from graphflow.graph.cache import Cache
    from graphflow.graph.flow import FlowControlConfig, FlowControlModule, FlowDecision
    from graphflow.graph.modules import END, AgentModule, FunctionModule, ModuleConfig, ModuleType
    from graphflow.graph.nodes import Node, NodeConfig, SnapshotControl
    from graphflow.graph.tasks import RunStatus, Task, TaskStatus

_HOMES = {
    "Agent": "graphflow.agent",
    "Cache": "graphflow.graph.cache",
    "FlowControlConfig": "graphflow.graph.flow",
    "FlowControlModule": "graphflow.graph.flow",
    "FlowDecision": "graphflow.graph.flow",
    "END": "graphflow.graph.modules",
    "AgentModule": "graphflow.graph.modules",
    "FunctionModule": "graphflow.graph.modules",
    "ModuleConfig": "graphflow.graph.modules",
    "ModuleType": "graphflow.graph.modules",
    "Node": "graphflow.graph.nodes",
    "NodeConfig": "graphflow.graph.nodes",
    "SnapshotControl": "graphflow.graph.nodes",
    "RunStatus": "graphflow.graph.tasks",
    "Task": "graphflow.graph.tasks",
    "TaskStatus": "graphflow.graph.tasks",
}

__all__ = [
    # build a graph
    "Agent",
    "Node",
    "NodeConfig",
    "SnapshotControl",
    # modules and their state
    "AgentModule",
    "FunctionModule",
    "ModuleConfig",
    "ModuleType",
    "Cache",
    # flow
    "END",
    "FlowControlConfig",
    "FlowControlModule",
    "FlowDecision",
    # tasks
    "Task",
    "TaskStatus",
    "RunStatus",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
