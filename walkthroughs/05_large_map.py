"""Rows of a file, more than should be in memory at a time: read, worked on and added up as a stream."""

import asyncio
import itertools
import operator
import sys
import tempfile
from collections import Counter
from pathlib import Path

from graphflow import Agent, Task
from graphflow.events import ItemsFinished

agent = Agent(max_concurrent_tasks=50)


def rows(task, start):
    """The rows of the file but for the first `start`, which were taken before the program stopped."""
    print("reading from row", start)
    with open(task.params["orders"]) as file:
        yield from itertools.islice(file, start, None)


@agent.node(map_over=rows, max_retries=1, min_success=0.99)
async def order(row):
    customer, price, count = row.strip().split(",")
    return {"customer": customer, "cents": int(price) * int(count)}


@agent.node(map_over="order", batch_size=500, reduce=operator.add)
async def tax(orders):  # one call for 500 orders
    return [order["cents"] // 5 for order in orders]


@agent.node(dependencies=["order"])
async def best_customer(cache):
    cents = Counter()
    async for _index, order in cache.results("order"):
        cents[order["customer"]] += order["cents"]
    return cents.most_common(1)[0]


def write_orders(path, count):
    with open(path, "w") as file:
        for number in range(count):
            price = "broken" if number == 7_777 else number % 100
            file.write(f"customer-{number % 97},{price},{1 + number % 3}\n")


async def run_until(task, run_id, count):
    """Leave the run in the middle, as a crash would."""
    done = 0
    async for event in agent.stream(task, run_id=run_id):
        if isinstance(event, ItemsFinished):
            done += event.count
        if done >= count:
            return


async def main(orders, count):
    write_orders(orders, count)
    task = Task(type="orders", params={"orders": str(orders)})

    await run_until(task, "orders-1", count // 10)
    print("left in the middle")
    outcome = await agent.run_task(task, run_id="orders-1")

    print(outcome.status, outcome["tax"], outcome["best_customer"])
    print(outcome.failures[0])
    for name, progress in (await agent.progress("orders-1")).items():
        print(f"{name}: {progress.done} of {progress.total}, {progress.failed} failed")


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder, "orders.csv"), count))
