"""Maps whose items come page by page: whatever the pages, the order of outcomes, the failures of the source and the
deaths of processes, the run comes to what it would have come to with all items at once."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphflow import events
from graphflow.codec import encode
from graphflow.inputs import Crashed, Input, ItemOutcomes, ItemsStored
from graphflow.run import Failure, NodeStatus
from graphflow.transition import Transition
from tests.simulation import Simulation, View, choose, plan_of, work

MAX_STEPS = 2_000

quick = settings(suppress_health_check=list(HealthCheck))


def elements() -> Iterator[int]:
    """Named by the plan; what it yields is drawn by the tests."""
    yield 0


@dataclass(frozen=True)
class Spec:
    """A source and what becomes of its items. A generator fails `failures` times on the whole."""

    elements: int
    left_out: frozenset[int] = frozenset()
    failing: frozenset[int] = frozenset()
    failures: int = 0
    min_success: int | float | None = None
    reduces: bool = False
    fails_fast: bool = False
    visits: int = 1
    deaths: int = 0

    @property
    def items(self) -> list[tuple[int, str]]:
        return [(index, encode(index)) for index in range(self.elements) if index not in self.left_out]

    @property
    def results(self) -> list[int]:
        return [index for index, _ in self.items if index not in self.failing]


@st.composite
def specs(draw, max_failures=3):
    count = draw(st.integers(0, 20))
    some = st.frozensets(st.integers(0, max(0, count - 1)))
    fails_fast = draw(st.booleans()) and draw(st.booleans())
    least = st.none() | st.integers(0, 8) | st.sampled_from([0.25, 0.5, 0.9])
    return Spec(
        count,
        draw(some),
        draw(some),
        draw(st.integers(0, max_failures)),
        None if fails_fast else draw(least),
        draw(st.booleans()),
        fails_fast,
        draw(st.integers(1, 2)),
        draw(st.integers(0, 2)),
    )


def plan_for(spec: Spec, attempts: int):
    source = work(
        "m",
        map_over=elements,
        max_retries=attempts,
        min_success=spec.min_success,
        reduce=(lambda left, right: left + right) if spec.reduces else None,
        on_item_error="fail" if spec.fails_fast else "collect",
    )
    return plan_of(
        source,
        work("reads", "m", condition="nodes.m != null"),
        work("count", "m"),
        choose("again", f"m if n < {spec.visits}", after=["count"]),
    )


@dataclass
class Told:
    """What the events say of one visit."""

    total: int = 0
    recorded: list[int] = field(default_factory=list)


class Paged(Simulation):
    """A run whose map takes its items by the page, and finishes them by the batch, as the seed has it."""

    def __init__(self, spec: Spec, seed: int | None, *, attempts: int = 5) -> None:
        self.spec = spec
        self.rng = random.Random(seed)
        self.is_paged = seed is not None
        self.failures, self.deaths = (spec.failures, spec.deaths) if self.is_paged else (0, 0)
        self.pages: list[ItemsStored] = []
        self.results: dict[int, str] = {}
        super().__init__(
            plan_for(spec, attempts),
            {"count": self._count},
            pick=self.rng.randrange if self.is_paged else (lambda count: 0),
            checks=True,
        )
        self.map = self.plan.by_name["m"]

    def _count(self, view: View) -> None:
        view.set("n", view.get("n", 0) + 1)

    def finish(self):
        steps = 0
        step = self.step

        def counted() -> None:
            nonlocal steps
            steps += 1
            assert steps < MAX_STEPS, "the run does not end"
            step()

        self.step = counted
        return super().finish()

    def step(self) -> None:
        if self.pages and self.is_paged and self.rng.random() < 0.2:
            self._fold_late_page()
        if self.deaths and self.rng.random() < 0.05:
            self._die()
        super().step()

    def _fold_late_page(self) -> None:
        """One that was folded before: nothing may change by it, whatever visit it is of."""
        before = copy.deepcopy(self.run)
        before.seen, before.evaluated = self.run.seen, self.run.evaluated
        transition = self.fold(copy.deepcopy(self.rng.choice(self.pages)))
        assert transition == Transition(before.revision, before.active, before.fresh, before.iterations)
        assert self.run == before

    def _die(self) -> None:
        """The next process begins the source again from what is stored."""
        self.deaths -= 1
        self.run.deaths += 1
        self.fold(Crashed())

    def _items_of(self, node: int) -> ItemsStored:
        visit = self.run.nodes[node].visits
        items = self.spec.items
        if not self.is_paged:
            return ItemsStored(node, visit, items, span=self.spec.elements)
        opened = self.run.maps.get(node)
        start = opened.span if opened is not None and opened.visit == visit else 0
        if self.failures and self.rng.random() < 0.3:
            self.failures -= 1
            return ItemsStored(node, visit, [], Failure("Fail", "boom"), start)
        # Only the last page may bring nothing.
        span = self.rng.randint(min(start + 1, self.spec.elements), self.spec.elements)
        page = ItemsStored(
            node, visit, [item for item in items if start <= item[0] < span], start=start, span=span
        )
        page.has_more = span < self.spec.elements or (span > start and self.rng.random() < 0.5)
        if start and not page.has_more and not page.items and not self.run.maps[node].unfinished:
            page.results = self._text()
        return page

    def _item_outcome(self, node: int, index: int) -> ItemOutcomes:
        """The item, with some of the others that are stored."""
        others = [place for what, number, place in self._pending if what == "item" and number == node]
        batch = [index, *self.rng.sample(others, self.rng.randint(0, len(others)) if self.is_paged else 0)]
        self._pending = [entry for entry in self._pending if entry[0] != "item" or entry[2] not in batch]
        outcome = ItemOutcomes(node, self.run.nodes[node].visits)
        for item in batch:
            if item in self.spec.failing:
                outcome.failed.append((item, Failure("Fail", f"item {item}"), 1))
            else:
                outcome.done.append((item, encode(item)))
                self.results[item] = encode(item)
        opened = self.run.maps[node]
        if len(opened.unfinished) == len(batch) and not opened.has_more:
            outcome.results = self._text()
        return outcome

    def _text(self) -> str:
        """What the results come to, as the driver of the map hands it in."""
        texts = [self.results[index] for index in sorted(self.results)]
        if not self.spec.reduces:
            return f"[{','.join(texts)}]"
        return encode(sum(map(int, texts))) if texts else "null"

    def _take_up(self, transition: Transition) -> None:
        super()._take_up(transition)
        for node, change in transition.maps.items():
            if change.opened is not None:
                self.results = {}
            if transition.stopped >> node & 1:
                continue
            self._items.setdefault(node, {}).update(change.added)
            self._pending += [("item", node, index) for index, _ in change.added]

    def fold(self, outcome: Input) -> Transition:
        transition = super().fold(outcome)
        if isinstance(outcome, ItemsStored) and outcome.failure is None:
            is_new = outcome.node in transition.maps
            if is_new and outcome not in self.pages:
                self.pages.append(copy.deepcopy(outcome))
            if is_new and outcome.has_more:
                self._pending.append(("run", outcome.node, 0))
        return transition

    def summary(self) -> object:
        nodes = {
            node.name: (state.status, state.result if state.status is NodeStatus.SUCCEEDED else None)
            for node, state in zip(self.plan.nodes, self.run.nodes, strict=True)
        }
        succeeded = self.state("m").status is NodeStatus.SUCCEEDED
        results = self.run.map_results if succeeded and not self.spec.reduces else None
        return self.run.status, nodes, self.run.state.get("m"), results

    def told(self) -> dict[int, Told]:
        """By visit."""
        found: dict[int, Told] = {}
        for event in self.events:
            if isinstance(event, events.MapOpened):
                found[event.visit] = Told(event.total)
            elif isinstance(event, events.SourceExhausted):
                found[event.visit].total = event.total
            elif isinstance(event, events.ItemsFinished):
                found[event.visit].recorded += _indexes(event.indexes)
            elif isinstance(event, events.ItemFailed):
                found[event.visit].recorded.append(event.index)
        return found


def _indexes(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


@quick
@given(specs(), st.integers(0, 2**32))
def test_run_comes_to_what_it_would_with_all_items_at_once(spec, seed):
    at_once, paged = Paged(spec, None), Paged(spec, seed)

    at_once.finish()
    paged.finish()

    assert paged.failures >= 0
    assert paged.summary() == at_once.summary()


@quick
@given(specs(), st.integers(0, 2**32))
def test_each_item_of_a_map_that_succeeds_is_counted_and_told_of_once(spec, seed):
    paged = Paged(spec, seed)
    paged.finish()

    state = paged.state("m")
    if state.status is not NodeStatus.SUCCEEDED:
        return
    stored = paged.run.maps[paged.map]
    assert stored.visit == state.visits == spec.visits
    assert (stored.total, stored.done, stored.failed) == (
        len(spec.items),
        len(spec.results),
        len(spec.items) - len(spec.results),
    )
    assert (stored.span, stored.has_more, stored.unfinished) == (spec.elements, False, set())
    expected = [index for index, _ in spec.items]
    for told in paged.told().values():
        assert told.total == len(expected)
        assert sorted(told.recorded) == expected


@quick
@given(specs(max_failures=12), st.integers(0, 2**32), st.integers(1, 4))
def test_source_has_as_many_attempts_as_a_module(spec, seed, attempts):
    paged = Paged(spec, seed, attempts=attempts)
    paged.finish()

    by_visit: dict[int, int] = {}
    for outcome, _, _ in paged.inputs:
        if isinstance(outcome, ItemsStored) and outcome.failure is not None:
            by_visit[outcome.visit] = by_visit.get(outcome.visit, 0) + 1
    failed = paged.state("m").failure
    last = by_visit.get(paged.state("m").visits, 0)
    assert all(count <= attempts for count in by_visit.values())
    assert (failed is not None and failed.type == "Fail" and failed.message == "boom") == (last == attempts)


@quick
@given(specs(), st.integers(0, 2**32))
def test_end_of_a_map_leaves_nothing_to_run(spec, seed):
    paged = Paged(spec, seed)
    paged.finish()

    assert paged.run.status.is_final
    assert not paged.run.active
    assert paged.run.waits == {}
