"""Look at a run with redis-cli while it goes on, and once more when it is over."""

import asyncio
import shlex
import shutil
import sys
from datetime import datetime

from graphflow import Agent, RedisCache, Task
from graphflow.events import ItemsFinished

RUN_ID = f"prices-{datetime.now():%H-%M-%S}"
KEY = f"gf:run:{{{RUN_ID}}}"

agent = Agent(cache=RedisCache("embedded://"), max_concurrent_tasks=2)
looked = asyncio.Event()


@agent.node
def products(task):
    return [f"product-{number}" for number in range(task.params["count"])]


@agent.node(map_over="products")
async def price(product, index):
    if index >= 4:
        await looked.wait()  # holds the run in the middle, so that there is time to look at it
    return {"product": product, "cents": 100 + index}


@agent.node
def cheapest(price):
    return min(price, key=lambda offer: offer["cents"])


OWN_CLIENT = (sys.executable, "-m", "graphflow", "redis-cli")
REDIS_CLI = ("redis-cli", "-s", ".graphflow/redis.sock") if shutil.which("redis-cli") else OWN_CLIENT


async def ask(client, *words):
    process = await asyncio.create_subprocess_exec(*client, *words, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return output.decode()


async def show(*words, client=REDIS_CLI):
    typed = ("graphflow", "redis-cli") if client is OWN_CLIENT else client
    print("$", shlex.join([*typed, *words]))
    print(await ask(client, *words))


async def look_while_it_runs():
    await show("zrevrange", "gf:runs", "0", "4")  # the latest runs
    await show("hgetall", KEY)  # the run: status, owner, progress
    await show("hgetall", f"{KEY}:nodes")  # each node, one word
    await show("hgetall", f"{KEY}:map:price")  # how far the map is
    await show("hget", f"{KEY}:state", "products")  # a value of the state, as JSON
    await show("xrevrange", f"{KEY}:events", "+", "-", "count", "1")  # the last fact
    await show("--scan", "--pattern", f"{KEY}*")  # every key of the run
    await show("client", "list")  # who is connected


async def look_afterwards():
    """The embedded server went down with the run; `graphflow redis-cli` starts it for the length of a command."""
    await show("hmget", KEY, "status", "progress", client=OWN_CLIENT)
    await show("hget", f"{KEY}:state", "cheapest", client=OWN_CLIENT)


async def main():
    task = Task(type="prices", params={"count": 10})
    done = 0
    async for event in agent.stream(task, run_id=RUN_ID):
        if not isinstance(event, ItemsFinished):
            continue
        done += event.count
        if done == 4:
            print("While it runs:\n")
            await look_while_it_runs()
            looked.set()

    print("When it is over:\n")
    await look_afterwards()
    print(task.status, task.result)


if __name__ == "__main__":
    asyncio.run(main())
