"""Questions about directed graphs of node numbers: order, cycles, what leads where. Knows no more of nodes.

`edges[n]` are the numbers that n's edges lead to; the caller says what an edge means. Sets of numbers are bit masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from graphflow.ids import NodeNumber, enumerate_nodes

Edges = Sequence[Sequence[NodeNumber]]


def components(edges: Edges) -> list[list[NodeNumber]]:
    """The strongly connected components; a component comes after all those that its edges lead to (Tarjan)."""
    found: list[list[NodeNumber]] = []
    visited = [0] * len(edges)
    low = [0] * len(edges)
    stack: list[NodeNumber] = []
    on_stack = [False] * len(edges)
    count = 0
    for root, _ in enumerate_nodes(edges):
        if visited[root]:
            continue
        # Recursion unrolled: a chain of 1,000 nodes would come near Python's limit.
        path = [(root, 0)]
        while path:
            number, step = path.pop()
            if step == 0:
                count += 1
                visited[number] = low[number] = count
                stack.append(number)
                on_stack[number] = True
            else:
                low[number] = min(low[number], low[edges[number][step - 1]])
            for next_step in range(step, len(edges[number])):
                target = edges[number][next_step]
                if not visited[target]:
                    path += [(number, next_step + 1), (target, 0)]
                    break
                if on_stack[target]:
                    low[number] = min(low[number], visited[target])
            else:
                if low[number] == visited[number]:
                    component: list[NodeNumber] = []
                    while not component or component[-1] != number:
                        component.append(stack.pop())
                        on_stack[component[-1]] = False
                    found.append(component)
    return found


def reachable(edges: Edges) -> list[int]:
    """For each number the mask of all that its edges lead to, transitively; with itself only if it is on a cycle."""
    masks = [0] * len(edges)
    for component in components(edges):
        mask = 0
        for member in component:
            for target in edges[member]:
                mask |= masks[target] | 1 << target
        for member in component:
            masks[member] = mask
    return masks


def cycles(edges: Edges) -> list[list[NodeNumber]]:
    """One cycle per component that has any, along its edges; the first number is not repeated at the end."""
    found = []
    for component in components(edges):
        first = min(component)
        if len(component) > 1 or first in edges[first]:
            found.append(_shortest_cycle(edges, first, set(component)))
    return sorted(found)


def order(predecessors: Edges, wishes: Edges) -> list[NodeNumber]:
    """The numbers with every one after its predecessors, which must be free of cycles; ties by number.

    Wishes are predecessors that count only where they close no cycle.
    """
    both = [(*needs, *wants) for needs, wants in zip(predecessors, wishes, strict=True)]
    component_of = {member: place for place, component in enumerate(components(both)) for member in component}
    waits_for = [
        {*needs, *(want for want in wants if component_of[want] != component_of[number])}
        for number, (needs, wants) in enumerate_nodes(zip(predecessors, wishes, strict=True))
    ]
    followers: list[list[NodeNumber]] = [[] for _ in waits_for]
    for number, needs in enumerate_nodes(waits_for):
        for need in needs:
            followers[need].append(number)

    ready = [number for number, needs in enumerate_nodes(waits_for) if not needs]
    heapify(ready)
    ordered = []
    while ready:
        number = heappop(ready)
        ordered.append(number)
        for follower in followers[number]:
            waits_for[follower].discard(number)
            if not waits_for[follower]:
                heappush(ready, follower)
    return ordered


def inverted(edges: Edges) -> list[list[NodeNumber]]:
    """The same edges, pointing the other way."""
    inverse: list[list[NodeNumber]] = [[] for _ in edges]
    for number, targets in enumerate_nodes(edges):
        for target in targets:
            inverse[target].append(number)
    return inverse


def _shortest_cycle(edges: Edges, start: NodeNumber, members: set[NodeNumber]) -> list[NodeNumber]:
    came_from: dict[NodeNumber, NodeNumber] = {}
    frontier = [start]
    while start not in came_from:
        next_frontier = []
        for number in frontier:
            for target in edges[number]:
                if target in members and target not in came_from:
                    came_from[target] = number
                    next_frontier.append(target)
        frontier = next_frontier
    cycle = [start]
    while (number := came_from[cycle[-1]]) != start:
        cycle.append(number)
    return [start, *reversed(cycle[1:])]
