"""The limit for a chain that keeps what graphflow keeps: the facts of each node run in one small fenced script.

No graph, no module and no look over what is written: only the round trip and the writes that a node run needs.
"""

from __future__ import annotations

from benchmarks.client import open_client
from benchmarks.occasion import Occasion

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


async def chain(occasion: Occasion) -> int:
    async with open_client(occasion.server) as client:
        await client.hset("run:lease", "token", "token")
        await client.hset("run", mapping={"revision": 0, "op": "token.0"})
        script = await client.script_load(SCRIPT)
        with occasion.timed():
            for step in range(occasion.count):
                keys = keys_of("run", step)
                await client.execute_command(
                    "EVALSHA", script, len(keys), *keys, *facts(step, occasion.count)
                )
        return int(await client.hget("run", "revision"))


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
