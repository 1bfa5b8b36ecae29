"""Snapshots are taken with the commit that settles their node, whole or not at all, and kept while they may be wanted."""

from __future__ import annotations

import copy

import pytest

from graphflow.errors import LeaseLost, RunNotFound, SnapshotNotFound, StoreError
from graphflow.graph import FlowControlConfig, FlowControlModule, FlowDecision, Node, SnapshotControl
from graphflow.inputs import Begin, ItemOutcomes, Started, StateSet
from graphflow.planning.compile import compile_plan
from graphflow.planning.plan import Plan
from graphflow.run import Failure, Run
from graphflow.store.contract import RunContent
from graphflow.store.keys import StoreKeys
from graphflow.store.retention import keys_but_hash
from graphflow.store.scripts import script
from graphflow.store.snapshots import SNAPSHOTS_KEPT
from graphflow.store.write_list import WriteList
from tests.contract.driving import Driver, assert_same, keys_of, new_run, raw, succeeded, work


def snapshot_plan(*, auto_snapshot: bool = False) -> Plan:
    """A map in a loop whose join takes a snapshot each time, and a node beside it that takes one the first time."""
    decide = FlowControlModule(
        flow_config=FlowControlConfig(
            decisions=[
                FlowDecision(next_node="double", condition="rounds < 30"),
                FlowDecision(next_node="report"),
            ]
        )
    )
    join = work("join", "double")
    join.snapshot = SnapshotControl.ALWAYS
    beside = work("beside")
    beside.snapshot = SnapshotControl.ONCE
    nodes = [
        work("double", map_over="numbers"),
        join,
        Node(name="decide", dependencies=["join"], modules=[decide]),
        work("report", "decide"),
        beside,
    ]
    return compile_plan(
        nodes,
        name="test",
        state_keys=["numbers", "rounds"],
        max_concurrent_tasks=3,
        max_total_iterations=1000,
        deadline=None,
        auto_snapshot=auto_snapshot,
    )


async def started(store) -> Driver:
    plan = snapshot_plan()
    driver = await Driver.start(store, plan, new_run(plan, state={"numbers": "[1,2]", "rounds": "0"}))
    await driver.commit(Begin())
    return driver


async def go_round(driver: Driver, *, until: str = "join") -> None:
    """One visit of the map, and of the join if it is gone on until there."""
    double, join = driver.plan.node("double").index, driver.plan.node("join").index
    rounds = int(driver.run.state["rounds"])
    await driver.open_map("double", [(0, f'"{rounds}a"'), (1, f'"{rounds}b"')])
    visit = driver.run.nodes[double].visits
    await driver.commit(ItemOutcomes(double, visit, done=[(0, str(rounds)), (1, str(-rounds))]))
    if until == "join":
        await driver.commit(Started(join, 0))
        await driver.commit(succeeded(driver, "join", rounds=str(rounds + 1)))


def as_it_was(run: Run) -> Run:
    """A mirror to compare with later."""
    was = copy.copy(run)
    for field in ("nodes", "state", "revisions", "expiring", "maps", "map_results"):
        setattr(was, field, copy.deepcopy(getattr(run, field)))
    return was


def test_commit_that_settles_a_node_keeps_the_run_as_it_is_then(with_store):
    async def body(store):
        driver = await started(store)
        await go_round(driver)
        then = as_it_was(driver.run)
        await go_round(driver, until="double")
        await driver.commit(StateSet({"rounds": "5", "more": "[]"}))

        (snapshot,) = await store.snapshots(driver.run.id)
        content = await store.content(driver.run.id, driver.plan, snapshot.number)

        assert (snapshot.number, snapshot.nodes, snapshot.revision) == (1, ("join",), then.revision)
        then.started = content.run.started
        assert_same(content.run, then)

    with_store(body)


def test_snapshot_of_an_earlier_visit_still_has_that_visits_records(with_store):
    async def body(store):
        driver = await started(store)
        for _ in range(3):
            await go_round(driver)

        records = [
            (await store.content(driver.run.id, driver.plan, number)).records[0] for number in (1, 2, 3)
        ]

        assert [each.items for each in records] == [{"0": f'"{n}a"', "1": f'"{n}b"'} for n in range(3)]
        assert [each.results for each in records] == [{"0": str(n), "1": str(-n)} for n in range(3)]

    with_store(body)


def test_records_after_the_snapshot_are_no_part_of_it(with_store):
    async def body(store):
        driver = await started(store)
        double, beside = driver.plan.node("double").index, driver.plan.node("beside").index
        await driver.open_map("double", [(number, str(number)) for number in range(5)])
        failure = Failure("ValueError", "odd")
        await driver.commit(
            ItemOutcomes(double, 1, done=[(0, "0"), (4, "8")]),
            ItemOutcomes(double, 1, failed=[(1, failure, 3)]),
        )
        await driver.commit(Started(beside, 0))
        await driver.commit(succeeded(driver, "beside"))
        then = as_it_was(driver.run)
        await driver.commit(ItemOutcomes(double, 1, done=[(2, "4")], failed=[(3, failure, 3)]))

        content = await store.content(driver.run.id, driver.plan, 1)

        assert content.records[double].results == {"0": "0", "4": "8"}
        assert list(content.records[double].failures) == ["1"]
        assert content.run.maps == then.maps
        assert content.run.maps[double].unfinished == {2, 3}

    with_store(body)


def test_last_snapshots_are_kept_and_nothing_of_older_ones_remains(with_store, any_redis_url):
    async def body(store):
        client = await raw(any_redis_url)
        driver = await started(store)
        for _ in range(SNAPSHOTS_KEPT + 3):
            await go_round(driver)

        found = await store.snapshots(driver.run.id)
        keys = await keys_of(client, driver.run.id)

        assert [snapshot.number for snapshot in found] == list(range(4, SNAPSHOTS_KEPT + 4))
        numbers = {int(key.split(":snapshot:")[1].split(":")[0]) for key in keys if ":snapshot:" in key}
        assert numbers == set(range(4, SNAPSHOTS_KEPT + 4))
        aside = {
            int(key.split(":")[-2]) for key in keys if key.endswith(":out") and key.split(":")[-2].isdigit()
        }
        assert aside == set(range(4, SNAPSHOTS_KEPT + 3)), "of the last one they are in their own place"
        with pytest.raises(SnapshotNotFound):
            await store.content(driver.run.id, driver.plan, 3)
        await client.aclose()

    with_store(body)


def test_map_without_a_snapshot_leaves_no_records_of_earlier_visits(with_store, any_redis_url):
    async def body(store):
        client = await raw(any_redis_url)
        driver = await started(store)
        await go_round(driver, until="double")
        before = await keys_of(client, driver.run.id)
        join = driver.plan.node("join").index
        await driver.commit(Started(join, 0))
        await driver.commit(succeeded(driver, "join", rounds="1"))
        await go_round(driver, until="double")

        # The snapshot that the join took names the first visit; what it needs stands aside, and nothing else does.
        added = set(await keys_of(client, driver.run.id)) - set(before)

        aside = {key for key in added if ":map:double:1:" in key and ":snapshot:" not in key}
        assert {key.rsplit(":", 1)[1] for key in aside} == {"in", "out"}
        await client.aclose()

    with_store(body)


def test_refused_commit_takes_no_snapshot(with_store, any_redis_url):
    async def body(store):
        client = await raw(any_redis_url)
        driver = await started(store)
        join = driver.plan.node("join").index
        await go_round(driver, until="double")
        await driver.commit(Started(join, 0))
        before = await keys_of(client, driver.run.id)
        await client.hset(StoreKeys().run(driver.run.id).lease, "token", "another")

        with pytest.raises(LeaseLost):
            await driver.commit(succeeded(driver, "join", rounds="1"))

        assert await keys_of(client, driver.run.id) == before
        assert await store.snapshots(driver.run.id) == []
        await client.aclose()

    with_store(body)


def test_who_takes_the_run_over_goes_on_counting_and_keeping(with_store):
    async def body(store):
        driver = await started(store)
        await go_round(driver)
        await driver.held.release()
        driver.held = await store.acquire(driver.run.id, 10)
        driver.run = await driver.held.load(driver.plan)
        await go_round(driver)

        first = await store.content(driver.run.id, driver.plan, 1)

        assert [snapshot.number for snapshot in await store.snapshots(driver.run.id)] == [1, 2]
        assert first.records[0].results == {"0": "0", "1": "0"}

    with_store(body)


def test_end_of_a_run_takes_no_snapshot(with_store):
    async def body(store):
        plan = snapshot_plan(auto_snapshot=True)
        driver = await Driver.start(store, plan, new_run(plan, state={"numbers": "[]", "rounds": "99"}))
        await driver.commit(Begin())
        await driver.commit(Started(plan.node("beside").index, 0))
        await driver.commit(succeeded(driver, "beside"))
        await driver.open_map("double", [])
        for name in ("join", "report"):
            await driver.commit(Started(plan.node(name).index, 0))
            await driver.commit(succeeded(driver, name))
        assert driver.run.status.is_final

        found = await store.snapshots(driver.run.id)

        assert [snapshot.nodes for snapshot in found] == [("beside",), ("double",), ("join",)]

    with_store(body)


def test_every_key_of_a_snapshot_ends_with_the_run(with_store, any_redis_url):
    async def body(store):
        client = await raw(any_redis_url)
        driver = await started(store)
        for _ in range(3):
            await go_round(driver)
        keys = StoreKeys().run(driver.run.id)

        named = {keys.run, *await keys_but_hash(store._redis, keys, driver.plan)}

        assert set(await keys_of(client, driver.run.id)) <= named
        await client.aclose()

    with_store(body)


def test_run_made_of_another_ones_content_loads_as_that_one_stood(with_store):
    async def body(store):
        driver = await started(store)
        for _ in range(2):
            await go_round(driver)
        await go_round(driver, until="double")
        content = await store.content(driver.run.id, driver.plan)
        fork = RunContent(copy.copy(content.run), content.records, content.parent, 7)
        fork.run.id = new_run(driver.plan).id

        await store.create(fork.run, driver.plan, agent="numbers", code="", content=fork)

        loaded = await store.load(fork.run.id, driver.plan)
        wanted = as_it_was(driver.run)
        wanted.id, wanted.iterations, wanted.started = loaded.id, loaded.iterations, loaded.started
        assert_same(loaded, wanted)
        head = await store.head(fork.run.id)
        assert (head.parent, head.snapshot) == (driver.run.id, 7)
        assert [text async for page in store.result_pages(fork.run.id, "double") for _, text in page] == [
            "2",
            "-2",
        ]

    with_store(body)


def test_snapshots_of_an_unknown_run_are_not_found(with_store):
    async def body(store):
        with pytest.raises(RunNotFound):
            await store.snapshots("no-such-run")
        with pytest.raises(RunNotFound):
            await store.content("no-such-run", snapshot_plan())

    with_store(body)


@pytest.mark.parametrize("command", ["COPY", "RENAME"])
@pytest.mark.parametrize("target", ["99", "x", ""])
def test_copy_to_a_key_that_is_not_named_is_refused_before_anything_is_written(
    with_store, any_redis_url, command, target
):
    async def body(store):
        client = await raw(any_redis_url)
        keys = StoreKeys().run(new_run(snapshot_plan()).id)
        writes = WriteList(keys.run)
        writes.set_fields(keys.run, {"status": "executing", "revision": "0"})
        writes.put(command, keys.run, [target])

        with pytest.raises(StoreError, match="malformed"):
            await script("create").run(client, writes.keys, ["op", 100, *writes.arguments])

        assert await client.exists(keys.run) == 0
        await client.aclose()

    with_store(body)


def test_moving_what_is_not_there_changes_nothing(with_store, any_redis_url):
    async def body(store):
        client = await raw(any_redis_url)
        keys = StoreKeys().run(new_run(snapshot_plan()).id)
        writes = WriteList(keys.run)
        writes.set_fields(keys.run, {"status": "executing", "revision": "0"})
        writes.put_pair("RENAME", keys.map_in("a"), keys.map_out("a"))
        writes.put_pair("COPY", keys.map_in("a"), keys.map_out("a"))

        answer = await script("create").run(client, writes.keys, ["op", 100, *writes.arguments])

        assert answer[0] == "ok"
        assert await client.exists(keys.map_out("a")) == 0
        await client.aclose()

    with_store(body)


def test_snapshots_are_no_part_of_what_makes_a_graph_another():
    assert snapshot_plan().hash == snapshot_plan(auto_snapshot=True).hash
