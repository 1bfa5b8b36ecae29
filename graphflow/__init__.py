"""graphflow: graphs of async modules over shared state in Redis.

A map for readers, in the order in which the code is best read; docs/architecture.md has the floors and the words:

    graph/               nouns that users build: Task, AgentModule, FlowDecision, Node, and the Cache protocol
    planning/plan.py     a graph compiled (compile.py) and checked (validate.py for a node, relations.py for all of them)
    run.py               one execution of a plan; inputs.py what comes into it, transition.py what changes by that
    rules/advance.py     the rules: what happens next, as one pure fold (visits.py, maps.py; fold.py, readiness.py, ...)
    state/transaction.py the state as one module run sees it; isolation.py: reads are checked, writes wait
    store/               where runs are kept: keys.py names every key, lua/commit.lua stores a batch or nothing
    engine/scheduler.py  drives a run: admits attempts, validates what they come to, commits; drive.py is what all share
    engine/maps/         the items of maps, from their sources to their records
    entrance/            finds or makes a run (entering.py), takes its lease and has it driven (driving.py)
    agent.py             the front door (builder.py builds the graph), result.py what a run came to, cli/ the command
    testing/             for tests of graphs: a store in memory, a clock to turn, every order, crashes, a module alone

The rest is ground: errors, ids, settings, bounds, clock, beside_loop, own_loop, interruptions, codec, values, expressions,
failpoints. executors/ holds where bodies run, server/ how a Redis is reached. Data flows one way: graph -> plan -> run (stored) -> attempt -> outcome -> transition
-> commit -> events -> people.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphflow.agent import Agent
    from graphflow.codec import register_type
    from graphflow.entrance.signalling import SignalSent
    from graphflow.errors import (
        AgentMismatch,
        AnswerRefused,
        GraphflowError,
        InvalidGraph,
        InvalidSignal,
        LeaseHeld,
        MapNotFound,
        MissingKey,
        NoMessage,
        NonRetryableException,
        NoSignal,
        PlanMismatch,
        RunComplete,
        RunInterrupted,
        RunNotFound,
        RunOver,
        SnapshotNotFound,
        StateError,
        StoreError,
        StoreUnreachable,
        TaskMismatch,
        UnsafeStore,
        UnstorableValue,
    )
    from graphflow.events import Event
    from graphflow.executors.inline import is_cancelled
    from graphflow.graph.cache import Cache
    from graphflow.graph.flow import FlowControlConfig, FlowControlModule, FlowDecision
    from graphflow.graph.modules import END, AgentModule, ModuleConfig, ModuleType
    from graphflow.graph.nodes import Node, NodeConfig, SnapshotControl
    from graphflow.graph.tasks import RunStatus, Task, TaskStatus
    from graphflow.result import ModuleResult, NodeResult, RunFailure, RunResult, RunSummary
    from graphflow.run import NodeStatus
    from graphflow.store.cache import RedisCache
    from graphflow.store.contract import MapProgress, SignalWait, Snapshot

__version__ = "0.1.0"

_HOMES = {
    "graphflow.agent": ("Agent",),
    "graphflow.store.cache": ("RedisCache",),
    "graphflow.codec": ("register_type",),
    "graphflow.entrance.signalling": ("SignalSent",),
    "graphflow.errors": (
        "AgentMismatch",
        "AnswerRefused",
        "GraphflowError",
        "InvalidGraph",
        "InvalidSignal",
        "LeaseHeld",
        "MapNotFound",
        "MissingKey",
        "NoMessage",
        "NonRetryableException",
        "NoSignal",
        "PlanMismatch",
        "RunComplete",
        "RunInterrupted",
        "RunNotFound",
        "RunOver",
        "SnapshotNotFound",
        "StateError",
        "StoreError",
        "StoreUnreachable",
        "TaskMismatch",
        "UnsafeStore",
        "UnstorableValue",
    ),
    "graphflow.events": ("Event",),
    "graphflow.executors.inline": ("is_cancelled",),
    "graphflow.graph.cache": ("Cache",),
    "graphflow.graph.flow": ("FlowControlConfig", "FlowControlModule", "FlowDecision"),
    "graphflow.graph.modules": ("END", "AgentModule", "ModuleConfig", "ModuleType"),
    "graphflow.graph.nodes": ("Node", "NodeConfig", "SnapshotControl"),
    "graphflow.graph.tasks": ("RunStatus", "Task", "TaskStatus"),
    "graphflow.result": ("ModuleResult", "NodeResult", "RunFailure", "RunResult", "RunSummary"),
    "graphflow.run": ("NodeStatus",),
    "graphflow.store.contract": ("MapProgress", "SignalWait", "Snapshot"),
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
    "RunSummary",
    "NodeResult",
    "ModuleResult",
    "NodeStatus",
    "Event",
    "MapProgress",
    "Snapshot",
    "SignalSent",
    "SignalWait",
    "is_cancelled",
    # its state
    "Cache",
    "RedisCache",
    "register_type",
    # what goes wrong: all of it is in graphflow.errors
    "GraphflowError",
    "InvalidGraph",
    "NonRetryableException",
    "AnswerRefused",
    # with a run
    "RunNotFound",
    "RunInterrupted",
    "RunOver",
    "InvalidSignal",
    "RunComplete",
    "SnapshotNotFound",
    "MapNotFound",
    "TaskMismatch",
    "AgentMismatch",
    "PlanMismatch",
    "LeaseHeld",
    # with its state
    "StateError",
    "MissingKey",
    "UnstorableValue",
    "NoMessage",
    "NoSignal",
    # with the store
    "StoreError",
    "StoreUnreachable",
    "UnsafeStore",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'graphflow' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
