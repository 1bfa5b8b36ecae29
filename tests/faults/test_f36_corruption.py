"""F36: keys that something else wrote to. What cannot be read is a CorruptState that names the key; that run is set
aside and not met again by sweeps, others go on, and what follows from the runs is rebuilt."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import redis

from graphflow.agent import Agent
from graphflow.errors import CorruptState, StoreError
from graphflow.store.redis_store import RedisStore
from tests.faults.graphs import agent_of, answer_of, executions, task_of
from tests.faults.harness import PATIENCE_SECONDS, looking_at
from tests.faults.invariants import check_run
from tests.helpers import run as run_async
from tests.helpers import wait_until
from tests.servers import RealServer

RUN = "gf:run:{torn}"


class Bench:
    """A run that was interrupted in the middle of its map, and another that is whole."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.log = folder / "log"
        self.agent: Agent = agent_of("map", url, self.log, delay=0.01, lease_seconds=1.0)

    def interrupt(self, run_id: str = "torn") -> None:
        async def main() -> None:
            running = asyncio.create_task(self.agent.run_task(task_of("map"), run_id=run_id))
            already = executions(self.log).total()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while executions(self.log).total() < already + 6:  # noqa: ASYNC110 - a file
                    await asyncio.sleep(0.002)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        run_async(main())

    def resume(self, run_id: str = "torn"):
        return asyncio.run(self.agent.resume(run_id))

    def rebuild(self) -> int:
        async def main() -> int:
            async with self.agent.cache.store() as store:
                assert isinstance(store, RedisStore)
                return await store.upkeep().rebuild_indexes()

        return run_async(main())


@pytest.fixture
def bench(tmp_path: Path):
    with RealServer("current") as server:
        yield Bench(server.url, tmp_path)


@pytest.fixture
def client(bench: Bench):
    with looking_at(bench.url) as client:
        yield client


def overwrite(key: str):
    def tear(client: redis.Redis) -> None:
        client.delete(key)
        client.set(key, "nonsense")

    return tear


def write(key: str, field: str, text: str):
    return lambda client: client.hset(key, field, text)


TEARS = {
    "state of another type": (f"{RUN}:state", overwrite(f"{RUN}:state")),
    "nodes of another type": (f"{RUN}:nodes", overwrite(f"{RUN}:nodes")),
    "a node of another type": (f"{RUN}:node:double", overwrite(f"{RUN}:node:double")),
    "records of another type": (f"{RUN}:map:double:out", overwrite(f"{RUN}:map:double:out")),
    "a value that is not JSON": (f"{RUN}:state", write(f"{RUN}:state", "chunks", "[1, 2")),
    "a result that is not JSON": (f"{RUN}:node:chunks", write(f"{RUN}:node:chunks", "result", "oops")),
    "a number that is none": (f"{RUN}:state", write(f"{RUN}:state", "chunks", "[1, 1e400]")),
    "a status that there is not": (f"{RUN}:nodes", write(f"{RUN}:nodes", "double", "dancing")),
    "a counter that is no number": (f"{RUN}:map:double", write(f"{RUN}:map:double", "done", "many")),
}


@pytest.mark.parametrize("tear", TEARS)
def test_run_that_cannot_be_read_is_set_aside_and_others_go_on(
    bench: Bench, client: redis.Redis, tear: str
) -> None:
    key, damage = TEARS[tear]
    bench.interrupt()
    bench.interrupt("whole")
    assert client.zscore("gf:runs:open", "torn") is not None
    damage(client)
    began = executions(bench.log).total()

    with pytest.raises(CorruptState) as error:
        bench.resume()

    assert error.value.key == key
    assert executions(bench.log).total() == began, "nothing of it runs"
    assert client.zscore("gf:runs:open", "torn") is None, "no sweep meets it"
    assert key in str(client.hget(RUN, "quarantined"))
    assert not client.exists(f"{RUN}:lease")
    assert bench.resume("whole")["combine"] == answer_of("map")
    assert bench.rebuild() == 1, "whoever asks for a rebuild wants it back"


def test_sweep_meets_a_run_that_cannot_be_read_once(bench: Bench, client: redis.Redis) -> None:
    bench.interrupt()
    bench.interrupt("whole")
    bench.interrupt("headless")
    overwrite(f"{RUN}:state")(client)
    client.hset("gf:run:{headless}", "status", "dancing")

    async def recover() -> tuple[list[str], set[str]]:
        refused: set[str] = set()
        results = await bench.agent.recover(refused=lambda run_id, error: refused.add(run_id))
        return [result.run_id for result in results], refused

    assert run_async(recover()) == (["whole"], {"torn", "headless"})
    assert run_async(recover()) == ([], set())


def test_run_goes_on_when_it_has_been_repaired(bench: Bench, client: redis.Redis) -> None:
    bench.interrupt()
    good = client.hget(f"{RUN}:state", "chunks")
    client.hset(f"{RUN}:state", "chunks", "[1, 2")
    with pytest.raises(CorruptState, match="'chunks' is not JSON"):
        bench.resume()
    client.hset(f"{RUN}:state", "chunks", good)

    assert bench.resume()["combine"] == answer_of("map")

    assert client.hget(RUN, "quarantined") is None
    check_run(client, "torn", "map")


@pytest.mark.parametrize(
    ("field", "text"),
    [("status", "dancing"), ("revision", "first"), ("created", "yesterday")],
)
def test_head_that_cannot_be_read_names_the_run(
    bench: Bench, client: redis.Redis, field: str, text: str
) -> None:
    bench.interrupt()
    client.hset(RUN, field, text)

    with pytest.raises(CorruptState) as error:
        bench.resume()

    assert error.value.key == RUN


def test_state_torn_while_the_run_goes_on_ends_the_driving_and_only_that(
    bench: Bench, client: redis.Redis
) -> None:
    async def main() -> None:
        running = asyncio.create_task(bench.agent.run_task(task_of("map"), run_id="torn"))
        other = asyncio.create_task(bench.agent.run_task(task_of("map"), run_id="whole"))
        await asyncio.to_thread(wait_until, lambda: executions(bench.log).total() > 4)
        client.delete(f"{RUN}:map:double:out")
        client.rpush(f"{RUN}:map:double:out", "nonsense")
        with pytest.raises(CorruptState, match="is of type list, not hash"):
            await running
        assert (await other)["combine"] == answer_of("map")

    run_async(main())

    assert "type list" in str(client.hget(RUN, "quarantined"))
    check_run(client, "whole", "map")


def test_lease_deleted_while_the_run_goes_on_is_taken_again(bench: Bench, client: redis.Redis) -> None:
    async def main() -> None:
        running = asyncio.create_task(bench.agent.run_task(task_of("map"), run_id="torn"))
        await asyncio.to_thread(wait_until, lambda: executions(bench.log).total() > 4)
        client.delete(f"{RUN}:lease")
        assert (await running)["combine"] == answer_of("map")

    run_async(main())

    check_run(client, "torn", "map")
    assert max(executions(bench.log).values()) <= 2


def test_index_of_open_runs_is_rebuilt_and_no_run_notices(bench: Bench, client: redis.Redis) -> None:
    bench.interrupt()
    client.delete("gf:runs:open", "gf:runs")

    assert bench.rebuild() == 2
    assert client.zrange("gf:runs:open", 0, -1) == ["torn"]
    client.delete("gf:runs:open")

    assert bench.resume()["combine"] == answer_of("map")


@pytest.mark.parametrize(("text", "wanted"), [("99", StoreError), ("newest", CorruptState)])
def test_schema_that_is_not_known_refuses_the_store(
    bench: Bench, client: redis.Redis, text: str, wanted: type[StoreError]
) -> None:
    bench.interrupt()
    client.hset("gf:meta", "schema", text)
    before = {key: client.dump(key) for key in client.scan_iter("gf:*")}

    with pytest.raises(wanted, match=r"99|newest"):
        bench.resume()

    assert {key: client.dump(key) for key in client.scan_iter("gf:*")} == before


def test_item_that_is_not_json_fails_alone(bench: Bench, client: redis.Redis) -> None:
    bench.interrupt()
    left = set(client.hkeys(f"{RUN}:map:double:in")) - set(client.hkeys(f"{RUN}:map:double:out"))
    client.hset(f"{RUN}:map:double:in", max(left, key=int), "[1, 2")

    outcome = bench.resume()

    assert outcome.status == "partial"
    [failure] = outcome.failures
    assert failure.item == int(max(left, key=int))
    assert "CorruptState" in failure.error
    assert len(json.loads(client.hget(f"{RUN}:state", "combine"))) == len(answer_of("map")) - 3
