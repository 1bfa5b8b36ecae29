"""`graphflow demo`: split, map, aggregate, report, slow enough to look at, to kill in the middle and to resume.

The graph is an ordinary one, in the short style. What an item comes to depends on the item alone, so that a run that
was killed and resumed ends with the same numbers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from graphflow.agent import Agent
from graphflow.cli.faces import Face
from graphflow.cli.run import drive_task, exit_code_of, show_outcome, start_logging, use_store
from graphflow.graph.tasks import Task
from graphflow.store.cache import RedisCache

ITEMS = 300
#: Items in work at a time; with 0.1 s for an item on average the run takes about five seconds.
ITEMS_AT_A_TIME = 6

agent = Agent(name="demo", cache=RedisCache("embedded://"))

#: Items that this process worked on.
_worked_on: set[int] = set()


@agent.node
def split(task: Task) -> list[int]:
    return list(range(1, task.params["items"] + 1))


@agent.node(map_over="split", max_concurrency=ITEMS_AT_A_TIME)
async def square(number: int) -> int:
    """Stands for slow work, such as a call of a language model: 50 to 150 ms."""
    await asyncio.sleep(0.05 + number * 37 % 101 / 1000)
    _worked_on.add(number)
    return number * number


@agent.node
def total(square: list[int]) -> int:
    return sum(square)


@agent.node
def report(split: list[int], total: int) -> dict[str, Any]:
    count = len(split)
    return {"items": count, "sum": total, "is_right": total == count * (count + 1) * (2 * count + 1) // 6}


def run_demo(*, run_id: str | None, url: str | None, verbose: bool) -> int:
    """Run or resume the demo and return the exit code."""
    start_logging(verbose=verbose)
    if url is not None:
        use_store(agent, url)
    face = Face(live=not verbose)
    outcome = drive_task(agent, Task(type="demo", params={"items": ITEMS}), run_id, face)
    show_outcome(outcome, face)
    if outcome.result is not None:
        here, count = len(_worked_on), outcome.result["items"]
        verdict = "as it must be" if outcome.result["is_right"] else "which is wrong"
        face.field("items", f"{count}: {here} ran in this process, {count - here} were already recorded")
        face.field("sum", f"{outcome.result['sum']:,}, {verdict}")
    return exit_code_of(outcome)
