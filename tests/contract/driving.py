"""Runs that are driven by hand: what the scheduler does between the fold and the store, without module runs."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

from graphflow.graph import (
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    Node,
    NodeConfig,
    Task,
)
from graphflow.ids import RunId
from graphflow.inputs import (
    Begin,
    Input,
    ItemOutcomes,
    ItemsStored,
    KeyDue,
    Outcome,
    RetryDue,
    Started,
    StateSet,
)
from graphflow.planning.compile import compile_plan
from graphflow.planning.plan import Plan
from graphflow.rules.advance import advance, apply
from graphflow.run import Failure, NodeState, NodeStatus, Run
from graphflow.server.address import parse_address
from graphflow.server.connection import open_client
from graphflow.store.contract import HeldRun, Store
from graphflow.store.redis_store import RedisStore

NOW = 1_795_000_000_000.0


class Work(AgentModule):
    async def process(self, cache, semaphore):
        return None


def work(name, *dependencies, modules=1, **config):
    return Node(
        name=name,
        dependencies=list(dependencies),
        modules=[Work(name=f"{name}{place}") for place in range(modules)],
        node_config=NodeConfig(**config),
    )


def plan_of(*nodes: Node, max_total_iterations: int | None = 1000) -> Plan:
    return compile_plan(
        nodes,
        name="test",
        state_keys=["numbers", "sources", "rounds", "more"],
        max_concurrent_tasks=3,
        max_total_iterations=max_total_iterations,
        deadline=None,
    )


def chain_plan() -> Plan:
    return plan_of(work("first"), work("second", "first"))


def loop_plan() -> Plan:
    """Everything that a node can go through: two modules, retries, a map, a loop, a skip, an error handler."""
    decide = FlowControlModule(
        flow_config=FlowControlConfig(
            decisions=[
                FlowDecision(next_node="plan", condition="rounds < 3"),
                FlowDecision(next_node="report", condition="rounds >= 3"),
            ]
        )
    )
    return plan_of(
        work("plan", modules=2, max_retries=2),
        work("items", "plan", map_over="sources"),
        work("join", "items", modules=3, parallel=True, max_retries=3, on_error="repair"),
        work("repair"),
        Node(name="decide", dependencies=["join"], modules=[decide]),
        work("report", "decide"),
        work("never", "report", condition="rounds > 100"),
    )


def new_run(plan: Plan, **values) -> Run:
    task = Task(type="numbers", objective="double them", params={"data": [1, 2]}, id="t1")
    run_id = RunId(f"test-{uuid.uuid4().hex[:12]}")
    return Run(run_id, task, [NodeState() for _ in plan.nodes], **values)


@asynccontextmanager
async def opened(url: str, **options) -> AsyncIterator[RedisStore]:
    store = RedisStore(parse_address(url), **options)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


def map_plan(**config) -> Plan:
    return plan_of(work("double", map_over="numbers", **config), work("total", "double"))


async def raw(url: str):
    return await open_client(parse_address(url), role="test")


class Driver:
    """Folds inputs into the mirror and commits each as the scheduler does, one or several to a commit."""

    def __init__(self, store: RedisStore, plan: Plan, run: Run, held: HeldRun) -> None:
        self.store, self.plan, self.run, self.held = store, plan, run, held
        self.now = NOW

    @classmethod
    async def start(cls, store: RedisStore, plan: Plan, run: Run | None = None) -> Driver:
        run = run or new_run(plan)
        await store.create(run, plan, agent="numbers", code="pkg.mod:agent")
        held = await store.acquire(run.id, 10)
        return cls(store, plan, await held.load(plan), held)

    async def commit(self, *inputs: Input):
        return await self.commit_all(inputs)

    async def commit_all(self, inputs: Iterable[Input]):
        """One commit; each input is asked for when the one before it is in the mirror."""
        batch = self.held.batch(self.plan)
        expected = self.run.revision
        for each in inputs:
            self.now += 7
            transition = advance(self.plan, self.run, each, self.now, 0.5)
            batch.add(self.run, transition)
            apply(self.run, transition, self.plan)
        return await self.held.commit(batch, expected=expected, revision=self.run.revision)

    async def open_map(self, name: str, items: list[tuple[int, str]]):
        node = self.plan.node(name).index
        await self.commit(Started(node, 0))
        await self.commit(ItemsStored(node, self.run.nodes[node].visits, items))

    async def loaded(self) -> Run:
        return await self.store.load(self.run.id, self.plan)


def assert_same(loaded: Run, mirror: Run) -> None:
    """Every field that is no memo; times to the millisecond. The mask `fresh` may lack what is not new."""
    for field in (
        "id",
        "task",
        "status",
        "revision",
        "state",
        "revisions",
        "keys_revision",
        "expiring",
        "maps",
        "active",
    ):
        assert getattr(loaded, field) == getattr(mirror, field), field
    for field in ("map_results", "iterations", "limit", "error", "held", "started", "finished"):
        assert getattr(loaded, field) == getattr(mirror, field), field
    assert loaded.fresh & ~mirror.fresh == 0
    for got, wanted in zip(loaded.nodes, mirror.nodes, strict=True):
        wanted = wanted.clone()
        for module in wanted.modules:
            module.retry_at = float(int(module.retry_at))
        assert got == wanted


def succeeded(
    driver: Driver, name: str, module: int = 0, *, result: str | None = '"done"', **writes: str
) -> Outcome:
    node = driver.plan.node(name)
    visit = driver.run.nodes[node.index].visits
    return Outcome(node.index, module, visit, result=result, writes=dict(writes))


async def keys_of(client, run_id: RunId) -> list[str]:
    return sorted([key async for key in client.scan_iter(match=f"gf:run:{{{run_id}}}*", count=1000)])


class Walk:
    """Chooses what comes in next, by chance, from what may come in."""

    def __init__(self, driver: Driver, rng: random.Random) -> None:
        self.driver, self.rng = driver, rng
        self.rounds = 0

    def inputs(self) -> Iterator[Input]:
        """A few inputs, some of which set state."""
        for _ in range(self.rng.randint(1, 4)):
            if self.driver.run.status.is_final:
                return
            if self.rng.random() < 0.2:
                self.rounds += 1
                key = self.rng.choice(["a", "b"])
                ttls = self.rng.choice([{}, {key: 5.0}, {"rounds": None, key: 0.5}])
                yield StateSet({"rounds": str(self.rounds), key: self.rng.choice(["1", '"é"', None])}, ttls)
                if self.driver.run.expiring and self.rng.random() < 0.5:
                    yield KeyDue(*self.rng.choice([*self.driver.run.expiring.items()]))
            yield self.rng.choice(list(self.possible()))

    def possible(self):
        driver = self.driver
        for node, state in zip(driver.plan.nodes, driver.run.nodes, strict=True):
            if not driver.run.active >> node.index & 1:
                continue
            current = driver.run.maps.get(node.index)
            if node.map is not None and current is not None and current.visit == state.visits:
                yield self.items(node.index, state.visits, current.unfinished)
                continue
            for place, module in enumerate(state.modules):
                if module.status is NodeStatus.READY:
                    yield Started(node.index, place)
                elif module.status is NodeStatus.WAITING:
                    yield RetryDue(node.index, place)
                elif module.status is NodeStatus.RUNNING and node.map is not None:
                    count = self.rng.randrange(0, 30)
                    indexes = self.rng.sample(range(40), count)
                    yield ItemsStored(
                        node.index, state.visits, [(index, f'"i{index}"') for index in sorted(indexes)]
                    )
                elif module.status is NodeStatus.RUNNING:
                    yield self.outcome(node.index, place, state.visits)

    def outcome(self, node: int, module: int, visit: int) -> Outcome:
        if self.rng.random() < 0.4:
            failure = Failure(
                "ValueError", 'no "good"\n', self.rng.choice(["", "line 1"]), self.rng.random() < 0.7
            )
            return Outcome(node, module, visit, failure=failure)
        result = self.rng.choice([None, "null", '{"a":[1]}', '"ä"'])
        return Outcome(
            node, module, visit, result=result, writes={f"out{node}": self.rng.choice(["1", "2", None])}
        )

    def items(self, node: int, visit: int, unfinished: set[int]) -> ItemOutcomes:
        some = self.rng.sample(sorted(unfinished), self.rng.randint(1, len(unfinished)))
        cut = self.rng.randint(0, len(some))
        failure = Failure("KeyError", "x", retryable=False)
        return ItemOutcomes(
            node,
            visit,
            [(index, f"[{index}]") for index in some[:cut]],
            [(i, failure, 2) for i in some[cut:]],
            retried=1,
        )


async def walk_through_a_run(store: Store, seed: int) -> None:
    """To its end, in which what is stored loads as the mirror after every commit."""
    walk = Walk(await Driver.start(store, loop_plan()), random.Random(seed))
    await walk.driver.commit(StateSet({"sources": "[]", "rounds": "0"}), Begin())
    for _ in range(400):
        if walk.driver.run.status.is_final:
            break
        await walk.driver.commit_all(walk.inputs())
        assert_same(await walk.driver.loaded(), walk.driver.run)

    assert walk.driver.run.status.is_final
    assert_same(await walk.driver.loaded(), walk.driver.run)
