"""How do the nouns look as fields of Redis hashes, and how do they come back?

One fact is one field; what has its default has no field. Reading raises UNREADABLE on text that was not written here;
the caller knows the key and says so.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any

from pydantic_core import from_json, to_json

from graphflow.codec import decode, decode_plain, encode
from graphflow.errors import UnknownType
from graphflow.events import index_ranges, indexes_of
from graphflow.graph.tasks import Task
from graphflow.ids import ItemNumber, ModuleNumber, enumerate_modules, item_number
from graphflow.planning.plan import Plan, PlanNode
from graphflow.run import Cause, Failure, GraphState, ModuleState, NodeState, NodeStatus, SourcePage

#: Field -> its new text, or None to delete it.
Changes = dict[str, str | None]

#: What `chosen` holds if a decision chose nothing; no name of a node.
_NONE_CHOSEN = "(none)"
#: What stands for the indexes of a page of which there is no item.
_NONE_KEPT = "-"
#: A number that is read as infinity has such an exponent.
_LARGE_EXPONENT = re.compile(r"[0-9][eE]\+?[0-9]{2}")


def read_json(text: str) -> Any:
    """Plain data of a JSON text. ValueError if it is none, or holds a number such as 1e400, which `from_json` reads as
    infinity."""
    value = from_json(text, allow_inf_nan=False)
    if ("e" in text or "E" in text) and _LARGE_EXPONENT.search(text) and not _is_finite(value):
        raise ValueError("it holds a number that is too large")
    return value


def _is_finite(value: Any) -> bool:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, float) and not math.isfinite(each):
            return False
        if isinstance(each, list | dict):
            waiting += each.values() if isinstance(each, dict) else each
    return True


# Times, failures, tasks


def time_text(ms: float) -> str:
    """Milliseconds since 1970 as `2026-11-20T17:04:05.123Z`."""
    seconds, rest = divmod(int(ms), 1000)
    return f"{_second_text(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=16)
def _second_text(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def time_from_text(text: str | None) -> float:
    """Milliseconds since 1970; 0 for no text."""
    return float(round(datetime.fromisoformat(text).timestamp() * 1000)) if text else 0.0


def failure_text(failure: Failure, attempts: int | None = None) -> str:
    """As compact JSON, for a map item with the attempts that it had."""
    fields: dict[str, Any] = {"type": failure.type, "message": failure.message}
    if failure.traceback:
        fields["traceback"] = failure.traceback
    if not failure.retryable:
        fields["retryable"] = False
    if failure.causes:
        fields["causes"] = [_cause_fields(cause) for cause in failure.causes]
    if attempts is not None:
        fields["attempts"] = attempts
    return to_json(fields).decode()


def _cause_from_fields(fields: dict[str, Any]) -> Cause:
    return Cause(
        fields["relation"], fields["type"], fields["message"], fields["depth"], fields.get("traceback", "")
    )


def _cause_fields(cause: Cause) -> dict[str, Any]:
    return cause.told | {"traceback": cause.traceback} if cause.traceback else cause.told


def failure_from_text(text: str) -> Failure:
    return item_failure_from_text(text)[0]


def item_failure_from_text(text: str) -> tuple[Failure, int]:
    """The failure and the attempts, 0 if none are given."""
    fields = from_json(text)
    failure = Failure(
        fields["type"],
        fields["message"],
        fields.get("traceback", ""),
        fields.get("retryable", True),
        tuple(map(_cause_from_fields, fields.get("causes", ()))),
    )
    return failure, fields.get("attempts", 0)


def task_fields(task: Task) -> Changes:
    """All of a task but its type. UnstorableValue."""
    fields: Changes = {"params": encode(task.params, "task"), "id": task.id}
    if task.objective:
        fields["objective"] = task.objective
    if task.metadata:
        fields["metadata"] = encode(task.metadata, "task")
    return fields


def task_from_fields(task_type: str, fields: Mapping[str, str], key: str, *, rebuild: bool) -> Task:
    """The task of this type that is stored under `key`; ValueError if it holds a number that is none. Values of registered
    types are rebuilt; without `rebuild`, those of types that this process does not know are plain data instead of an
    UnknownType."""
    params, metadata = (
        _value(text, key, rebuild=rebuild) for text in (fields["params"], fields.get("metadata", "{}"))
    )
    return Task(
        type=task_type,
        objective=fields.get("objective", ""),
        params=params,
        metadata=metadata,
        id=fields["id"],
    )


def task_from_text(text: str, key: str, *, rebuild: bool) -> Task:
    """The same of a task that is stored as one text, as earlier versions did."""
    return Task(**_value(text, key, rebuild=rebuild))


def _value(text: str, key: str, *, rebuild: bool) -> Any:
    read_json(text)
    try:
        return decode(text, key)
    except UnknownType:
        if rebuild:
            raise
        return decode_plain(text, key)


# Ends of state keys


def end_text(end: float | None) -> str | None:
    """In whole milliseconds since 1970."""
    return None if end is None else f"{end:.0f}"


def end_from_text(text: str) -> float:
    return float(int(text))


# Pages of sources


def page_text(page: SourcePage) -> str:
    """All of it but its start, which is the field's name."""
    kept = "" if page.kept is None else f" {index_ranges(page.kept) or _NONE_KEPT}"
    return f"{page.end} {page.digest}{kept}"


def page_from_text(start: str, text: str) -> SourcePage:
    end, digest, *ranges = text.split(" ")
    kept = None if not ranges else () if ranges == [_NONE_KEPT] else tuple(indexes_of(" ".join(ranges)))
    return SourcePage(int(start), int(end), digest, kept)


# Nodes


def node_changes(old: NodeState, new: NodeState, plan: Plan) -> Changes:
    """What a node's hash is to become, given that it holds `old`. The status has its place in the run's `nodes`."""
    changes: Changes = {}
    before, after = _node_values(old), _node_values(new)
    for place, value in enumerate(after):
        if value != before[place]:
            field, write = _NODE_WRITERS[place]
            changes[field] = write(value)
    if old.chosen != new.chosen:
        changes["chosen"] = None if new.chosen is None else " ".join(plan.names(new.chosen)) or _NONE_CHOSEN
    if (last := _last(new)) != _last(old):
        changes["last"] = last
    if old.graph != new.graph:
        _add_graph_changes(changes, old.graph or _NO_GRAPH, new.graph or _NO_GRAPH)
    _add_module_changes(changes, old, new)
    return changes


def node_from_fields(fields: Mapping[str, str], status: NodeStatus, plan: Plan, node: PlanNode) -> NodeState:
    """The node that `node_changes` wrote, from its first change on."""
    number = _number_reader(fields)
    chosen = fields.get("chosen")
    state = NodeState(
        status=status,
        visits=number("visits"),
        considered=number("considered"),
        settled=number("settled"),
        changed=number("changed"),
        opened=number("opened"),
        settled_as=NodeStatus(fields["last"]) if "last" in fields else _SETTLED_AS[status],
        chosen=None if chosen is None else _mask(plan, chosen),
        again="again" in fields,
        handled=number("handled"),
        reopened="reopened" in fields,
        dropped="dropped" in fields,
        failure=failure_from_text(fields["error"]) if "error" in fields else None,
        result=fields.get("result"),
        crashes=number("crashes"),
        started=time_from_text(fields.get("started")),
        finished=time_from_text(fields.get("finished")),
        earlier=number("earlier"),
        graph=_graph_from(fields, number) if "entered" in fields else None,
    )
    # Every visit of a node with modules begins with a fresh state for each of them.
    if state.visits:
        state.modules = [
            _module_from_fields(fields, place, status) for place, _ in enumerate_modules(node.modules)
        ]
        _restore_last_result(state, fields)
    return state


def chosen_among(fields: Mapping[str, str], names: Container[str]) -> str | None:
    """What `chosen` of a node is to hold if the graph has no other nodes than these."""
    chosen = fields.get("chosen")
    if chosen is None or chosen == _NONE_CHOSEN:
        return chosen
    return " ".join(name for name in chosen.split() if name in names) or _NONE_CHOSEN


def _number(value: int) -> str | None:
    return str(value) if value else None


def _flag(value: bool) -> str | None:
    return "1" if value else None


def _time(value: float) -> str | None:
    return time_text(value) if value else None


def _text(value: str | None) -> str | None:
    return value


def _failure(value: Failure | None) -> str | None:
    return None if value is None else failure_text(value)


#: Attribute of a node, its field, how it is written.
_NODE: tuple[tuple[str, str, Callable[[Any], str | None]], ...] = (
    ("visits", "visits", _number),
    ("considered", "considered", _number),
    ("settled", "settled", _number),
    ("changed", "changed", _number),
    ("opened", "opened", _number),
    ("again", "again", _flag),
    ("handled", "handled", _number),
    ("reopened", "reopened", _flag),
    ("dropped", "dropped", _flag),
    ("failure", "error", _failure),
    ("result", "result", _text),
    ("crashes", "crashes", _number),
    ("started", "started", _time),
    ("finished", "finished", _time),
    ("earlier", "earlier", _number),
)
_node_values: Callable[[NodeState], tuple[Any, ...]] = attrgetter(*(attribute for attribute, _, _ in _NODE))
_NODE_WRITERS = tuple((field, write) for _, field, write in _NODE)


def _number_reader(fields: Mapping[str, str]) -> Callable[[str], int]:
    return lambda field: int(fields.get(field, 0))


#: How a node of this status last settled, if nothing else is said.
_SETTLED_AS = {status: NodeStatus.PENDING if status.is_active else status for status in NodeStatus}


def _last(state: NodeState) -> str | None:
    return None if state.settled_as is _SETTLED_AS[state.status] else state.settled_as.value


def _mask(plan: Plan, names: str) -> int:
    return 0 if names == _NONE_CHOSEN else sum(1 << plan.by_name[name] for name in names.split())


# The graph of a sub-graph

_NO_GRAPH = GraphState("", 0)


def _add_graph_changes(changes: Changes, old: GraphState, new: GraphState) -> None:
    if old.inputs != new.inputs:
        changes["inputs"] = new.inputs or None
    if old.entered != new.entered:
        changes["entered"] = _time(new.entered)
    if old.iterations != new.iterations:
        changes["iterations"] = _number(new.iterations)
    if old.limit != new.limit:
        changes["limit"] = new.limit


def _graph_from(fields: Mapping[str, str], number: Callable[[str], int]) -> GraphState:
    return GraphState(
        fields.get("inputs", "{}"),
        time_from_text(fields["entered"]),
        number("iterations"),
        fields.get("limit"),
    )


# Crashes of a map's items


def crashes_text(crashes: Mapping[ItemNumber, int]) -> str | None:
    """As `INDEX:CRASHES`, separated by blanks."""
    return " ".join(f"{index}:{count}" for index, count in crashes.items()) or None


def crashes_from_text(text: str) -> dict[ItemNumber, int]:
    return {
        item_number(index): int(count) for index, _, count in (pair.partition(":") for pair in text.split())
    }


# How long a map's items take


def median_text(seconds: float | None) -> str | None:
    """In milliseconds."""
    if seconds is None:
        return None
    return f"{1000 * seconds:.0f}" if seconds >= 1 else f"{1000 * seconds:.4g}"


def median_from_text(text: str | None) -> float | None:
    """In seconds."""
    return None if text is None else float(text) / 1000


def stragglers_text(stragglers: Sequence[tuple[ItemNumber, float]]) -> str | None:
    """As a list of [index, seconds]."""
    rounded = [[index, round(seconds, 3)] for index, seconds in stragglers]
    return to_json(rounded).decode() if rounded else None


def stragglers_from_text(text: str | None) -> tuple[tuple[int, float], ...]:
    return tuple((int(index), float(seconds)) for index, seconds in from_json(text or "[]"))


# Modules of a node

_NO_MODULE = ModuleState()


def _add_module_changes(changes: Changes, old: NodeState, new: NodeState) -> None:
    """Fields `FIELD:PLACE`. A module's status is said where it is not the node's, and so is its result."""
    before, after = old.modules, new.modules
    last_before, last_after = _last_succeeded(before), _last_succeeded(after)
    for place in range(max(len(before), len(after))):
        was = before[place] if place < len(before) else _NO_MODULE
        now = after[place] if place < len(after) else _NO_MODULE
        said = None if was.status is old.status or was is _NO_MODULE else was.status
        status = None if now.status is new.status or now is _NO_MODULE else now.status
        if said is not status:
            changes[f"status:{place}"] = status
        if was.attempts != now.attempts:
            changes[f"attempts:{place}"] = _number(now.attempts)
        before_result = was.result if place != last_before else _result_beside(old, was)
        result = now.result if place != last_after else _result_beside(new, now)
        if before_result != result:
            changes[f"result:{place}"] = result
        if was.failure != now.failure:
            changes[f"error:{place}"] = _failure(now.failure)
        if was.retry_at != now.retry_at:
            changes[f"retry_at:{place}"] = _time(now.retry_at)


def _result_beside(state: NodeState, module: ModuleState) -> str | None:
    """What is said of the result of the last module that succeeded, which is the node's when the visit is over."""
    return None if module.result == state.result else module.result or ""


def _last_succeeded(modules: Sequence[ModuleState]) -> int:
    """The place of the last module that succeeded, -1 if none did."""
    for place in range(len(modules) - 1, -1, -1):
        if modules[place].status is NodeStatus.SUCCEEDED:
            return place
    return -1


def _module_from_fields(fields: Mapping[str, str], place: ModuleNumber, status: NodeStatus) -> ModuleState:
    return ModuleState(
        status=NodeStatus(fields[f"status:{place}"]) if f"status:{place}" in fields else status,
        attempts=int(fields.get(f"attempts:{place}", 0)),
        result=fields.get(f"result:{place}"),
        failure=failure_from_text(fields[f"error:{place}"]) if f"error:{place}" in fields else None,
        retry_at=time_from_text(fields.get(f"retry_at:{place}")),
    )


def _restore_last_result(state: NodeState, fields: Mapping[str, str]) -> None:
    last = _last_succeeded(state.modules)
    if last >= 0:
        module = state.modules[last]
        module.result = state.result if f"result:{last}" not in fields else module.result or None
