"""graphflow: graphs of async modules over shared state in Redis.

A map for readers, in the order in which the code is best read:

    graph/             nouns that users build: Task, AgentModule, FlowDecision, Node, and the Cache protocol
    engine/plan.py     a graph compiled (compile.py) and checked (validate.py)
    run.py             one execution of a plan: its mirror, what comes in, what changes
    engine/advance.py  the rules: what happens next, as one pure fold
    store/             where runs are kept: keys.py names every key, lua/commit.lua stores one step or nothing
    engine/scheduler.py drives a run: admits attempts, validates what they come to, commits

The rest is ground (errors, ids, settings, codec, expressions), doors (caches, executors) and porch (agent.py, cli).
Data flows one way: graph -> plan -> run (stored) -> attempt -> outcome -> transition -> commit -> events -> people.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphflow.agent import Agent
    from graphflow.caches.redis_cache import RedisCache
    from graphflow.codec import register_type
    from graphflow.errors import (
        GraphflowError,
        InvalidGraph,
        NonRetryableException,
        RunNotFound,
        StoreUnreachable,
    )
    from graphflow.executors.inline import is_cancelled
    from graphflow.graph.cache import Cache
    from graphflow.graph.flow import FlowControlConfig, FlowControlModule, FlowDecision
    from graphflow.graph.modules import END, AgentModule, ModuleConfig, ModuleType
    from graphflow.graph.nodes import Node, NodeConfig, SnapshotControl
    from graphflow.graph.tasks import RunStatus, Task, TaskStatus
    from graphflow.result import NodeResult, RunFailure, RunResult
    from graphflow.run import NodeStatus

__version__ = "0.1.0"

_HOMES = {
    "graphflow.agent": ("Agent",),
    "graphflow.caches.redis_cache": ("RedisCache",),
    "graphflow.codec": ("register_type",),
    "graphflow.errors": (
        "GraphflowError",
        "InvalidGraph",
        "NonRetryableException",
        "RunNotFound",
        "StoreUnreachable",
    ),
    "graphflow.executors.inline": ("is_cancelled",),
    "graphflow.graph.cache": ("Cache",),
    "graphflow.graph.flow": ("FlowControlConfig", "FlowControlModule", "FlowDecision"),
    "graphflow.graph.modules": ("END", "AgentModule", "ModuleConfig", "ModuleType"),
    "graphflow.graph.nodes": ("Node", "NodeConfig", "SnapshotControl"),
    "graphflow.graph.tasks": ("RunStatus", "Task", "TaskStatus"),
    "graphflow.result": ("NodeResult", "RunFailure", "RunResult"),
    "graphflow.run": ("NodeStatus",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    # build a graph
    "Agent",
    "Node",
    "NodeConfig",
    "SnapshotControl",
    "AgentModule",
    "ModuleConfig",
    "ModuleType",
    "FlowControlModule",
    "FlowControlConfig",
    "FlowDecision",
    "END",
    # run it
    "Task",
    "TaskStatus",
    "RunStatus",
    "RunResult",
    "RunFailure",
    "NodeResult",
    "NodeStatus",
    "is_cancelled",
    # its state
    "Cache",
    "RedisCache",
    "register_type",
    # what goes wrong
    "GraphflowError",
    "InvalidGraph",
    "NonRetryableException",
    "RunNotFound",
    "StoreUnreachable",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'graphflow' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
