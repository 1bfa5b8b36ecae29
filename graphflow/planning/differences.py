"""How does one graph differ from another, and can a run that began under the first go on under the second?

Looks at graphs as they are stored (`describe.py`): names, edges, conditions, configs. Nodes are the same if their names
are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from graphflow.planning.describe import inner_nodes
from graphflow.run import NodeStatus

#: What is shown of a value that differs, in characters.
_VALUE_CHARACTERS = 60
_NOTHING = object()
_RAN = frozenset({NodeStatus.SUCCEEDED, NodeStatus.FAILED})

Described = Mapping[str, dict[str, Any]]


def described_nodes(plan_json: str) -> dict[str, dict[str, Any]]:
    """The nodes of a stored graph by name, in its order, those of sub-graphs by their paths. UNREADABLE if it is none."""
    return dict(_with_inner(json.loads(plan_json)["nodes"], ""))


def _with_inner(nodes: list[dict[str, Any]], prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for node in nodes:
        path = prefix + node["name"]
        inner = inner_nodes(node)
        # What is inside of it is told of by itself.
        modules = [{key: value for key, value in each.items() if key != "graph"} for each in node["modules"]]
        yield path, {**node, "modules": modules} if inner else node
        yield from _with_inner(inner, f"{path}/")


def differences(old: Described, new: Described) -> tuple[str, ...]:
    """What is different in `new`, one phrase each: nodes that are gone, nodes that came, then what changed in a node."""
    return (
        *(f"node {name!r} was removed" for name in old if name not in new),
        *(f"node {name!r} was added" for name in new if name not in old),
        *(phrase for name in old if name in new for phrase in _changes(name, old[name], new[name])),
    )


def obstacles(old: Described, new: Described, statuses: Mapping[str, NodeStatus]) -> tuple[str, ...]:
    """Why a run whose nodes have these statuses cannot go on under `new`; empty if it can.

    What is active goes on as it began, so it must still be there with the same modules. What a map has recorded is read
    as a map's, and what another node came to is not.
    """
    return tuple(_obstacles(old, new, statuses))


def _obstacles(old: Described, new: Described, statuses: Mapping[str, NodeStatus]) -> Iterator[str]:
    for name, node in old.items():
        status = statuses.get(name, NodeStatus.PENDING)
        if name not in new:
            if status.is_active:
                yield f"node {name!r} is {status} and was removed"
            continue
        if status.is_active and _module_names(node) != _module_names(new[name]):
            yield f"node {name!r} is {status} and its modules changed"
        if status.is_active and _source(node) != _source(new[name]):
            yield f"node {name!r} is {status} and its map_over changed"
        elif status in _RAN and (_source(node) is None) != (_source(new[name]) is None):
            yield f"node {name!r} has run {'as a map' if _source(node) else 'once'} and is now {_kind(new[name])}"


def _module_names(node: dict[str, Any]) -> list[str]:
    """Of the modules that are run: flow control as data is looked at, not run."""
    return [module["name"] for module in node["modules"] if "flow" not in module]


def _source(node: dict[str, Any]) -> object:
    return node.get("config", {}).get("map_over")


def _kind(node: dict[str, Any]) -> str:
    return "no map" if _source(node) is None else "a map"


def _changes(name: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for path, before, after in _pairs(old, new, ""):
        yield f"node {name!r}: {path} was {_shown(before)}, is {_shown(after)}"


def _pairs(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Where the two differ, as deep as both have the same form: the path, and what stands there in each."""
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            # A setting is known by its own name wherever it stands.
            below = key if path in ("", "config") else f"{path}.{key}"
            yield from _pairs(old.get(key, _NOTHING), new.get(key, _NOTHING), below)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and _of_dicts(old + new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _pairs(before, after, f"{path}[{place}]")
    elif old is _NOTHING and isinstance(new, dict):
        yield from _pairs({}, new, path)
    elif new is _NOTHING and isinstance(old, dict):
        yield from _pairs(old, {}, path)
    else:
        yield path, old, new


def _of_dicts(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return "not set"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[: _VALUE_CHARACTERS - 1]}…"
