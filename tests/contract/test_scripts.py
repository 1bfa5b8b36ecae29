"""Each script does what its head says, and refuses before it writes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from graphflow.errors import CorruptState, StoreError
from graphflow.graph.tasks import FINAL_STATUSES
from graphflow.server.address import parse_address
from graphflow.server.connection import open_client, open_sync_client
from graphflow.store.keys import RunKeys, StoreKeys
from graphflow.store.scripts import script
from graphflow.store.write_list import MAX_ARGUMENTS, WriteList
from tests.helpers import run as run_async

SCRIPTS = ("acquire", "commit", "create", "post", "release", "renew")


class Redis:
    """A sync client with the scripts of one run as methods."""

    def __init__(self, client, run_id: str) -> None:
        self.client = client
        self.keys = StoreKeys().run(run_id)

    def run(self, name, keys, *arguments):
        return script(name).run_sync(self.client, keys, arguments)

    def create(self, op="op0", **fields):
        writes = WriteList(self.keys.run)
        writes.set_fields(self.keys.run, {"status": "executing", "revision": "0", **fields})
        return self.run("create", writes.keys, op, 100, *writes.arguments)

    def acquire(self, owner="me:1:1", *, length=10_000, nonce=None, dead=""):
        nonce = nonce or uuid.uuid4().hex[:8]
        return self.run("acquire", [self.keys.run, self.keys.lease], owner, length, nonce, dead)

    def commit(self, token, writes=None, *, expected=0, revision=1, before="op0", op="op1", large="0"):
        writes = writes or self.writes()
        return self.run(
            "commit", writes.keys, token, expected, revision, before, op, large, 100, *writes.arguments
        )

    def writes(self) -> WriteList:
        return WriteList(self.keys.run, self.keys.lease, self.keys.inbox)

    def renew(self, token, length=10_000):
        return self.run("renew", [self.keys.lease, self.keys.inbox], token, length)

    def release(self, token):
        return self.run("release", [self.keys.run, self.keys.lease], token)

    def post(self, request="stop", op=None):
        return self.run("post", [self.keys.run, self.keys.inbox], op or uuid.uuid4().hex, request)

    def everything(self):
        """Every key of the run with its content."""
        found = {}
        for key in self.client.scan_iter(match=f"{self.keys.run}*", count=1000):
            kind = self.client.type(key)
            readers = {
                "hash": self.client.hgetall,
                "string": self.client.get,
                "list": lambda key: self.client.lrange(key, 0, -1),
                "stream": self.client.xrange,
            }
            found[key] = readers[kind](key)
        return found


@pytest.fixture
def redis(any_redis_url) -> Iterator[Redis]:
    client = open_sync_client(parse_address(any_redis_url), role="test")
    try:
        yield Redis(client, f"scripts-{uuid.uuid4().hex[:12]}")
    finally:
        client.close()


@contextmanager
def nothing_written(redis: Redis):
    before = redis.everything()
    yield
    assert redis.everything() == before


# create


def test_create_twice_under_one_operation_id_is_done_once(redis):
    assert redis.create("op0") == ["ok"]

    with nothing_written(redis):
        assert redis.create("op0", status="other") == ["ok"]


def test_create_under_another_operation_id_is_refused(redis):
    redis.create("op0")

    with nothing_written(redis):
        assert redis.create("op1", status="other") == ["exists"]


def test_create_leaves_nothing_of_an_older_run(redis):
    redis.client.hset(redis.keys.state, "left", "over")
    writes = WriteList(redis.keys.run)
    writes.set_fields(redis.keys.run, {"revision": "0"})
    writes.put("UNLINK", redis.keys.state)
    writes.set_fields(redis.keys.state, {"new": "1"})

    redis.run("create", writes.keys, "op0", 100, *writes.arguments)

    assert redis.client.hgetall(redis.keys.state) == {"new": "1"}


# acquire, renew, release


def test_lease_is_held_until_it_is_released(redis):
    redis.create()
    _, token, op, revision = redis.acquire("one:1:1")

    held = redis.acquire("two:2:2")

    assert (op, revision) == ("op0", "0")
    assert held[:2] == ["held", "one:1:1"]
    assert 0 < held[2] <= 10_000
    assert held[3] == token
    assert redis.client.hget(redis.keys.run, "owner") == "one:1:1"
    assert redis.release(token) == ["ok"]
    assert redis.client.hget(redis.keys.run, "owner") is None
    assert redis.acquire("two:2:2")[0] == "ok"


def test_acquire_repeated_by_the_same_call_gives_the_same_token(redis):
    redis.create()
    first = redis.acquire(nonce="aaaa0000")

    assert redis.acquire(nonce="aaaa0000") == first


def test_no_two_leases_have_one_token(redis):
    redis.create()
    tokens = set()
    for _ in range(5):
        _, token, *_ = redis.acquire(nonce="aaaa0000")
        tokens.add(token)
        redis.release(token)

    assert len(tokens) == 5


def test_expired_lease_is_taken_and_its_holder_fenced(redis):
    redis.create()
    _, old, *_ = redis.acquire("one:1:1")
    redis.client.hset(redis.keys.lease, "deadline", 1)

    _, new, *_ = redis.acquire("two:2:2")

    assert new != old
    with nothing_written(redis):
        assert redis.renew(old) == ["lost"]
        assert redis.release(old) == ["lost"]
        assert redis.commit(old) == ["lost", new]


def test_deadline_further_away_than_two_leases_counts_as_expired(redis):
    redis.create()
    redis.acquire("one:1:1", length=10_000)
    seconds, micros = redis.client.time()
    now = seconds * 1000 + micros // 1000
    redis.client.hset(redis.keys.lease, "deadline", now + 19_000)
    assert redis.acquire("two:2:2", length=1_000)[0] == "held"

    redis.client.hset(redis.keys.lease, "deadline", now + 3_600_000)

    assert redis.acquire("two:2:2", length=1_000)[0] == "ok"


def test_lease_of_a_dead_holder_is_taken_by_token(redis):
    redis.create()
    _, token, *_ = redis.acquire("one:1:1")

    assert redis.acquire("two:2:2", dead="1-other")[0] == "held"
    assert redis.acquire("two:2:2", dead=token)[0] == "ok"


@pytest.mark.parametrize("status", FINAL_STATUSES)
@pytest.mark.parametrize("left", ["no lease", "a lease that has ended"])
def test_run_that_is_over_gives_out_no_lease(redis, status, left):
    redis.create()
    if left == "a lease that has ended":
        redis.acquire("one:1:1")
        redis.client.hset(redis.keys.lease, "deadline", 1)
    redis.client.hset(redis.keys.run, mapping={"status": status, "quarantined": "it is torn"})

    with nothing_written(redis):
        assert redis.acquire("two:2:2") == ["over", status]


def test_acquire_whose_reply_was_lost_gives_its_token_although_the_run_is_over(redis):
    redis.create()
    first = redis.acquire(nonce="aaaa0000")
    redis.client.hset(redis.keys.run, "status", "complete")

    with nothing_written(redis):
        assert redis.acquire(nonce="aaaa0000") == first
        assert redis.acquire(nonce="bbbb0000") == ["over", "complete"]


def test_renewal_moves_the_deadline_and_tells_the_inbox(redis):
    redis.create()
    _, token, *_ = redis.acquire(length=1_000)
    before = int(redis.client.hget(redis.keys.lease, "deadline"))
    redis.post("stop")

    assert redis.renew(token, 60_000) == ["ok", 1]

    assert int(redis.client.hget(redis.keys.lease, "deadline")) > before + 50_000


def test_run_that_is_not_there_is_gone(redis):
    with nothing_written(redis):
        assert redis.acquire() == ["gone"]
        assert redis.commit("1-x") == ["gone"]
        assert redis.post() == ["gone"]
        assert redis.renew("1-x") == ["lost"]
        assert redis.release("1-x") == ["lost"]


# commit


def test_commit_writes_all_and_moves_the_revision(redis):
    redis.create()
    _, token, *_ = redis.acquire()
    redis.client.rpush(redis.keys.inbox, "a", "b", "c")
    writes = redis.writes()
    writes.set_fields(redis.keys.run, {"progress": "half"})
    writes.set_fields(redis.keys.state, {"x": '{"a":[]}', "big": "9007199254740993"})
    writes.put("XADD", redis.keys.events, ["event", "RunStarted"])
    writes.put("LTRIM", redis.keys.inbox, [2])

    assert redis.commit(token, writes, revision=3) == ["ok", 1, 0]

    run = redis.client.hgetall(redis.keys.run)
    assert (run["revision"], run["op"], run["progress"]) == ("3", "op1", "half")
    assert redis.client.hgetall(redis.keys.state) == {"x": '{"a":[]}', "big": "9007199254740993"}
    assert [fields for _, fields in redis.client.xrange(redis.keys.events)] == [{"event": "RunStarted"}]
    assert redis.client.lrange(redis.keys.inbox, 0, -1) == ["c"]


def test_commit_sent_again_is_already_done(redis):
    redis.create()
    _, token, *_ = redis.acquire()
    writes = redis.writes()
    writes.put("XADD", redis.keys.events, ["event", "RunStarted"])
    redis.commit(token, writes)

    with nothing_written(redis):
        assert redis.commit(token, writes) == ["ok", 0, 0]


def test_commit_that_arrives_after_the_next_one_is_refused_although_the_revision_stood_still(redis):
    redis.create()
    _, token, *_ = redis.acquire()
    redis.commit(token, revision=0, before="op0", op="op1")
    redis.commit(token, revision=0, before="op1", op="op2")

    with nothing_written(redis):
        assert redis.commit(token, revision=0, before="op0", op="op1") == ["other", "0"]


def test_commit_upon_another_revision_is_refused(redis):
    redis.create()
    _, token, *_ = redis.acquire()

    with nothing_written(redis):
        assert redis.commit(token, expected=4, revision=5) == ["other", "0"]


def test_commit_without_a_lease_is_lost(redis):
    redis.create()
    _, token, *_ = redis.acquire()
    redis.client.delete(redis.keys.lease)

    with nothing_written(redis):
        assert redis.commit(token) == ["lost", ""]


@pytest.mark.parametrize(
    "arguments",
    [
        ("HSET", 1, 3, "a", "1", "b"),
        ("HSET", 1, 0),
        ("HSET", 1, 2, "a"),
        ("HSET", 9, 2, "a", "1"),
        ("HSET", 1, "x", "a", "1"),
        ("HSET", 1, MAX_ARGUMENTS + 2, *["a"] * (MAX_ARGUMENTS + 2)),
        ("HDEL", 1, 0),
        ("UNLINK", 1, 1, "a"),
        ("LTRIM", 3, 1, "many"),
        ("XADD", 1, 1, "a"),
        ("FLUSHALL", 1, 0),
        ("HSET",),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:4])),
)
def test_malformed_write_stores_nothing_of_its_commit(redis, arguments):
    redis.create()
    _, token, *_ = redis.acquire()
    writes = redis.writes()
    writes.set_fields(redis.keys.state, {"x": "1"})
    writes.arguments += arguments

    with nothing_written(redis), pytest.raises(StoreError, match="malformed write"):
        redis.commit(token, writes)


def test_as_many_arguments_as_a_write_may_have_are_stored(redis):
    redis.create()
    _, token, *_ = redis.acquire()
    writes = redis.writes()
    writes.set_fields(redis.keys.state, {f"key{number}": "1" for number in range(1_700)})

    assert redis.commit(token, writes)[0] == "ok"

    assert redis.client.hlen(redis.keys.state) == 1_700


# post


def test_request_posted_twice_under_one_operation_id_stands_once(redis):
    redis.create()
    redis.post("stop", "id1")
    redis.post("go", "id2")
    redis.post("stop", "id1")

    assert redis.client.lrange(redis.keys.inbox, 0, -1) == ["stop", "go"]


def test_nothing_is_posted_to_a_run_that_is_over(redis):
    redis.create(status="complete")

    with nothing_written(redis):
        assert redis.post() == ["over", "complete"]


def test_operation_ids_of_old_requests_are_forgotten(redis):
    redis.create()
    for number in range(100):
        redis.post("go", f"id{number}")

    assert len(redis.client.hget(redis.keys.run, "posted").split()) == 16


# Keys of a wrong type


WRONG: dict[str, Callable[[Redis, str], object]] = {
    "acquire run": lambda redis, token: redis.acquire(),
    "acquire lease": lambda redis, token: redis.acquire(),
    "commit run": lambda redis, token: redis.commit(token),
    "commit lease": lambda redis, token: redis.commit(token),
    "commit inbox": lambda redis, token: redis.commit(token),
    "commit state": lambda redis, token: redis.commit(token, _state_write(redis)),
    "commit events": lambda redis, token: redis.commit(token, _event_write(redis)),
    "create run": lambda redis, token: redis.create(),
    "post run": lambda redis, token: redis.post(),
    "post inbox": lambda redis, token: redis.post(),
    "release run": lambda redis, token: redis.release(token),
    "release lease": lambda redis, token: redis.release(token),
    "renew lease": lambda redis, token: redis.renew(token),
    "renew inbox": lambda redis, token: redis.renew(token),
}


@pytest.mark.parametrize("case", WRONG)
def test_key_of_a_wrong_type_is_named_and_nothing_written(redis, case):
    redis.create()
    _, token, *_ = redis.acquire()
    key = getattr(redis.keys, case.split()[1])
    redis.client.delete(key)
    redis.client.set(key, "something else")

    with nothing_written(redis), pytest.raises(CorruptState) as refused:
        WRONG[case](redis, token)

    assert refused.value.key == key


def test_create_names_a_state_key_of_a_wrong_type(redis):
    redis.client.set(redis.keys.state, "something else")
    writes = WriteList(redis.keys.run)
    writes.set_fields(redis.keys.run, {"revision": "0"})
    writes.set_fields(redis.keys.state, {"x": "1"})

    with nothing_written(redis), pytest.raises(CorruptState, match="state"):
        redis.run("create", writes.keys, "op0", 100, *writes.arguments)


def _state_write(redis: Redis) -> WriteList:
    writes = redis.writes()
    writes.set_fields(redis.keys.nodes, {"a": "running"})
    writes.set_fields(redis.keys.state, {"x": "1"})
    return writes


def _event_write(redis: Redis) -> WriteList:
    writes = _state_write(redis)
    writes.put("XADD", redis.keys.events, ["event", "RunStarted"])
    return writes


# Loading scripts


def test_script_that_the_server_forgot_is_sent_again(redis):
    redis.create()
    redis.client.script_flush()

    assert redis.acquire()[0] == "ok"


def test_script_that_the_server_forgot_is_sent_again_by_async_clients(any_redis_url):
    async def main() -> None:
        client = await open_client(parse_address(any_redis_url), role="test")
        try:
            await client.script_flush()
            keys = StoreKeys().run(f"gone-{uuid.uuid4().hex}")
            for _ in range(2):
                assert await script("post").run(client, [keys.run, keys.inbox], ["op", "stop"]) == ["gone"]
        finally:
            await client.aclose()

    run_async(main())


def test_every_key_of_a_run_lies_in_one_slot():
    keys = StoreKeys("other:prefix").run("some.run-1")
    found = [getattr(keys, name) for name in RunKeys.__slots__]
    found += [build("a.node") for build in (keys.node, keys.map, keys.map_in, keys.map_out, keys.map_failed)]

    assert len(set(found)) == len(found)
    assert all(key.startswith("other:prefix:run:{some.run-1}") for key in found)
