"""The runs that are kept: what each begins with, what of it fails or never ends, and how its process ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from graphflow import Agent, Task
from tests.replay import kept_graphs as graphs
from tests.replay.kept_graphs import Outside

Drive = Callable[[Agent, Task, dict[str, Any], str, Outside], Awaitable[object]]


async def run_it(agent: Agent, task: Task, state: dict[str, Any], run_id: str, outside: Outside) -> None:
    await agent.run_task(task, state=state, run_id=run_id)


async def fork_it(agent: Agent, task: Task, state: dict[str, Any], run_id: str, outside: Outside) -> None:
    """A run with failed items comes to its end; the fork, in which they do not fail, gets stuck."""
    stuck, outside.stuck = outside.stuck, frozenset()
    await agent.run_task(task, state=state, run_id=f"{run_id}-parent")
    outside.stuck, outside.broken = stuck, frozenset()
    await agent.fork(f"{run_id}-parent", run_id=run_id)


async def leave_it(agent: Agent, run_id: str) -> None:
    """Nothing more happens to the run."""


async def cancel_it(agent: Agent, run_id: str) -> None:
    await agent.cancel(run_id, "nobody needs it")


async def send_to_it(agent: Agent, run_id: str) -> None:
    """One signal is taken that nobody waits for yet; another one and a message wait in the inbox."""
    await agent.signal(run_id, "place", "Rome")
    await agent.resume(run_id)
    await agent.signal(run_id, "vote a", {"for": True})
    await agent.send_message(run_id, "notes", {"note": "three"})


@dataclass(frozen=True)
class Kept:
    """A run to keep. Once nothing happens any more its process is killed, drained, or has ended by itself."""

    build: Callable[[str, Outside], Agent]
    params: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    #: Calls that never return.
    stuck: frozenset[str] = frozenset()
    #: Calls that fail.
    broken: frozenset[str] = frozenset()
    drive: Drive = run_it
    ends: Literal["killed", "drained", "by itself"] = "by itself"
    failpoints: str = ""
    lease_seconds: float = 0.5
    #: What others do to the run once its process has ended.
    then: Callable[[Agent, str], Awaitable[None]] = leave_it
    #: Module runs are repeated as often as chance will have it.
    has_conflicts: bool = False
    #: What is tried with the run beyond what is tried with each.
    actions: tuple[str, ...] = ()
    #: What is not tried, because it would wait for the end of somebody else's lease.
    left_out: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        return Task(type="kept", objective="stay as it is", params=self.params, id="kept")


def calls(*names: str) -> frozenset[str]:
    return frozenset(names)


TEXT = {"text": 'Zuñiga "0" \u2028\n\x7f'}
EIGHT = {"count": 8}
NUMBERS = {"numbers": list(range(8))}
CHANGES = ("resume with another graph", "accept another graph")

KEPT: dict[str, Kept] = {
    # over
    "complete": Kept(graphs.chain, TEXT, {"count": 0}),
    "failed": Kept(graphs.chain, TEXT, {"count": 0}, broken=calls("second")),
    "partial": Kept(graphs.sums, EIGHT, broken=calls("double 2", "double 5")),
    "failed_map": Kept(graphs.sums_that_fail, EIGHT, broken=calls("double 2", "double 5")),
    "cancelled": Kept(graphs.sums, EIGHT, stuck=calls("double 4"), ends="killed", then=cancel_it),
    "unexpired": Kept(graphs.chain, TEXT, {"count": 0}, failpoints="expire.before=kill"),
    # on their way
    "waiting": Kept(graphs.chain, TEXT, {"count": 0}, failpoints="create.after_reply=kill"),
    "held": Kept(
        graphs.chain,
        TEXT,
        {"count": 0},
        stuck=calls("third"),
        ends="killed",
        lease_seconds=3600,
        left_out=("resume", "cancel"),
    ),
    "drained": Kept(graphs.chain, TEXT, {"count": 0}, stuck=calls("third"), ends="drained", actions=CHANGES),
    "deadline": Kept(graphs.in_time, stuck=calls("slow"), ends="killed"),
    "retries": Kept(graphs.members, broken=calls("b"), ends="killed"),
    "members": Kept(graphs.members, stuck=calls("e", "f"), ends="killed"),
    "branches": Kept(graphs.branches, stuck=calls("repair"), ends="killed"),
    # in a map
    "map": Kept(
        graphs.sums, EIGHT, stuck=calls("double 3", "double 5", "double 6"), ends="killed", actions=CHANGES
    ),
    "generator": Kept(
        graphs.generator, {"count": 12}, stuck=calls("square 1", "square 5", "square 6"), ends="killed"
    ),
    "batches": Kept(graphs.batches, {}, NUMBERS, stuck=calls("double 2", "double 4"), ends="killed"),
    "generator_in_batches": Kept(
        graphs.generator_in_batches, {"count": 11}, stuck=calls("shout word 0", "shout word 6"), ends="killed"
    ),
    "pipeline": Kept(
        graphs.pipeline, {}, NUMBERS, stuck=calls("double 2", "double 5", "describe 1"), ends="killed"
    ),
    "conflicts": Kept(
        graphs.counter,
        {},
        {"numbers": list(range(6))},
        stuck=calls("count 3", "count 4", "count 5"),
        ends="killed",
        has_conflicts=True,
    ),
    "crowd": Kept(
        graphs.crowd,
        {},
        {"numbers": list(range(60))},
        ends="killed",
        has_conflicts=True,
    ),
    "rounds": Kept(
        graphs.rounds, {}, {"rounds": 0, "scores": []}, stuck=calls("play 11", "play 12"), ends="killed"
    ),
    "forked": Kept(
        graphs.sums,
        EIGHT,
        broken=calls("double 2", "double 5"),
        stuck=calls("double 5"),
        drive=fork_it,
        ends="killed",
    ),
    # that wait for signals
    "suspended": Kept(graphs.letter, {}, {"voters": ["a", "b"]}, then=send_to_it, actions=("signals",)),
}
