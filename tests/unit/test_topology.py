"""Order, cycles and reachability, compared with the obvious slow answers."""

import random

import pytest

from graphflow.planning.topology import components, cycles, inverted, order, reachable


def random_edges(rng, count, *, acyclic):
    return [
        sorted(
            {rng.randrange(number if acyclic else count) for _ in range(rng.randrange(4))}
            if number
            else set()
        )
        for number in range(count)
    ]


def slowly_reachable(edges, start):
    found, waiting = set(), [start]
    while waiting:
        for target in edges[waiting.pop()]:
            if target not in found:
                found.add(target)
                waiting.append(target)
    return found


@pytest.mark.parametrize("seed", range(50))
def test_reachable_components_and_cycles_agree_with_a_search(seed):
    edges = random_edges(random.Random(seed), 14, acyclic=False)
    below = [slowly_reachable(edges, number) for number in range(14)]

    assert reachable(edges) == [sum(1 << target for target in targets) for targets in below]
    found = components(edges)
    assert sorted(number for component in found for number in component) == list(range(14))
    place = {number: index for index, component in enumerate(found) for number in component}
    for number in range(14):
        assert all(place[target] <= place[number] for target in below[number])
        together = {other for other in below[number] if number in below[other]} | {number}
        assert set(found[place[number]]) == together
    on_cycles = {number for number in range(14) if number in below[number]}
    assert bool(cycles(edges)) == bool(on_cycles)
    for cycle in cycles(edges):
        assert len(set(cycle)) == len(cycle)
        assert all(
            after in edges[before] for before, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True)
        )


@pytest.mark.parametrize("seed", range(20))
def test_order_keeps_predecessors_first_and_grants_wishes_without_cycles(seed):
    rng = random.Random(seed)
    predecessors = random_edges(rng, 14, acyclic=True)
    wishes = random_edges(rng, 14, acyclic=False)
    both = [[*needs, *wants] for needs, wants in zip(predecessors, wishes, strict=True)]

    place = {number: index for index, number in enumerate(order(predecessors, wishes))}

    assert sorted(place) == list(range(14))
    for number in range(14):
        assert all(place[need] < place[number] for need in predecessors[number])
        harmless = [want for want in wishes[number] if number not in slowly_reachable(both, want)]
        assert all(place[want] < place[number] for want in harmless)


def test_ties_keep_their_order_and_inverted_turns_edges_around():
    assert order([[], [], [0], []], [[]] * 4) == [0, 1, 2, 3]
    assert inverted([[1, 2], [2], []]) == [[], [0], [0, 1]]
