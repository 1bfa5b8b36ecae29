"""Who starts, who supervises, who waits to be chosen by whom; and is the graph as a whole sound?

`relate` carries out rules 1 and 6, `graph_problems` refuses cycles, endless decisions and nodes that can never start
(rule 13, second half).
"""

from __future__ import annotations

from collections.abc import Iterator

from graphflow.ids import NodeNumber
from graphflow.planning.sketch import Sketch, SketchNode
from graphflow.planning.topology import components, cycles, reachable


def relate(sketch: Sketch) -> list[int]:
    """Fill in who follows, supervises, chooses and starts; return for each node the mask of all that it depends on."""
    nodes = sketch.nodes
    for node in nodes:
        for number in node.dependencies:
            nodes[number].dependents.append(node.number)
        if node.on_error is not None:
            nodes[node.on_error].handles.append(node.number)
    for node in nodes:
        apart = not node.dependencies and not node.dependents
        node.supervises = node.is_pure_flow and apart and node.node.start is not True

    above = reachable([tuple(node.dependencies) for node in nodes])
    before = _before(nodes, above)
    for node in nodes:
        named = node.targets if node.on_error is None else {*node.targets, node.on_error}
        for number in named - {node.number}:
            target = nodes[number]
            # Who comes after the target cannot be awaited by it: such a decision leads back.
            if _may_wait(target) and not before[node.number] >> number & 1:
                if node.supervises:
                    target.named_by_supervisor = True
                else:
                    target.choosers.append(node.number)
    for node in nodes:
        chosen = node.only_chosen or bool(node.choosers) or node.named_by_supervisor
        is_root = not node.dependencies and not node.supervises and not chosen
        node.starts = node.node.start is True or is_root
    return above


def graph_problems(sketch: Sketch) -> Iterator[str]:
    """Problems that several nodes have with each other, as whole sentences."""
    dependents = [node.dependents for node in sketch.nodes]
    if circles := cycles(dependents):
        for circle in circles:
            yield _cycle_problem(sketch, circle)
    yield from _decision_problems(sketch)
    if not circles:
        yield from _never_starting(sketch)


def forward_jumps(sketch: Sketch, above: list[int]) -> Iterator[str]:
    """Warnings where a decision jumps over nodes that run anyway (rule 5), or names a supervisor (rule 6)."""
    for node in sketch.nodes:
        if node.supervises:
            continue
        for number in sorted(node.targets):
            target = sketch.nodes[number]
            if target.supervises:
                yield (
                    f"node {node.name!r} names {target.name!r}, which stands apart and so decides by itself whenever "
                    "the run is idle: the decision starts nothing"
                )
            elif above[number] >> node.number & 1 and node.number not in target.dependencies:
                yield (
                    f"node {node.name!r} may jump ahead to {target.name!r}, but nodes between them run all the same and "
                    f"may start {target.name!r} once more; let the decision name the first node of each branch"
                )


def can_start(sketch: Sketch, *, after_failures: bool) -> set[NodeNumber]:
    """The nodes that the start, a dependency, a decision or, if asked for, an on_error leads to."""
    started: set[NodeNumber] = set()
    settling: set[NodeNumber] = set()
    chosen: set[NodeNumber] = set()
    downwards = [
        sketch.nodes[number]
        for component in components([(*node.dependencies, *node.choosers) for node in sketch.nodes])
        for number in component
    ]
    grew = True
    while grew:
        before = len(started) + len(settling)
        for node in downwards:
            number = node.number
            begins = node.starts or node.supervises or number in chosen
            if number not in started and (begins or _follows(node, started, settling)):
                started.add(number)
                chosen |= node.targets
                if after_failures and node.on_error is not None:
                    chosen.add(node.on_error)
            if number not in settling and (number in started or _is_passed_over(node, settling)):
                settling.add(number)
        grew = len(started) + len(settling) > before
    return started


def _before(nodes: list[SketchNode], above: list[int]) -> list[int]:
    """For each node the mask of all that it depends on, and of all whose failure leads to it or to these.

    An on_error node that is above the failed one (asimov's retry_from) does not come after it.
    """
    return reachable(
        [
            (*node.dependencies, *(failed for failed in node.handles if not above[failed] >> node.number & 1))
            for node in nodes
        ]
    )


def _may_wait(node: SketchNode) -> bool:
    """Whether being named makes it wait to be chosen, instead of starting by itself."""
    if node.node.start is True or node.supervises:
        return False
    return node.only_chosen or not node.dependencies


def _follows(node: SketchNode, started: set[NodeNumber], settling: set[NodeNumber]) -> bool:
    if not node.dependencies or node.only_chosen:
        return False
    return settling.issuperset(node.dependencies) and not started.isdisjoint(node.dependencies)


def _is_passed_over(node: SketchNode, settling: set[NodeNumber]) -> bool:
    """Whether it is skipped at least, because all that could choose it settle."""
    awaited = node.choosers or ([] if node.only_chosen else node.dependencies)
    return bool(awaited) and not node.named_by_supervisor and settling.issuperset(awaited)


def _cycle_problem(sketch: Sketch, circle: list[NodeNumber]) -> str:
    names = [sketch.nodes[number].name for number in circle]
    sentence = f"the dependencies form a cycle: {' -> '.join([*names, names[0]])}"
    edges = list(zip(circle, [*circle[1:], circle[0]], strict=True))
    for decider, dependent in [*edges, *((a, b) for a in circle for b in circle if a != b)]:
        if dependent in sketch.nodes[decider].targets:
            return (
                f"{sentence}; {sketch.name_of(decider)} decides on {sketch.name_of(dependent)}: "
                "drop the dependency, the decision is the edge"
            )
    for source, dependent in edges:
        if asked_by := sketch.nodes[dependent].dependencies[source]:
            return (
                f"{sentence}; {sketch.name_of(dependent)} depends on {sketch.name_of(source)} by its {asked_by}: "
                "read it from the cache instead, or let a decision lead back"
            )
    return f"{sentence}; drop one of them and let a decision lead back"


def _decision_problems(sketch: Sketch) -> Iterator[str]:
    for node in sketch.nodes:
        if node.is_flow_control and not node.supervises and node.number in node.targets:
            yield f"node {node.name!r}: flow control in the graph may not name itself; name a node that does some work"
        if node.returns is None:
            continue
        for number in sorted(node.returns[0]):
            if sketch.nodes[number].supervises:
                yield (
                    f"node {node.name!r}: to= names {sketch.name_of(number)}, which stands apart and decides by itself "
                    "whenever the run is idle; drop it from to="
                )
    for node in sketch.nodes:
        if node.supervises and node.condition is not None:
            yield (
                f"node {node.name!r}: flow control that stands apart is never considered, so its own condition would be "
                "ignored; write the condition into its decisions"
            )
        if node.on_error is not None and sketch.nodes[node.on_error].supervises:
            yield (
                f"node {node.name!r}: on_error names {sketch.name_of(node.on_error)}, which stands apart and decides by "
                "itself whenever the run is idle; name a node that handles the failure"
            )

    pure = {node.number for node in sketch.nodes if node.is_pure_flow and not node.supervises}
    edges = [
        sorted(pure & {*node.targets, *node.dependents} - {node.number}) if node.number in pure else []
        for node in sketch.nodes
    ]
    for circle in cycles(edges):
        names = [sketch.nodes[number].name for number in [*circle, circle[0]]]
        yield (
            f"flow control leads to flow control for ever: {' -> '.join(names)}; "
            "let one of these decisions name a node that does some work"
        )


def _never_starting(sketch: Sketch) -> Iterator[str]:
    started = can_start(sketch, after_failures=True)
    named = {number for node in sketch.nodes for number in (*node.targets, node.on_error)}
    waiting = []
    for node in sketch.nodes:
        if node.number in started or (node.dependencies and not node.only_chosen):
            continue
        if node.number in named:
            waiting.append(repr(node.name))
        else:
            yield (
                f"node {node.name!r} can never start: it has start=False and no decision or on_error names it; "
                "name it in one, or drop start=False"
            )
    if len(waiting) == 1:
        yield (
            f"node {waiting[0]} can never start: only nodes that start after it choose it; "
            "give it start=True if it is to begin"
        )
    elif waiting:
        yield (
            f"nodes {', '.join(waiting)} can never start: each waits to be chosen by another of them; "
            "give the one that is to begin start=True"
        )
