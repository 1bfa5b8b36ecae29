"""What becomes of a kept run: how it looks, and what each thing that can be done with it comes to, as plain data.

Each action finds the store as it was kept. What differs from day to day is left out: times, and where the store is.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import redis
from typer.testing import CliRunner

from graphflow import Agent, GraphflowError, RunResult
from graphflow.cli.main import app
from graphflow.codec import encode
from tests.replay.kept_graphs import Outside
from tests.replay.kept_runs import KEPT
from tests.replay.stored_text import Command, load

#: As `2026-11-20 08:30:00`, `35.2 ms`, `2.4 s`, `4 min 10 s`, `3 h 5 min`, `0.01`.
_TIMES = re.compile(
    r"\d+-\d\d-\d\d \d\d:\d\d:\d\d|\d[\d.]* (?:ms|s|min|h)\b(?: \d+ (?:s|min)\b)?|\b\d+\.\d\d\b"
)

Action = Callable[..., Awaitable[dict[str, Any]]]


def actions_for(name: str, commands: list[Command]) -> list[str]:
    """What is tried with a kept run."""
    run, kept = f"gf:run:{{{name}}}", KEPT[name]
    numbers = next(
        (text.split() for _, key, field, text in _fields(commands) if (key, field) == (run, "snapshots")), []
    )
    actions = ["look", "resume", "retry", *(f"retry at {number}" for number in numbers), "cancel", "delete"]
    return [action for action in (*actions, *kept.actions) if action not in kept.left_out]


#: Seconds after which what has not come to its end stands still.
PATIENCE_SECONDS = 30.0


def outcome_of(
    name: str,
    action: str,
    commands: list[Command],
    url: str,
    client: redis.Redis,
) -> Any:
    """What one action comes to. It is cut off if it stands still."""
    client.flushall()
    load(client, commands)
    if action == "look":
        return _masked(_looked_at(name, url), url)
    outside = Outside()
    verb, _, at = action.partition(" at ")

    async def act() -> dict[str, Any]:
        agent = KEPT[name].build(url, outside)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await _ACTIONS[verb](agent, name, *([int(at)] if at else []))

    try:
        found = asyncio.run(act())
    except GraphflowError as error:
        found = {"refused": type(error).__name__, "because": str(error)}
    if action == "delete":
        found["left"] = sorted(client.keys(f"gf:run:{{{name}}}*"))
    called = set(outside.calls) if KEPT[name].has_conflicts else outside.calls
    return _masked(found | {"called": sorted(called)}, url)


def recorded_items(name: str, commands: list[Command]) -> list[str]:
    """The calls of the items of maps that a kept run has results of."""
    outs = [(key, field) for _, key, field, _ in _fields(commands) if key.endswith(":out")]
    return [
        f"{key.split(':')[-2]} {field}" for key, field in outs if key.startswith(f"gf:run:{{{name}}}:map:")
    ]


def _fields(commands: list[Command]) -> list[Command]:
    return [command for command in commands if command[0] == "HSET"]


async def _resume(agent: Agent, name: str) -> dict[str, Any]:
    return _told(await agent.resume(name))


async def _retry(agent: Agent, name: str, at: int | None = None) -> dict[str, Any]:
    return _told(await agent.fork(name, at, run_id=f"{name}-again"))


async def _cancel(agent: Agent, name: str) -> dict[str, Any]:
    return {"answer": await agent.cancel(name, "it is only kept"), **_told(await agent.resume(name))}


async def _delete(agent: Agent, name: str) -> dict[str, Any]:
    await agent.delete(name)
    return {}


async def _signals(agent: Agent, name: str) -> dict[str, Any]:
    for signal, value in (("approve", {"by": "Ada"}), ("vote b", {"for": False})):
        await agent.signal(name, signal, value)
    return _told(await agent.resume(name))


async def _resume_with_another_graph(agent: Agent, name: str) -> dict[str, Any]:
    return _told(await _with_one_node_more(agent).resume(name))


async def _accept_another_graph(agent: Agent, name: str) -> dict[str, Any]:
    return _told(await _with_one_node_more(agent).resume(name, accept_changes=True))


_ACTIONS: dict[str, Action] = {
    "resume": _resume,
    "retry": _retry,
    "cancel": _cancel,
    "delete": _delete,
    "signals": _signals,
    "resume with another graph": _resume_with_another_graph,
    "accept another graph": _accept_another_graph,
}


def _with_one_node_more(agent: Agent) -> Agent:
    *_, last = agent.nodes

    @agent.node(dependencies=[last])
    async def added():
        return "added"

    return agent


def _told(outcome: RunResult) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "error": outcome.error,
        "result": as_stored(outcome.result),
        "state": {key: as_stored(outcome[key]) for key in sorted(outcome.run.state)},
        "nodes": {
            name: {
                "status": node.status,
                "visits": node.visits,
                "attempts": node.attempts,
                "result": as_stored(node.result),
                "error": node.error,
            }
            for name, node in outcome.node_results.items()
        },
        "failures": [str(failure) for failure in outcome.failures],
        "held": list(outcome.held),
    }


def _looked_at(name: str, url: str) -> dict[str, Any]:
    async def look() -> dict[str, Any]:
        agent = KEPT[name].build(url, Outside())
        progress = await agent.progress(name)
        return {
            "snapshots": [
                [each.number, list(each.nodes), each.revision] for each in await agent.snapshots(name)
            ],
            "progress": {
                node: [each.total, each.done, each.failed, each.retried, each.active]
                for node, each in progress.items()
            },
            "results": {
                node: [[index, as_stored(value)] async for index, value in agent.results(name, node)]
                for node in progress
            },
            "state": {key: as_stored(value) for key, value in sorted((await agent.state(name)).items())},
        }

    return {"list": printed("list", url), "show": printed("show", url, name)} | asyncio.run(look())


def printed(command: str, url: str, *words: str) -> list[str]:
    """What a command prints, in lines; columns no wider than they must be."""
    shown = CliRunner().invoke(app, [command, *words, "--url", url])
    assert shown.exit_code == 0, f"graphflow {command}: {shown.output} {shown.exception!r}"
    return [re.sub(r" {2,}", "  ", line).rstrip() for line in shown.stdout.splitlines()]


def as_stored(value: Any) -> Any:
    """The JSON that a value is stored as."""
    return json.loads(encode(value))


def as_text(found: Any, indent: str = "") -> str:
    """As JSON that can be compared line by line: dicts, and lists of texts, have a line for each part."""
    inner = indent + "  "
    if isinstance(found, dict) and found:
        parts = [f"{json.dumps(name)}: {as_text(each, inner)}" for name, each in found.items()]
    elif isinstance(found, list) and found and all(isinstance(each, str) for each in found):
        parts = [json.dumps(each) for each in found]
    else:
        return json.dumps(found)
    opening, closing = "{}" if isinstance(found, dict) else "[]"
    lines = f",\n{inner}".join(parts)
    return f"{opening}\n{inner}{lines}\n{indent}{closing}"


def _masked(found: Any, url: str) -> Any:
    """Without what differs each time: where the store is, points in time, and how long something takes."""
    return json.loads(_TIMES.sub("N", json.dumps(found).replace(url, "STORE")))
