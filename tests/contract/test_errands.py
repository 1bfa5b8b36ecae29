"""Steps, waits for signals, early signals and messages: stored with a commit, or by `step.lua`, and read back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from graphflow.errors import CorruptState, LeaseLost
from graphflow.inputs import Begin, MessagesSent, Outcome, RetryDue, SignalArrived, SignalAwaited, Started
from graphflow.run import Message, Place, Wait
from graphflow.server.address import parse_address
from graphflow.server.connection import open_sync_client
from graphflow.store.write_list import WriteList
from tests.contract.driving import Driver, chain_plan, keys_of, map_plan, new_run, raw, succeeded
from tests.contract.test_scripts import Redis, nothing_written


@pytest.fixture
def redis(any_redis_url: str) -> Iterator[Redis]:
    client = open_sync_client(parse_address(any_redis_url), role="test")
    try:
        yield Redis(client, f"effects-{uuid.uuid4().hex[:12]}")
    finally:
        client.close()


def step(redis: Redis, token: str, field: str = "a:1:0:-:step:0:x", text: str = "1"):
    return redis.run("step", [redis.keys.lease, redis.keys.steps], token, field, text)


# step.lua


def test_the_first_result_of_a_step_stays(redis):
    redis.create()
    _, token, *_ = redis.acquire()

    assert step(redis, token, text='"first"') == ["ok", '"first"']
    with nothing_written(redis):
        assert step(redis, token, text='"second"') == ["ok", '"first"']

    assert redis.client.hgetall(redis.keys.steps) == {"a:1:0:-:step:0:x": '"first"'}


def test_who_lost_the_lease_remembers_nothing(redis):
    redis.create()
    _, old, *_ = redis.acquire()
    redis.release(old)

    with nothing_written(redis):
        assert step(redis, old) == ["lost", ""]
    _, new, *_ = redis.acquire()
    with nothing_written(redis):
        assert step(redis, old) == ["lost", new]


@pytest.mark.parametrize("key", ["lease", "steps"])
def test_a_step_refuses_keys_of_another_type_before_it_writes(redis, key):
    redis.create()
    _, token, *_ = redis.acquire()
    redis.client.delete(getattr(redis.keys, key))
    redis.client.rpush(getattr(redis.keys, key), "not a hash")

    with nothing_written(redis), pytest.raises(CorruptState, match=key):
        step(redis, token)


# Mailboxes in a commit


def test_a_commit_appends_and_takes_messages_in_one(redis):
    redis.create()
    _, token, *_ = redis.acquire()
    box = redis.keys.mailbox("box")
    redis.client.rpush(box, "one", "two", "one")
    writes = redis.writes()
    writes.put_all("RPUSH", box, ["three", "four"])
    writes.put("LREM", box, ["one"])

    redis.commit(token, writes)

    assert redis.client.lrange(box, 0, -1) == ["two", "one", "three", "four"]


@pytest.mark.parametrize(("command", "arguments"), [("RPUSH", []), ("LREM", []), ("LREM", ["a", "b"])])
def test_a_wrong_number_of_messages_is_refused_before_anything_is_written(redis, command, arguments):
    redis.create()
    _, token, *_ = redis.acquire()
    writes = WriteList(redis.keys.run, redis.keys.lease, redis.keys.inbox)
    writes.put("HSET", redis.keys.state, ["key", "1"])
    writes.put(command, redis.keys.mailbox("box"), arguments)

    with nothing_written(redis), pytest.raises(Exception, match="malformed"):
        redis.commit(token, writes)


# The store


def test_what_a_run_remembers_waits_for_and_has_received_comes_back_with_it(with_store):
    async def body(store):
        driver = await Driver.start(store, chain_plan())
        place = Place(driver.plan.by_name["first"], 1, 0)
        await driver.commit(Begin())
        await driver.commit(Started(*place[:1], 0))
        await driver.held.step("first", place, "step:aa:0:ask: why?", '{"n":1}')
        early = Message("box: 1", '{"id":"1","from":"first","value":1}', place, "sent:0:aa")
        await driver.commit(
            MessagesSent([early, Message("box: 1", '{"id":"2","from":"","value":2}')]),
            SignalArrived("early", '[1,"é"]'),
            SignalArrived("early", "null"),
            SignalAwaited(place, "go", "signal:0:go"),
        )

        run = await driver.loaded()

        assert run.steps == {place: {"step:aa:0:ask: why?": '{"n":1}', "sent:0:aa": "true"}}
        assert run.waits == {place: Wait("go", "signal:0:go", driver.run.revision)}
        assert run.signals == {"early": ('[1,"é"]', "null")}
        assert run.mailboxes == driver.run.mailboxes
        assert [text[7] for text in run.mailboxes["box: 1"]] == ["1", "2"]
        assert run.status.value == "suspended"
        head = await store.head(run.id)
        assert head.progress == "0/2 nodes, 1 active, waits for signal go"

    with_store(body)


def test_the_end_of_a_visit_removes_its_fields_and_the_end_of_a_run_the_keys(with_store, any_redis_url):
    async def body(store):
        driver = await Driver.start(store, chain_plan())
        index = driver.plan.by_name["first"]
        place = Place(index, 1, 0)
        await driver.commit(Begin())
        await driver.commit(Started(index, 0))
        await driver.commit(SignalAwaited(place, "go", "signal:0:go"))
        await driver.commit(SignalArrived("go", "1"))
        driver.run.steps[place]["step:aa:0:ask"] = await driver.held.step(
            "first", place, "step:aa:0:ask", '"answer"'
        )
        assert (await driver.loaded()).steps == driver.run.steps
        await driver.commit(Started(index, 0))
        await driver.commit(succeeded(driver, "first"))

        run = await driver.loaded()
        assert (run.steps, run.waits) == ({}, {})
        await driver.commit(SignalArrived("unwanted", "1"))
        await driver.commit(Started(driver.plan.by_name["second"], 0))
        await driver.commit(succeeded(driver, "second"))

        client = await raw(any_redis_url)
        try:
            left = {key.rpartition(":")[2] for key in await keys_of(client, driver.run.id)}
        finally:
            await client.aclose()
        assert not {"steps", "waits", "signals"} & left

    with_store(body)


def test_messages_that_were_taken_are_gone_after_a_load(with_store):
    async def body(store):
        driver = await Driver.start(store, chain_plan())
        index = driver.plan.by_name["first"]
        texts = [f'{{"id":"{number}","from":"","value":{number}}}' for number in range(3)]
        await driver.commit(Begin())
        await driver.commit(Started(index, 0), MessagesSent([Message("box", text) for text in texts]))
        await driver.commit(Outcome(index, 0, 1, "null", taken=[("box", texts[1])]))

        assert (await driver.loaded()).mailboxes == {"box": [texts[0], texts[2]]}

    with_store(body)


def test_items_of_a_map_are_remembered_each_by_itself(with_store):
    async def body(store):
        driver = await Driver.start(store, map_plan(), new_run(map_plan(), state={"numbers": "[1,2]"}))
        index = driver.plan.by_name["double"]
        await driver.commit(Begin())
        await driver.open_map("double", [(0, "1"), (1, "2")])
        for item in (0, 1):
            await driver.held.step("double", Place(index, 1, 0, item), "step:aa:0:ask", str(item))
        await driver.commit(SignalAwaited(Place(index, 1, 0, 1), "go", "signal:0:go"))

        run = await driver.loaded()

        assert run.steps == {Place(index, 1, 0, item): {"step:aa:0:ask": str(item)} for item in (0, 1)}
        assert list(run.waits) == [Place(index, 1, 0, 1)]

    with_store(body)


def test_a_step_under_a_lease_that_was_taken_is_refused(with_store):
    async def body(store):
        driver = await Driver.start(store, chain_plan())
        await driver.held.release()

        with pytest.raises(LeaseLost):
            await driver.held.step("first", Place(0, 1, 0), "step:aa:0:ask", "1")

    with_store(body)


def test_unreadable_waits_are_corrupt_state(with_store, any_redis_url):
    async def body(store):
        driver = await Driver.start(store, chain_plan())
        await driver.commit(Begin(), RetryDue(0, 0))
        client = await raw(any_redis_url)
        try:
            await client.hset(f"gf:run:{{{driver.run.id}}}:waits", "first:1:0:-", "no json")
        finally:
            await client.aclose()

        with pytest.raises(CorruptState, match="waits"):
            await driver.loaded()

    with_store(body)
