"""What every store promises to the engine: runs are created once, driven by one, and come back as they were committed."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from graphflow.engine.advance import advance, apply
from graphflow.engine.compile import compile_plan
from graphflow.engine.plan import Plan
from graphflow.errors import (
    CorruptState,
    LeaseHeld,
    LeaseLost,
    PlanMismatch,
    RunExists,
    RunNotFound,
    SchemaTooNew,
    StoreError,
    StoreFull,
    StoreUnreachable,
    StoreWentBack,
)
from graphflow.events import ItemFailed, ItemsFinished, RunStarted
from graphflow.graph import (
    AgentModule,
    FlowControlConfig,
    FlowControlModule,
    FlowDecision,
    Node,
    NodeConfig,
    Task,
)
from graphflow.graph.tasks import RunStatus
from graphflow.ids import RunId
from graphflow.run import (
    Begin,
    Failure,
    Input,
    ItemOutcomes,
    ItemsStored,
    NodeState,
    NodeStatus,
    Outcome,
    RetryDue,
    Run,
    Started,
    StateSet,
)
from graphflow.store import redis_store
from graphflow.store.address import parse_address
from graphflow.store.connection import open_client
from graphflow.store.contract import Lease
from graphflow.store.keys import StoreKeys
from graphflow.store.redis_store import RedisStore
from graphflow.store.scripts import script
from tests.helpers import run as run_async
from tests.servers import RealServer

Body = Callable[[RedisStore], Awaitable[None]]
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


@pytest.fixture
def with_store(any_redis_url: str) -> Callable[[Body], None]:
    """Run a body with an open store."""

    def run(body: Body) -> None:
        async def main() -> None:
            async with opened(any_redis_url) as store:
                await body(store)

        run_async(main())

    return run


class Driver:
    """Folds inputs into the mirror and commits each as the scheduler does, one or several to a commit."""

    def __init__(self, store: RedisStore, plan: Plan, run: Run, lease: Lease) -> None:
        self.store, self.plan, self.run, self.lease = store, plan, run, lease
        self.now = NOW

    @classmethod
    async def start(cls, store: RedisStore, plan: Plan, run: Run | None = None) -> Driver:
        run = run or new_run(plan)
        await store.create(run, plan, agent="numbers", code="pkg.mod:agent")
        lease = await store.acquire(run.id, 10)
        return cls(store, plan, await store.load(run.id, plan), lease)

    async def commit(self, *inputs: Input):
        batch = self.store.batch(self.plan, self.run.id)
        expected = self.run.revision
        for each in inputs:
            self.now += 7
            transition = advance(self.plan, self.run, each, self.now, 0.5)
            batch.add(self.run, transition)
            apply(self.run, transition, self.plan)
        return await self.store.commit(self.lease, batch, expected=expected, revision=self.run.revision)

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


def test_created_run_loads_as_it_was_created(with_store):
    async def body(store: RedisStore) -> None:
        plan = chain_plan()
        run = new_run(plan, state={"numbers": "[1,2]", "größe": '"ä"'}, revisions={"numbers": 0, "größe": 0})

        await store.create(run, plan, agent="numbers", code="pkg.mod:agent")

        assert_same(await store.load(run.id, plan), run)

    with_store(body)


def test_run_id_is_created_once(with_store):
    async def body(store: RedisStore) -> None:
        plan = chain_plan()
        run = new_run(plan)
        await store.create(run, plan, agent="numbers", code="")

        with pytest.raises(RunExists):
            await store.create(run, plan, agent="numbers", code="")

    with_store(body)


def test_chain_runs_to_its_end(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())

        await driver.commit(Begin(), Started(0, 0))
        await driver.commit(succeeded(driver, "first", first='"a"'), Started(1, 0))
        await driver.commit(succeeded(driver, "second"))

        assert driver.run.status is RunStatus.COMPLETE
        assert_same(await driver.loaded(), driver.run)
        head = await store.head(driver.run.id)
        assert (head.status, head.progress, head.agent) == (
            RunStatus.COMPLETE,
            "2/2 nodes, 0 active",
            "numbers",
        )
        assert head.started
        assert head.finished > head.started
        assert await store.state_text(driver.run.id, "first") == '"a"'

    with_store(body)


@pytest.mark.parametrize("seed", range(6))
def test_any_walk_through_a_run_loads_as_the_mirror(with_store, seed):
    async def body(store: RedisStore) -> None:
        walk = Walk(await Driver.start(store, loop_plan()), random.Random(seed))
        await walk.driver.commit(StateSet({"sources": "[]", "rounds": "0"}), Begin())
        for _ in range(400):
            if walk.driver.run.status.is_final:
                break
            await walk.driver.commit(*walk.inputs())
            assert_same(await walk.driver.loaded(), walk.driver.run)

        assert walk.driver.run.status.is_final
        assert_same(await walk.driver.loaded(), walk.driver.run)

    with_store(body)


class Walk:
    """Chooses what comes in next, by chance, from what may come in."""

    def __init__(self, driver: Driver, rng: random.Random) -> None:
        self.driver, self.rng = driver, rng
        self.rounds = 0

    def inputs(self) -> list[Input]:
        """One input; sometimes state is set in the same commit."""
        chosen: list[Input] = [self.rng.choice(list(self.possible()))]
        if self.rng.random() < 0.3:
            self.rounds += 1
            key = self.rng.choice(["a", "b"])
            chosen.insert(0, StateSet({"rounds": str(self.rounds), key: self.rng.choice(["1", '"é"', None])}))
        return chosen

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


def test_run_of_another_graph_does_not_load(with_store):
    async def body(store: RedisStore) -> None:
        run = new_run(chain_plan())
        await store.create(run, chain_plan(), agent="numbers", code="")

        with pytest.raises(PlanMismatch):
            await store.load(run.id, map_plan())

    with_store(body)


def test_run_that_is_not_there_is_not_found(with_store):
    async def body(store: RedisStore) -> None:
        missing = RunId(f"missing-{uuid.uuid4().hex}")
        for call in (
            lambda: store.head(missing),
            lambda: store.load(missing, chain_plan()),
            lambda: store.acquire(missing, 1),
            lambda: store.post(missing, "stop"),
        ):
            with pytest.raises(RunNotFound, match="missing-"):
                await call()
        assert await store.state(missing) == {}
        assert await store.state_text(missing, "x") is None
        assert await store.events(missing) == []
        assert [pair async for pair in store.results(missing, "double")] == []

    with_store(body)


# Leases


def test_run_that_is_driven_names_its_driver(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())

        with pytest.raises(LeaseHeld) as held:
            await store.acquire(driver.run.id, 10)

        assert held.value.owner == driver.lease.owner
        assert 0 < held.value.seconds_left <= 10
        assert (await store.head(driver.run.id)).owner == driver.lease.owner

    with_store(body)


def test_run_of_a_dead_process_of_this_host_is_taken_at_once(with_store, monkeypatch):
    script = "from graphflow.store.owner import current_owner; print(current_owner())"
    dead = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()

    async def body(store: RedisStore) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(redis_store, "current_owner", lambda: dead)
            driver = await Driver.start(store, chain_plan())
        assert driver.lease.owner == dead

        lease = await store.acquire(driver.run.id, 10)

        assert lease.token != driver.lease.token

    with_store(body)


def test_commit_after_another_took_the_run_is_lost(with_store, any_redis_url):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        await _expire_lease(any_redis_url, driver.run.id)
        async with opened(any_redis_url) as other:
            await other.acquire(driver.run.id, 10)

            with pytest.raises(LeaseLost):
                await driver.commit(Begin())

            assert (await other.head(driver.run.id)).status is RunStatus.WAITING

    with_store(body)


def test_released_run_is_free(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())

        await store.release(driver.lease)
        await store.release(driver.lease)

        assert (await store.head(driver.run.id)).owner == ""
        assert (await store.acquire(driver.run.id, 10)).token != driver.lease.token

    with_store(body)


def test_renewer_tells_the_inbox_and_a_lost_lease(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        renewer = store.renewer()
        try:
            await store.post(driver.run.id, "stop")
            assert await asyncio.to_thread(renewer.renew, driver.lease) == 1

            await store.release(driver.lease)

            assert await asyncio.to_thread(renewer.renew, driver.lease) is None
        finally:
            renewer.close()

    with_store(body)


async def _expire_lease(url: str, run_id: RunId) -> None:
    client = await raw(url)
    await client.hset(StoreKeys().run(run_id).lease, "deadline", 1)
    await client.aclose()


# Commits whose reply is lost, stores that lose what they had


@pytest.mark.parametrize("failures", [1, 3])
def test_every_write_whose_reply_is_lost_takes_effect_once(with_store, monkeypatch, failures):
    async def body(store: RedisStore) -> None:
        real = store._redis.client.execute_command
        scripts = [script(name) for name in ("create", "acquire", "post", "commit", "release")]
        names = {form: each.name for each in scripts for form in (each.sha, each.text)}
        lost = dict.fromkeys(names.values(), 0)

        async def execute(*command, **options):
            """The first calls of each script reach the server, but their reply does not come back."""
            reply = await real(*command, **options)
            if command[0] in ("EVALSHA", "EVAL"):
                name = names[command[1]]
                lost[name] += 1
                if lost[name] <= failures:
                    raise RedisConnectionError("connection lost")
            return reply

        monkeypatch.setattr(store._redis.client, "execute_command", execute)
        driver = await Driver.start(store, chain_plan())
        assert await store.post(driver.run.id, "stop")
        reply = await driver.commit(Begin())

        assert reply.inbox == 1
        assert await store.take_requests(driver.lease) == ["stop"]
        assert [type(event) for _, event in await store.events(driver.run.id)] == [RunStarted]
        assert_same(await driver.loaded(), driver.run)
        await store.release(driver.lease)
        assert (await store.head(driver.run.id)).owner == ""
        assert all(count > failures for count in lost.values())

    with_store(body)


def test_commit_waits_for_a_server_that_comes_back():
    async def main(server: RealServer) -> None:
        async with opened(server.url) as store:
            driver = await Driver.start(store, chain_plan())
            server.kill()
            committing = asyncio.create_task(driver.commit(Begin(), Started(0, 0)))
            await asyncio.sleep(0.05)
            await asyncio.to_thread(server.restart)
            await committing

            assert_same(await driver.loaded(), driver.run)

    with RealServer("current", appendfsync="always") as server:
        run_async(main(server))


def test_store_that_stays_away_is_unreachable_when_patience_ends():
    async def main(server: RealServer) -> None:
        async with opened(server.url, patience_seconds=0.2) as store:
            driver = await Driver.start(store, chain_plan())
            server.kill()
            with pytest.raises(StoreUnreachable):
                await driver.commit(Begin())

    with RealServer("current") as server:
        run_async(main(server))


def test_store_that_lost_a_commit_went_back(with_store, any_redis_url):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        await driver.commit(Begin(), Started(0, 0))
        client = await raw(any_redis_url)
        await client.hset(StoreKeys().run(driver.run.id).run, "revision", 0)
        await client.aclose()

        with pytest.raises(StoreWentBack) as error:
            await driver.commit(succeeded(driver, "first"))

        assert (error.value.expected, error.value.found) == (1, 0)

    with_store(body)


def test_commit_to_a_run_that_is_gone_leaves_nothing_behind(with_store, any_redis_url):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        client = await raw(any_redis_url)
        await client.delete(*await _keys_of(client, driver.run.id))

        with pytest.raises(RunNotFound):
            await driver.commit(Begin())

        assert await _keys_of(client, driver.run.id) == []
        await client.aclose()

    with_store(body)


async def _keys_of(client, run_id: RunId) -> list[str]:
    return sorted([key async for key in client.scan_iter(match=f"gf:run:{{{run_id}}}*", count=1000)])


def test_full_memory_stops_the_start_of_a_map_but_not_what_is_under_way():
    async def main(server: RealServer) -> None:
        async with opened(server.url, patience_seconds=0.2) as store:
            driver = await Driver.start(store, map_plan())
            await driver.commit(Begin(), Started(0, 0))
            client = await raw(server.url)
            await client.config_set("maxmemory", 1)
            renewer = store.renewer()
            try:
                await driver.commit(StateSet({"x": "1"}))
                assert await asyncio.to_thread(renewer.renew, driver.lease) == 0
                stored = await driver.loaded()
                with pytest.raises(StoreFull):
                    await driver.commit(ItemsStored(0, 1, [(0, "1")]))
                with pytest.raises(StoreFull):
                    await store.create(new_run(driver.plan), driver.plan, agent="", code="")
                assert_same(await driver.loaded(), stored)
                await store.release(driver.lease)
            finally:
                renewer.close()
                await client.aclose()

    with RealServer("current", options={"maxmemory-policy": "noeviction"}) as server:
        run_async(main(server))


# Maps


def test_map_comes_back_item_by_item(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, map_plan())
        await driver.commit(Begin())
        items = [(index, f'"item {index}"') for index in range(1_300) if index % 7]
        await driver.open_map("double", items)
        done = [(index, f"[{index}]") for index, _ in items if index % 2]
        failures = [(index, Failure("ValueError", "odd"), 3) for index, _ in items[:40] if index % 2 == 0]

        await driver.commit(ItemOutcomes(0, 1, done=done[::-1], failed=failures, retried=5))

        run_id = driver.run.id
        assert await store.items(run_id, "double", [8, 1, 1_299]) == ['"item 8"', '"item 1"', '"item 1299"']
        assert [pair async for pair in store.results(run_id, "double")] == done
        assert await store.failed_items(run_id, "double") == failures
        loaded = await driver.loaded()
        assert_same(loaded, driver.run)
        assert len(loaded.maps[0].unfinished) == len(items) - len(done) - len(failures)
        assert "double " in (await store.head(run_id)).progress

    with_store(body)


def test_item_that_is_missing_is_corrupt_state(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, map_plan())
        await driver.commit(Begin())
        await driver.open_map("double", [(0, "1")])

        with pytest.raises(CorruptState, match="item 5"):
            await store.items(driver.run.id, "double", [0, 5])

    with_store(body)


def test_new_visit_of_a_map_drops_the_records_before(with_store):
    async def body(store: RedisStore) -> None:
        again = FlowControlModule(
            flow_config=FlowControlConfig(decisions=[FlowDecision(next_node="double", condition="more")])
        )
        plan = plan_of(
            work("double", map_over="numbers"), Node(name="again", dependencies=["double"], modules=[again])
        )
        driver = await Driver.start(store, plan)
        await driver.commit(StateSet({"more": "true"}), Begin())
        await driver.open_map("double", [(0, "1"), (1, "2")])
        await driver.commit(ItemOutcomes(0, 1, done=[(0, "2")], failed=[(1, Failure("E", ""), 1)]))

        await driver.open_map("double", [(5, "9")])

        assert [pair async for pair in store.results(driver.run.id, "double")] == []
        assert await store.failed_items(driver.run.id, "double") == []
        assert_same(await driver.loaded(), driver.run)

    with_store(body)


def test_results_of_a_map_that_a_condition_reads_are_loaded(with_store):
    async def body(store: RedisStore) -> None:
        plan = plan_of(
            work("double", map_over="numbers"), work("total", "double", condition="len(double) > 0")
        )
        driver = await Driver.start(store, plan)
        await driver.commit(Begin())
        await driver.open_map("double", [(0, "1"), (3, "2")])

        await driver.commit(ItemOutcomes(0, 1, done=[(3, "4"), (0, "2")], results="[2,4]"))

        assert driver.run.map_results == {0: "[2,4]"}
        assert_same(await driver.loaded(), driver.run)

    with_store(body)


# Events, requests, lists


def test_events_come_in_order_and_from_where_one_left_off(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, map_plan())
        await driver.commit(Begin())
        await driver.open_map("double", [(0, "1"), (1, "2"), (2, "3")])
        seen = await store.events(driver.run.id)

        await driver.commit(ItemOutcomes(0, 1, done=[(0, "2"), (1, "4")], failed=[(2, Failure("E", "x"), 1)]))

        new = [event for _, event in await store.events(driver.run.id, after=seen[-1][0])]
        assert isinstance(new[0], ItemsFinished)
        assert (new[0].indexes, new[0].token) == ("0-1", driver.lease.token)
        assert isinstance(new[1], ItemFailed)
        assert [event for _, event in await store.events(driver.run.id)] == [event for _, event in seen] + new

    with_store(body)


def test_waiting_for_events_ends_with_the_next_commit(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        waiting = asyncio.create_task(store.events(driver.run.id, block_ms=2_000))
        await asyncio.sleep(0)

        await driver.commit(Begin())

        assert [type(event) for _, event in await waiting] == [RunStarted]
        last = (await store.events(driver.run.id))[-1][0]
        assert await store.events(driver.run.id, after=last, block_ms=5) == []

    with_store(body)


def test_request_leaves_the_inbox_with_the_commit_that_answers_it(with_store):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        await store.post(driver.run.id, "one")
        await store.post(driver.run.id, "two")
        assert await store.take_requests(driver.lease) == ["one", "two"]
        await store.post(driver.run.id, "three")
        assert await store.take_requests(driver.lease) == ["three"]
        assert await store.take_requests(driver.lease) == []
        await store.post(driver.run.id, "four")

        reply = await driver.commit(Begin())

        assert reply.inbox == 1
        assert await store.take_requests(driver.lease) == ["four"]
        await store.release(driver.lease)
        driver.lease = await store.acquire(driver.run.id, 10)
        assert await store.take_requests(driver.lease) == ["four"]

    with_store(body)


def test_run_that_is_over_takes_no_requests_and_keeps_no_lease(with_store, any_redis_url):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, plan_of(work("only")))
        await driver.commit(Begin(), Started(0, 0))
        await store.post(driver.run.id, "stop")
        await store.take_requests(driver.lease)
        await driver.commit(succeeded(driver, "only", only="1"))
        await store.release(driver.lease)

        assert not await store.post(driver.run.id, "stop")

        client = await raw(any_redis_url)
        start = f"gf:run:{{{driver.run.id}}}"
        expected = ["", ":events", ":node:only", ":nodes", ":plan", ":revisions", ":state"]
        assert await _keys_of(client, driver.run.id) == [f"{start}{end}" for end in expected]
        assert await client.zscore("gf:runs:open", driver.run.id) is None
        assert await client.zscore("gf:runs", driver.run.id) is not None
        await client.aclose()

    with_store(body)


def test_recent_runs_come_latest_first_and_those_that_are_gone_not_at_all(any_redis_url):
    async def main() -> None:
        async with opened(any_redis_url, prefix=f"recent-{uuid.uuid4().hex}") as store:
            runs = [new_run(chain_plan()) for _ in range(4)]
            for run in runs:
                await store.create(run, chain_plan(), agent="numbers", code="")
                await asyncio.sleep(0.002)
            await store._redis.client.delete(store._keys.run(runs[2].id).run)

            assert [head.id for head in await store.recent(2)] == [runs[3].id, runs[1].id]
            assert [head.id for head in await store.recent(10)] == [runs[3].id, runs[1].id, runs[0].id]

    run_async(main())


# Stores and keys that cannot be read


def test_store_of_a_newer_schema_is_refused(any_redis_url):
    async def main() -> None:
        prefix = f"newer-{uuid.uuid4().hex}"
        client = await raw(any_redis_url)
        await client.hset(f"{prefix}:meta", "schema", 99)
        await client.aclose()

        with pytest.raises(SchemaTooNew):
            await RedisStore(parse_address(any_redis_url), prefix=prefix).open()

    run_async(main())


def test_store_that_is_not_open_says_so(any_redis_url):
    with pytest.raises(StoreError, match="not open"):
        run_async(RedisStore(parse_address(any_redis_url)).head(RunId("x")))


@pytest.mark.parametrize(
    ("name", "field", "text"),
    [
        ("run", "revision", "many"),
        ("run", "status", "lost"),
        ("run", "task", "{"),
        ("run", "held", "["),
        ("nodes", "first", "sleeping"),
        ("revisions", "x", "?"),
        ("node:first", "visits", "x"),
        ("node:first", "error", "{}"),
        ("node:first", "chosen", "nobody"),
        ("node:first", "started", "yesterday"),
    ],
)
def test_text_that_cannot_be_read_is_named(redis_url, name, field, text):
    async def main() -> None:
        async with opened(redis_url) as store:
            driver = await Driver.start(store, chain_plan())
            start = StoreKeys().run(driver.run.id).run
            key = start if name == "run" else f"{start}:{name}"
            await store._redis.client.hset(key, field, text)

            with pytest.raises(CorruptState) as error:
                await driver.loaded()

            assert error.value.key == key

    run_async(main())


@pytest.mark.parametrize("name", ["state", "nodes", "node:first"])
def test_key_of_a_wrong_type_is_named(with_store, any_redis_url, name):
    async def body(store: RedisStore) -> None:
        driver = await Driver.start(store, chain_plan())
        key = f"{StoreKeys().run(driver.run.id).run}:{name}"
        client = await raw(any_redis_url)
        await client.delete(key)
        await client.set(key, "something else")
        await client.aclose()

        with pytest.raises(CorruptState) as on_load:
            await driver.loaded()
        with pytest.raises(CorruptState) as on_commit:
            await driver.commit(StateSet({"x": "1"}), Begin())

        assert on_load.value.key == on_commit.value.key == key

    with_store(body)


def test_task_of_unknown_types_is_plain_data_at_a_look(redis_url):
    async def main() -> None:
        async with opened(redis_url) as store:
            run = new_run(chain_plan())
            await store.create(run, chain_plan(), agent="numbers", code="")
            key = StoreKeys().run(run.id).run
            await store._redis.client.hset(
                key, "task", '{"type":"numbers","params":{"report":{"$type":"Elsewhere","title":"Tides"}}}'
            )

            assert (await store.head(run.id)).task.params == {"report": {"title": "Tides"}}

    run_async(main())
