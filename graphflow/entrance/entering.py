"""How does an agent come by a run, and what is done with it then? A new run for a task, one that is there already, a
fork of another; each is finished in the same way.

`agent.py` opens the door, here is what lies behind it; who drives the run, and how its lease is taken, is in
`driving.py`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphflow.clock import now
from graphflow.entrance.driving import check_plan, finish_run, replan
from graphflow.entrance.session import Session
from graphflow.errors import RunExists, TaskMismatch
from graphflow.graph.tasks import Task
from graphflow.ids import RunId, new_run_id
from graphflow.planning.plan import Plan
from graphflow.run import NodeState, Run
from graphflow.store.contract import Retention, RunContent, RunHead
from graphflow.values import value_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """What an agent wants of its runs."""

    #: What they are filed under.
    agent: str
    #: Says where the agent is; see `origin.py`.
    find_code: Callable[[], str]
    #: AgentMismatch if the run is another agent's.
    check_owner: Callable[[RunHead], None]
    kept: Retention
    lease_seconds: float
    stall_seconds: float
    #: What their ids begin with; None for the type of their task.
    id_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Entrance:
    """The way of one agent to its runs under one plan."""

    session: Session
    plan: Plan
    terms: Terms

    async def new(self, task: Task, initial: Mapping[str, str], own_id: RunId | None) -> RunHead:
        """The run of this task: a new one with these state texts, or that of the given id if it is for the same task
        and began with the same ones.

        AgentMismatch, TaskMismatch.
        """
        while True:
            wanted = own_id or self.new_id(task)
            run = Run(wanted, task, [NodeState() for _ in self.plan.nodes], state=dict(initial))
            try:
                await self.create(RunContent(run))
            except RunExists:
                if own_id is None:
                    continue
                is_known = True
            else:
                is_known = False
                logger.info(
                    "run %s started; run_task(..., run_id=%r) resumes it if it is interrupted", wanted, wanted
                )
            head = await self.session.store.head(wanted)
            if is_known:
                self.terms.check_owner(head)
                if difference := head.task.difference(task) or _state_difference(head, initial):
                    raise TaskMismatch(wanted, difference)
            return head

    def new_id(self, task: Task) -> RunId:
        return new_run_id(self.terms.id_prefix or task.type, int(now()), random.Random())

    async def create(self, content: RunContent) -> None:
        """RunExists."""
        await self.session.store.create(
            content.run,
            self.plan,
            agent=self.terms.agent,
            code=self.terms.find_code(),
            kept=self.terms.kept,
            content=content,
        )

    async def accept_changes(self, head: RunHead) -> RunHead:
        """Make the plan that of the run, if it has another and is not over. LeaseHeld, PlanMismatch with its obstacles."""
        if head.plan_hash == self.plan.hash or head.status.is_final:
            return head
        await replan(self.session, self.plan, head.id, lease_seconds=self.terms.lease_seconds)
        return await self.session.store.head(head.id)

    async def finish(
        self, head: RunHead, *, on_commit: Callable[[], None] = lambda: None, waits: bool = True
    ) -> Run:
        """The run when it is over, or only waits for signals; see `driving.finish_run`. PlanMismatch."""
        await check_plan(self.session.store, self.plan, head)
        if head.status.is_final:
            return await self.session.store.load(head.id, self.plan)
        return await finish_run(
            self.session,
            self.plan,
            head.id,
            lease_seconds=self.terms.lease_seconds,
            stall_seconds=self.terms.stall_seconds,
            on_commit=on_commit,
            waits=waits,
        )


def _state_difference(head: RunHead, initial: Mapping[str, str]) -> str | None:
    """In one phrase, how `initial` differs from what the run was started with; None if it does not, or nobody knows."""
    if head.initial is None:
        return None
    given = {key: value_digest(text) for key, text in initial.items()}
    keys = sorted({key for key, _ in head.initial.items() ^ given.items()})
    return f"state differs in {', '.join(map(repr, keys))}" if keys else None
