"""What to do about work that kills the process that runs it (rule 8).

When a process dies, the next one that drives the run counts a crash for all that was in flight. What was in flight at
two deaths is a suspect: nothing runs but the suspects with the most crashes, and these in a window that narrows with
each death, at last one alone. Only what has died `max_crashes` times, the last time alone, is failed for it, so that
one poisonous item costs a few deaths and no innocent item fails with it.

What was in flight is not journaled; it follows from what is stored. Of nodes it is those that are running. The items of
a map start in the order of their indexes, so it is the first ones without a record: as many as run at a time, and a few
more that were finished but not yet stored. Among suspects only the window is started, and the next one only when the
record of the one before is stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from graphflow.events import index_ranges
from graphflow.ids import ItemNumber, NodeNumber, enumerate_modules
from graphflow.planning.plan import Plan, bits
from graphflow.run import MapState, NodeStatus, Place, Run

#: Deaths in which something was in flight that make it a suspect.
SUSPICIOUS_CRASHES = 2
#: Items that may have ended without being stored when the process died.
UNSTORED_ITEMS = 100


@dataclass(slots=True)
class InFlight:
    """Nodes, and indexes of items by the number of their map node."""

    nodes: list[NodeNumber] = field(default_factory=list)
    items: dict[NodeNumber, list[ItemNumber]] = field(default_factory=dict)

    def described(self, plan: Plan) -> str:
        """As `node` and `node[INDEXES]`, for people."""
        names = [plan.nodes[index].name for index in self.nodes]
        maps = [f"{plan.nodes[index].name}[{index_ranges(items)}]" for index, items in self.items.items()]
        return " ".join((*names, *maps))

    def __len__(self) -> int:
        return len(self.nodes) + sum(map(len, self.items.values()))


def may_have_been_in_flight(plan: Plan, run: Run) -> InFlight:
    """What the process that drove this run may have had under way, from what it stored."""
    suspects = suspects_to_run(plan, run)
    if suspects is not None:
        return suspects
    found = InFlight()
    for index in bits(run.active & ~plan.subgraphs):
        opened = run.opened_map(index, run.nodes[index].visits)
        if opened is not None and _only_source_is_left(opened) and _follows(plan, index):
            continue
        if opened is not None and not _only_source_is_left(opened):
            width = _width(plan, index) + UNSTORED_ITEMS
            found.items[index] = sorted(opened.unfinished - _waiting_items(run, index))[:width]
        elif any(module.status is NodeStatus.RUNNING for module in run.nodes[index].modules):
            found.nodes.append(index)
    return found


def suspects_to_run(plan: Plan, run: Run) -> InFlight | None:
    """The suspects that may run now, to the exclusion of everything else; None if there are no suspects."""
    candidates = _suspects(run)
    if not candidates:
        return None
    most = max(crashes for crashes, _, _ in candidates)
    chosen = [(node, item) for crashes, node, item in candidates if crashes == most]
    limit = min(_max_crashes(plan, node) for node, _ in chosen)
    found = InFlight()
    for node, item in chosen[: window(plan.max_concurrent_tasks, most, limit)]:
        if item is None:
            found.nodes.append(node)
        else:
            found.items.setdefault(node, []).append(item)
    return found


def window(width: int, crashes: int, max_crashes: int) -> int:
    """How many suspects run at a time after so many deaths: `width` shrinks to 1 in equal ratios."""
    left = max_crashes - 1 - crashes
    if left <= 0:
        return 1
    ratio: float = left / (max_crashes - SUSPICIOUS_CRASHES + 1)
    return max(1, round(math.pow(width, ratio)))


def _only_source_is_left(opened: MapState) -> bool:
    """A map that waits for its source: with items in flight, the source is not what is blamed first."""
    return opened.has_more and not opened.unfinished


def _follows(plan: Plan, index: NodeNumber) -> bool:
    """Whether the map's source is another map under way: it has nothing in flight but its items."""
    source = plan.nodes[index].map
    return source is not None and source.pipelined


def _suspects(run: Run) -> list[tuple[int, NodeNumber, ItemNumber | None]]:
    """(crashes, node, item or None) of what died twice and is not done, in the order in which it runs."""
    found: list[tuple[int, NodeNumber, ItemNumber | None]] = []
    for index in bits(run.active):
        opened = run.opened_map(index, run.nodes[index].visits)
        if opened is None or _only_source_is_left(opened):
            if run.nodes[index].crashes >= SUSPICIOUS_CRASHES and not _only_waits(run, index):
                found.append((run.nodes[index].crashes, index, None))
        elif opened.crashes:
            left = sorted((opened.crashes.keys() & opened.unfinished) - _waiting_items(run, index))
            counts = ((opened.crashes[item], item) for item in left)
            found += [(crashes, index, item) for crashes, item in counts if crashes >= SUSPICIOUS_CRASHES]
    return found


def _waiting_items(run: Run, index: NodeNumber) -> set[ItemNumber]:
    """Items of a map that wait for a signal: nothing of them runs."""
    return {place.item for place in run.waits if place.node == index and place.item is not None}


def _only_waits(run: Run, index: NodeNumber) -> bool:
    """Whether everything of the node that is active waits for a signal."""
    state = run.nodes[index]
    return all(
        Place(index, state.visits, number) in run.waits
        for number, module in enumerate_modules(state.modules)
        if module.status.is_active
    )


def _width(plan: Plan, index: NodeNumber) -> int:
    """How many items of a map are under way at a time."""
    config = plan.nodes[index].config
    around = (scope.max_concurrent_tasks for scope in plan.around(plan.nodes[index]))
    slots = min((plan.max_concurrent_tasks, *around))
    at_a_time = slots if config.max_concurrency is None else min(config.max_concurrency, slots)
    return at_a_time * (config.batch_size or 1)


def _max_crashes(plan: Plan, index: NodeNumber) -> int:
    return plan.nodes[index].config.max_crashes
