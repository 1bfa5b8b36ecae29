"""What a chain could reach: the facts of each node run in one small fenced script, sent by a bare loop.

`python -m benchmarks.chain_limit [STEPS [SOCKET]]`, beside `benchmarks.chain` with the same server. No graph, no module
and no look over what is written: only the round trip and the writes that a node run needs.
"""

from __future__ import annotations

import asyncio
import sys
import time
from secrets import token_hex
from typing import Any

import hiredis
import redis.asyncio

from benchmarks.report import report
from graphflow.store.address import parse_address
from graphflow.store.embedded import EmbeddedServer

SCRIPT = """
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return {'lost'} end
local run = redis.call('HMGET', KEYS[1], 'revision', 'op')
if run[2] == ARGV[4] then return {'ok', 0} end
if run[1] ~= ARGV[2] then return {'other'} end
redis.call('HSET', KEYS[1], 'revision', ARGV[3], 'op', ARGV[4], unpack(ARGV, 5, 10))
redis.call('HSET', KEYS[3], unpack(ARGV, 11, 14))
redis.call('HSET', KEYS[4], unpack(ARGV, 15, 24))
redis.call('HSET', KEYS[5], unpack(ARGV, 25, 30))
redis.call('XADD', KEYS[6], 'MAXLEN', '~', 100000, '*', unpack(ARGV, 31, 42))
redis.call('XADD', KEYS[6], 'MAXLEN', '~', 100000, '*', unpack(ARGV, 43, 52))
return {'ok', redis.call('LLEN', KEYS[7])}
"""
MOMENT = "2026-11-20T20:13:14.054Z"
MS = "1795205594054"


class Connection(redis.asyncio.UnixDomainSocketConnection):
    def pack_command(self, *args: Any) -> list[bytes]:
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]


def keys_of(run: str, step: int) -> list[str]:
    parts = ("lease", "nodes", f"node:step_{step}", f"node:step_{step + 1}", "events", "inbox")
    return [run, *(f"{run}:{part}" for part in parts)]


def facts(step: int, steps: int) -> list[str | int]:
    """That this step has succeeded, and that the next one runs."""
    this, following, number = f"step_{step}", f"step_{step + 1}", str(step)
    fields = ["iterations", number, "updated", MOMENT, "progress", f"{step}/{steps} nodes, 1 active"]
    fields += [this, "succeeded", following, "running"]
    fields += ["settled", number, "changed", number, "result", "1", "finished", MOMENT, "attempts:0", "1"]
    fields += ["visits", "1", "considered", number, "started", MOMENT]
    fields += [
        "event",
        "NodeSucceeded",
        "revision",
        number,
        "at",
        MS,
        "node",
        this,
        "visit",
        "1",
        "ms",
        "0.226",
    ]
    fields += ["event", "NodeStarted", "revision", number, "at", MS, "node", following, "visit", "1"]
    return ["token", step, step + 1, f"token.{step + 1}", *fields]


async def drive(path: str, steps: int) -> float:
    pool = redis.asyncio.ConnectionPool(
        connection_class=Connection, path=path, protocol=2, decode_responses=True, socket_timeout=10
    )
    run = f"gf:limit:{{{token_hex(4)}}}"
    async with redis.asyncio.Redis.from_pool(pool) as client:
        await client.hset(f"{run}:lease", "token", "token")
        await client.hset(run, mapping={"revision": 0, "op": "token.0"})
        sha = await client.script_load(SCRIPT)
        begun = time.perf_counter()
        for step in range(steps):
            keys = keys_of(run, step)
            reply = await client.execute_command("EVALSHA", sha, len(keys), *keys, *facts(step, steps))  # type: ignore[no-untyped-call]
            assert reply[0] == "ok", reply
        seconds = time.perf_counter() - begun
        for step in range(steps):
            await client.unlink(*keys_of(run, step))
    return seconds


def main(steps: int = 1_000, url: str = "embedded://") -> None:
    address = parse_address(url)
    assert address.path is not None, "give embedded://, embedded:///FOLDER or unix:///SOCKET"
    if address.kind == "unix":
        report("chain_limit", steps, asyncio.run(drive(str(address.path), steps)))
        return
    server = EmbeddedServer(address.path)
    try:
        report("chain_limit", steps, asyncio.run(drive(str(server.start()), steps)))
    finally:
        server.stop()


if __name__ == "__main__":
    main(*(int(argument) if argument.isdigit() else argument for argument in sys.argv[1:]))  # type: ignore[arg-type]
