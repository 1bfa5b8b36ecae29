"""A stored text that graphflow did not write is a CorruptState that names its key, whatever Python makes of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from graphflow import Agent, RedisCache, Task
from graphflow.errors import CorruptState
from graphflow.server.address import parse_address
from graphflow.server.connection import open_sync_client
from graphflow.store.fields import read_json
from graphflow.store.redis_store import RedisStore

RUN = "gf:run:{r}"
SNAPSHOT = f"{RUN}:snapshot:1"

Look = Callable[[RedisStore, Agent], Awaitable[Any]]


async def head(store: RedisStore, _: Agent) -> Any:
    return await store.head("r")


async def load(store: RedisStore, _: Agent) -> Any:
    return await store.load("r", await store.plan("r"))


async def progress(store: RedisStore, _: Agent) -> Any:
    return await store.map_progress("r")


async def failures(store: RedisStore, _: Agent) -> Any:
    return await store.failed_items("r", "double")


async def fork(_: RedisStore, agent: Agent) -> Any:
    return await agent.fork("r", 1)


TORN: list[tuple[str, str, str, Look]] = [
    (f"{RUN}:task", "params", '{"n": 1e400}', head),
    (f"{RUN}:task", "params", "[1]", head),
    (f"{RUN}:task", "metadata", "{", head),
    (RUN, "created", "0001-01-01", head),
    (RUN, "held", "[" * 5_000, head),
    (RUN, "mailboxes", "[[1]]", load),
    (RUN, "mailboxes", "1e400", load),
    (RUN, "mailboxes", "[", load),
    (RUN, "mailboxes", '{"a": 1}', load),
    (RUN, "snapshots", "1e400", fork),
    (f"{RUN}:state", "n", "1e400", load),
    (f"{RUN}:state", "n", '{"a": [true, 18E307, "e400"]}', load),
    (f"{RUN}:state", "n", "NaN", load),
    (f"{RUN}:expiring", "n", "1e400", load),
    (f"{RUN}:expiring", "n", "soon", load),
    (f"{RUN}:expiring", "n", "1" * 400, load),
    (f"{RUN}:node:last", "result", "-1e400", load),
    (f"{RUN}:node:last", "error", "1e400", load),
    (f"{RUN}:node:last", "visits", "1e400", load),
    (f"{RUN}:map:double", "stragglers", "[[1e400, 1]]", progress),
    (f"{RUN}:map:double", "done", "1e400", load),
    (f"{RUN}:map:double:failed", "1", "1e400", failures),
    (f"{RUN}:map:double", "visit", "1e400", fork),
    (f"{RUN}:map:double:out", "1e400", "1", fork),
    (f"{RUN}:map:double:failed", "1e400", "1", failures),
    (SNAPSHOT, "at", "1e400", fork),
    (SNAPSHOT, "revision", "1e400", fork),
    (SNAPSHOT, "visit:double", "1e400", fork),
    (SNAPSHOT, "mailboxes", "[[1]]", fork),
]


@pytest.fixture
def agent() -> Agent:
    """With a run that has failed items, a message and snapshots."""
    made = Agent(cache=RedisCache(f"memory://{uuid.uuid4().hex}"), auto_snapshot=True)

    @made.node(map_over="numbers", max_retries=1, inputs=["numbers"])
    def double(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return 2 * number

    @made.node
    async def first(cache: Any) -> None:
        await cache.set("n", 0, ttl=3600)

    @made.node
    async def last(double: list[int], cache: Any) -> int:
        await cache.publish_to_mailbox("box", 1)
        return len(double)

    state = {"numbers": [1, 2, 3], "n": 0}
    made.run_task_sync(Task(type="t"), state=state, run_id="r")
    return made


@pytest.mark.parametrize(
    ("key", "field", "text", "look"), TORN, ids=lambda each: getattr(each, "__name__", str(each))[:40]
)
def test_what_cannot_be_read_names_its_key(agent: Agent, key: str, field: str, text: str, look: Look) -> None:
    address = parse_address(agent.cache.address.url)
    client = open_sync_client(address, role="test")
    assert client.exists(key), "else nothing would be torn"
    client.hset(key, field, text)
    client.close()

    async def main() -> None:
        async with RedisStore(address) as store:
            await look(store, agent)

    with pytest.raises(CorruptState) as caught:
        asyncio.run(main())

    assert caught.value.key == key


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e300", 1e300),
        ('["1e400", "12e307"]', ["1e400", "12e307"]),
        ("[1e-400]", [0.0]),
        ('{"e": 1}', {"e": 1}),
        ("1" * 400, int("1" * 400)),
    ],
)
def test_numbers_that_are_some_and_texts_that_look_like_them_are_read(text: str, value: object) -> None:
    assert read_json(text) == value


@pytest.mark.parametrize(
    "text", ["1e400", "-1E400", "[[[9e308]]]", '{"a": {"b": 1e+999}}', "NaN", "Infinity"]
)
def test_infinity_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"too large|expected value"):
        read_json(text)
