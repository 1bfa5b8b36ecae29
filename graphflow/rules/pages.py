"""Where does the next page of a map's items come from, and is there room for it? Rule 10.

A map that follows another one under way gets that one's results with the commits that store them. Any other map has a
source of its own, from which a page is taken while neither the map nor any that follows it, however far, lags behind: the
rules ask when all that is left waits for signals, the engine before it takes a page.
"""

from __future__ import annotations

from collections.abc import Callable

from graphflow.ids import NodeNumber
from graphflow.planning.plan import Plan, PlanNode, bits

#: Items without a record, or twice as many as run at a time, from which on no more are taken.
WINDOW_ITEMS = 2_000


def follows(plan: Plan, active: int, index: NodeNumber) -> bool:
    """Whether the items of a map whose source has not come to its end are the results of a map under way. One that began
    after the map that it goes through had settled reads these by itself."""
    source = plan.nodes[index].map
    if source is None or not source.pipelined or source.source_node is None:
        return False
    return bool(active >> source.source_node & 1)


def has_room(plan: Plan, active: int, index: NodeNumber, unfinished: Callable[[NodeNumber], int]) -> bool:
    """Whether another page may be taken from the map's source; `unfinished` are a map's items without a record."""
    return all(unfinished(each) < _window(plan, plan.nodes[each]) for each in _reached(plan, active, index))


def _reached(plan: Plan, active: int, index: NodeNumber) -> set[NodeNumber]:
    """The map, and those under way to which its results go, through others as well."""
    found, left = {index}, [index]
    while left:
        followers = {*bits(plan.nodes[left.pop()].streams_to & active)} - found
        found |= followers
        left += followers
    return found


def _window(plan: Plan, node: PlanNode) -> int:
    batch_size = node.map.batch_size if node.map is not None else None
    return max(WINDOW_ITEMS, 2 * plan.max_concurrent_tasks * (batch_size or 1))
