"""`graphflow list` and `graphflow show`: what runs a store holds, and what is to be seen of one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import typer

from graphflow.cli.drive import owner_text
from graphflow.cli.faces import FAILURES_SHOWN, Face, value_text
from graphflow.cli.loading import prefix_of
from graphflow.cli.redis_lines import lines_for_run
from graphflow.cli.run import start_logging
from graphflow.cli.stored import Looker, StoredNode, looking_at, store_with_run
from graphflow.graph.tasks import RunStatus
from graphflow.ids import RunId
from graphflow.result import RunFailure
from graphflow.rules.explain import explain
from graphflow.server.address import Address
from graphflow.server.owner import is_gone
from graphflow.store.contract import MapProgress, RunHead, SignalWait
from graphflow.store.opening import address_of, is_there

#: Waits for signals that `show` tells in full.
WAITS_SHOWN = 5


def list_runs(count: int, *, url: str | None) -> None:
    start_logging(verbose=False)
    face, address = Face(), address_of(url)
    heads = asyncio.run(_recent(address, count)) if is_there(address) else []
    if not heads:
        face.say(f"no runs in {address.masked}; `graphflow demo` makes a first one")
        return
    rows = [
        [
            head.id,
            head.status.value,
            head.progress,
            _time_text(head.started or head.created),
            _owner_now(head),
        ]
        for head in heads
    ]
    face.table(["RUN", "STATUS", "PROGRESS", "STARTED", "OWNER"], rows)


def list_waiting(count: int, *, url: str | None) -> None:
    """What runs wait for from outside, the run created last first."""
    start_logging(verbose=False)
    face, address = Face(), address_of(url)
    found = asyncio.run(_waiting(address, count)) if is_there(address) else []
    if not found:
        face.say(f"no run in {address.masked} waits for a signal")
        return
    rows = [
        [run_id, wait.place, wait.signal, wait.question, _until(wait), wait.refused] for run_id, wait in found
    ]
    face.table(["RUN", "NODE", "SIGNAL", "QUESTION", "UNTIL", "REFUSED"], rows)


def show_run(reference: str, *, url: str | None) -> None:
    """RunNotFound if there is none."""
    start_logging(verbose=False)
    asyncio.run(_show_run(reference, store_with_run(reference, url), Face()))


def show_redis(reference: str, *, url: str | None) -> None:
    """The redis-cli commands that look at the run. RunNotFound."""
    start_logging(verbose=False)
    asyncio.run(_show_redis(reference, store_with_run(reference, url), Face()))


def explain_node(reference: str, node: str, agent: str | None, *, url: str | None) -> None:
    """Say why the node is where it is. `agent` says what the run's keys begin with. RunNotFound."""
    start_logging(verbose=False)
    asyncio.run(_explain(reference, node, store_with_run(reference, url), prefix_of(agent), Face()))


async def _recent(address: Address, count: int) -> list[RunHead]:
    async with looking_at(address) as looker:
        return await looker.store.recent(count)


async def _waiting(address: Address, count: int) -> list[tuple[RunId, SignalWait]]:
    """The waits of up to `count` runs."""
    found: list[tuple[RunId, SignalWait]] = []
    async with looking_at(address) as looker:
        for run_id in reversed(await looker.store.open_runs()):
            if waits := await looker.store.waits(run_id):
                found += [(run_id, wait) for wait in waits]
                count -= 1
            if not count:
                break
    return found


async def _show_run(reference: str, address: Address, face: Face) -> None:
    async with looking_at(address) as looker:
        head = await looker.head(reference)
        nodes = await looker.nodes(head.id)
        failures = await _failures(looker, head, nodes)
        maps = await looker.store.map_progress(head.id)
        waits = await looker.store.waits(head.id)
    _show_head(head, face)
    _show_waits(waits, face)
    face.say()
    face.nodes([node.row for node in nodes])
    if begun := {name: progress for name, progress in maps.items() if progress != MapProgress()}:
        face.say()
        face.maps(begun)
    hidden = sum(node.failed_items + (node.failure is not None) for node in nodes) - len(failures)
    if failures:
        face.say()
        face.failures(failures, more=f"and {hidden} more failures" if hidden > 0 else "")


async def _failures(looker: Looker, head: RunHead, nodes: Sequence[StoredNode]) -> list[RunFailure]:
    """As many as are shown."""
    found: list[RunFailure] = []
    for node in nodes:
        if node.failed_items and len(found) < FAILURES_SHOWN:
            found += await looker.failed_items(head.id, node.row.name, FAILURES_SHOWN - len(found))
        if node.failure is not None:
            found.append(node.failure)
    return found[:FAILURES_SHOWN]


def _show_head(head: RunHead, face: Face) -> None:
    face.field("run", head.id)
    face.status("status", head.status.value, f", {head.progress}" if head.progress else "")
    face.field("agent", head.agent + (f" ({head.code})" if head.code else ""))
    face.field("task", f"{head.task.type} {value_text(head.task.params)}")
    face.field("started", _time_text(head.started or head.created) + _took(head))
    if head.error:
        face.field("error", head.error)
    for decision in head.held:
        face.field("held", decision)
    if head.status.is_final:
        return
    if owner := _owner_now(head):
        face.field("owner", owner)
    elif head.status is RunStatus.SUSPENDED:
        face.say(f"it goes on with: graphflow signal {head.id} NAME JSON")
    else:
        face.say(f"nobody drives it; go on with: graphflow resume {head.id}")


def _show_waits(waits: Sequence[SignalWait], face: Face) -> None:
    """Those of which there is more to say than their names."""
    told = [(wait, told) for wait in waits if (told := _told(wait))]
    for wait, lines in told[:WAITS_SHOWN]:
        face.say()
        face.field("waits", f"{wait.place} for signal {wait.signal}")
        for name, text in lines.items():
            face.field(name, text)
    if len(told) > WAITS_SHOWN:
        face.say(f"and {len(told) - WAITS_SHOWN} more wait; all: graphflow list --waiting")


def _told(wait: SignalWait) -> dict[str, str]:
    found = {
        "question": wait.question,
        "schema": wait.schema,
        "until": _until(wait),
        "refused": wait.refused,
    }
    return {name: text for name, text in found.items() if text}


def _until(wait: SignalWait) -> str:
    return "" if wait.deadline is None else _time_text(wait.deadline * 1000)


async def _show_redis(reference: str, address: Address, face: Face) -> None:
    async with looking_at(address) as looker:
        head = await looker.head(reference)
        maps = [node.row.name for node in await looker.nodes(head.id) if node.is_map]
        state = sorted(await looker.store.state(head.id))
        lines = list(
            lines_for_run(address, looker.keys, head.id, maps=maps, state_key=state[0] if state else "KEY")
        )
    for line in lines:
        face.say(line)


async def _explain(reference: str, node: str, address: Address, prefix: str | None, face: Face) -> None:
    async with looking_at(address, prefix) as looker:
        head = await looker.head(reference)
        plan = await looker.store.plan(head.id)
        if node not in plan.by_name:
            raise typer.BadParameter(f"the graph has no node {node!r}; it has {', '.join(plan.by_name)}")
        run = await looker.store.load(head.id, plan)
    face.say(explain(plan, run, node))


def _owner_now(head: RunHead) -> str:
    """Who drives it, as `host:pid`; empty if it is over or its owner is known to be gone."""
    if head.status.is_final or not head.owner or is_gone(head.owner):
        return ""
    return owner_text(head.owner)


def _time_text(ms: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


def _took(head: RunHead) -> str:
    return f", took {(head.finished - head.started) / 1000:.1f} s" if head.finished and head.started else ""
