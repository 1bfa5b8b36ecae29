"""A graph of nodes with its cache and limits: build it, run tasks with it, resume and look at its runs."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from functools import partial
from typing import Any, Never
from uuid import uuid4

from graphflow.bounds import AGENT_BOUNDS, CALL_BOUNDS, checked, checked_choice, checked_stall_seconds
from graphflow.builder import GraphBuilder
from graphflow.clock import now
from graphflow.codec import decode, decode_all
from graphflow.engine.drive import is_inside
from graphflow.entrance.driving import check_plan, setting_aside
from graphflow.entrance.entering import Entrance, Terms
from graphflow.entrance.fork import enter_fork
from graphflow.entrance.session import Session, Sessions
from graphflow.entrance.signalling import SignalSent, send_signal
from graphflow.entrance.sweep import Sweep
from graphflow.errors import AgentMismatch, GraphflowError, RunInterrupted, RunOver
from graphflow.events import Event, RunFinished
from graphflow.graph.flow import names_of
from graphflow.graph.noun import refuse_unknown
from graphflow.graph.tasks import RunStatus, Task
from graphflow.ids import RunId, check_run_id
from graphflow.interruptions import draining, handled, stop_driven
from graphflow.map_results import results_as_completed, results_in_order
from graphflow.origin import Identity, Owner, name_of, refuse_while_loading
from graphflow.own_loop import in_own_loop, is_in_loop
from graphflow.planning.compile import compile_graph
from graphflow.planning.plan import Plan
from graphflow.requests import cancel_request, message_request
from graphflow.result import NodeResult, RunResult, RunSummary, run_result, run_summary
from graphflow.run import Run
from graphflow.settings import (
    DEFAULT_DRAIN_SECONDS,
    DEFAULT_LEASE_SECONDS,
    KEEP_COMPLETE_SECONDS,
    KEEP_OTHER_SECONDS,
)
from graphflow.state.names import checked_name, initial_texts
from graphflow.store.cache import RedisCache
from graphflow.store.contract import MapProgress, Retention, RunHead, Snapshot, Store, UnreadableHead
from graphflow.values import value_text

logger = logging.getLogger(__name__)

#: Seconds after which `stream` looks for events that another process committed.
STREAM_POLL_SECONDS = 0.2


class Agent(GraphBuilder):
    """A graph of nodes over one store. One agent runs many tasks at once: nothing about a run lives on it.

    `max_concurrent_tasks` module runs at a time (default 100, or as many as a node's `max_concurrency` asks for) and
    `max_total_iterations` node runs (default 100 + 10 per node; counted anew when something is taken from outside) limit
    each run, `deadline` its seconds from start to end. With `auto_snapshot` every node that does not say otherwise keeps a
    snapshot of the run when it has succeeded or failed; the last 10 of a run are kept. `lease_seconds` is how long a run
    stays with a process that does not answer before another may take it over (0.05 to 3,600); `stall_seconds`, by default
    30 or as long as a lease, how long a run may stand still before its driving is broken off. A complete run is kept in
    the store for `keep_complete_seconds` (7 days) after its end, any other for `keep_other_seconds` (30 days); 0 keeps
    it for ever.
    """

    def __init__(
        self,
        *,
        cache: RedisCache | None = None,
        name: str | None = None,
        max_concurrent_tasks: int | None = None,
        max_total_iterations: int | None = None,
        deadline: float | None = None,
        auto_snapshot: bool = False,
        error_mailbox: str | None = None,
        lease_seconds: float = DEFAULT_LEASE_SECONDS,
        stall_seconds: float | None = None,
        keep_complete_seconds: float = KEEP_COMPLETE_SECONDS,
        keep_other_seconds: float = KEEP_OTHER_SECONDS,
        **unknown: Never,
    ) -> None:
        refuse_unknown("Agent", unknown, Agent.__init__.__kwdefaults__ or ())
        super().__init__()
        self.cache = cache if cache is not None else RedisCache()
        self.max_concurrent_tasks: int | None = checked(
            AGENT_BOUNDS, "max_concurrent_tasks", max_concurrent_tasks
        )
        self.max_total_iterations: int | None = checked(
            AGENT_BOUNDS, "max_total_iterations", max_total_iterations
        )
        self.deadline: float | None = checked(AGENT_BOUNDS, "deadline", deadline)
        self.auto_snapshot = auto_snapshot
        #: Mailbox of each run that gets what failed for good: node, item, error, attempts.
        self.error_mailbox = error_mailbox
        self.lease_seconds: float = checked(AGENT_BOUNDS, "lease_seconds", lease_seconds)
        self.stall_seconds = checked_stall_seconds(stall_seconds, self.lease_seconds)
        self.retention = Retention(
            checked(AGENT_BOUNDS, "keep_complete_seconds", keep_complete_seconds),
            checked(AGENT_BOUNDS, "keep_other_seconds", keep_other_seconds),
        )
        self._own_name = name
        self._file = sys._getframe(1).f_globals.get("__file__")
        self._sessions = Sessions(lambda: self.cache.store())
        #: Results by node of the latest run of this process.
        self.node_results: Mapping[str, NodeResult] = {}

    @property
    def name(self) -> str:
        """What runs of this agent are filed under: the name given, else the stem of the file that made the agent."""
        return self._own_name or (name_of(self._file) if self._file else "agent")

    # Running

    def compile(self, state_keys: str | Sequence[str] = ()) -> Plan:
        """The graph as a plan. InvalidGraph lists everything that is wrong with it; InvalidSetting."""
        # They may have been set since the agent was made.
        checked(AGENT_BOUNDS, "lease_seconds", self.lease_seconds)
        checked_stall_seconds(self.stall_seconds, self.lease_seconds)
        plan = compile_graph(self, name=self.name, state_keys=names_of(state_keys))
        for warning in plan.warnings:
            logger.warning("agent %s: %s", self.name, warning)
        return plan

    async def run_task(
        self, task: Task, *, state: Mapping[str, Any] | None = None, run_id: str | None = None
    ) -> RunResult:
        """Run the task and return what it came to.

        `state` holds initial values by state key, which are part of what is asked for. With a `run_id` of your own the
        call is idempotent: the result of a finished run comes back, an interrupted run is resumed, one that another
        process drives is waited for. InvalidGraph, AgentMismatch, TaskMismatch, PlanMismatch, UnstorableValue,
        ValueTooLarge and StoreError are raised before anything runs.

        Ctrl-C or SIGTERM lets what runs end and be stored, says how to go on, and raises RunInterrupted; a second one ends
        the process. That is so in the main thread, unless somebody else has set a handler of the signal.
        """
        return await self._run_task(task, state, run_id, _Watch())

    def run_task_sync(
        self, task: Task, *, state: Mapping[str, Any] | None = None, run_id: str | None = None
    ) -> RunResult:
        """`run_task` for code without an event loop; in one that runs (a notebook) it blocks it until the end."""

        def begin() -> Coroutine[Any, Any, RunResult]:
            return self.run_task(task, state=state, run_id=run_id)

        if not is_in_loop():
            return asyncio.run(begin())
        with handled():
            return in_own_loop(begin, waits_on=stop_driven)

    async def resume(self, run_id: str, *, accept_changes: bool = False) -> RunResult:
        """Go on with a run that was interrupted; a finished one's result comes back. RunNotFound.

        PlanMismatch if it was started with another graph, AgentMismatch if it is another agent's. With `accept_changes`
        it goes on with this one: nodes keep what they came to by their names, new ones run if what they depend on did.
        PlanMismatch says what stands against that, as an active node that is gone; LeaseHeld, that a process still
        drives the run with the other graph.
        """
        async with self._sessions.open() as session:
            head = await session.store.head(check_run_id(run_id))
            if not accept_changes:
                _check_owner(self._identity(), head)
            entrance = await self._entrance_of(session, head)
            if accept_changes:
                head = await entrance.accept_changes(head)
            return await self._finish(entrance, head, head.task, _Watch())

    async def recover(
        self, *, limit: int | None = None, refused: Callable[[RunId, GraphflowError], None] | None = None
    ) -> list[RunResult]:
        """Resume every run of this agent that nobody drives, or the `limit` oldest; what they came to. Suspended runs to
        which no signal was sent, and none of whose waits is over its timeout, are left alone.

        A run is of this agent if it was started by one of the same name in the same variable of the same module, however
        that was loaded; of agents that are no variables of a module only names are compared. `refused` is called for
        each that cannot be resumed, as after a change of the graph (PlanMismatch); unless given, that is logged as an
        error.
        """
        limit = checked(CALL_BOUNDS, "limit", limit)
        refused = refused or _log_refusal
        identity, strangers = self._identity(), _Strangers()
        async with self._sessions.open() as session:

            async def resume(run_id: RunId) -> RunResult | None:
                async with setting_aside(session.store, run_id):
                    head = await session.store.head(run_id)
                if head.status.is_final:
                    return None
                if identity.owner_of(head.agent, head.code) is not Owner.OURS:
                    strangers.note(identity, head)
                    return None
                if head.status is RunStatus.SUSPENDED and not await _has_news(session.store, head.id):
                    return None
                entrance = await self._entrance_of(session, head)
                return await self._finish(entrance, head, head.task, _Watch(), waits=False)

            return await Sweep(await session.store.open_runs(), resume, refused, limit).run()

    async def fork(self, source: str, at: int | None = None, *, run_id: str | None = None) -> RunResult:
        """Run a new run that goes on from where the run `source` was: at its snapshot number `at`, else at its end.

        What had failed by then, was cut off by a limit or cancelled runs again; completed nodes and map items are kept.
        With a `run_id` of your own the call is idempotent, as `run_task` is. RunComplete if nothing is to be tried
        again, SnapshotNotFound, RunNotFound, PlanMismatch; LeaseHeld if a process drives `source` and `at` is None.
        """
        at = checked(CALL_BOUNDS, "at", at)
        async with self._sessions.open() as session:
            parent = await session.store.head(check_run_id(source))
            entrance = await self._entrance_of(session, parent)
            await check_plan(session.store, entrance.plan, parent)
            own_id = None if run_id is None else check_run_id(run_id)
            head = await enter_fork(entrance, parent, at, own_id)
            return await self._finish(entrance, head, head.task, _Watch())

    async def runs(
        self,
        *,
        status: RunStatus | str | None = None,
        since: float | datetime | None = None,
        limit: int | None = 100,
    ) -> list[RunSummary]:
        """The runs of this agent, the one created last first, from any process.

        Of a `status`, if one is given; created at `since` (seconds since 1970, or a datetime) or later; no more than
        `limit`, None for all. A run that cannot be read is left out, with a warning that names it. InvalidSetting.
        """
        wanted = None if status is None else RunStatus(checked_choice("status", status, [*RunStatus]))
        limit = checked(CALL_BOUNDS, "limit", limit)
        begin = since.timestamp() if isinstance(since, datetime) else checked(CALL_BOUNDS, "since", since)
        found: list[RunSummary] = []
        identity = self._identity()
        async with (
            self._sessions.open() as session,
            aclosing(session.store.heads((begin or 0.0) * 1000)) as heads,
        ):
            async for head in heads:
                if isinstance(head, UnreadableHead):
                    logger.warning("run %s is left out: %s", head.id, head.error)
                elif identity.owner_of(head.agent, head.code) is Owner.OURS and wanted in (None, head.status):
                    found.append(run_summary(head))
                    if len(found) == limit:
                        break
        return found

    async def snapshots(self, run_id: str) -> list[Snapshot]:
        """What can be forked of a run besides its end, the first one first; the last 10 are kept. RunNotFound."""
        async with self._sessions.open() as session:
            return await session.store.snapshots(check_run_id(run_id))

    async def progress(self, run_id: str) -> dict[str, MapProgress]:
        """How far the maps of a run are, finished or not, by the names of their nodes; from any process. RunNotFound."""
        async with self._sessions.open() as session:
            return await session.store.map_progress(check_run_id(run_id))

    async def results(
        self, run_id: str, node: str, *, as_completed: bool = False
    ) -> AsyncIterator[tuple[int, Any]]:
        """(index, result) of the items of a map that have succeeded, from any process.

        In input order those that are stored now; with `as_completed` in the order in which they are stored, following
        the run, until the node's visit that is under way (if none was yet: the first one) has come to its end or the run
        is over. It also waits while nobody drives the run. RunNotFound, MapNotFound.
        """
        read = results_as_completed if as_completed else results_in_order
        async with (
            self._sessions.open() as session,
            aclosing(read(session.store, check_run_id(run_id), node)) as records,
        ):
            async for index, text in records:
                yield index, decode(text, node)

    async def stream(
        self, task: Task, *, state: Mapping[str, Any] | None = None, run_id: str | None = None
    ) -> AsyncIterator[Event]:
        """Run the task and yield its events as they are committed; leaving the loop stops the driving.

        `task.status` and `task.result` hold the outcome afterwards.
        """
        watch = _Watch()
        running = asyncio.create_task(self._run_task(task, state, run_id, watch))
        try:
            async with self._sessions.open() as session:
                async for event in self._events(session, running, watch):
                    yield event
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _events(
        self, session: Session, running: asyncio.Task[RunResult], watch: _Watch
    ) -> AsyncIterator[Event]:
        running.add_done_callback(lambda _: watch.committed.set())
        await watch.committed.wait()
        if watch.run_id is None:
            return
        after = "0"
        while True:
            watch.committed.clear()
            is_last = running.done()
            found = await session.store.events(watch.run_id, after)
            for after, event in found:  # noqa: B007 - the last id is where the next look starts
                yield event
                if isinstance(event, RunFinished):
                    return
            if is_last and not found:
                return
            if not found:
                # Not wait_for, which on Python 3.11 drops a cancellation that arrives as the waiting ends.
                with suppress(TimeoutError):
                    async with asyncio.timeout(STREAM_POLL_SECONDS):
                        await watch.committed.wait()

    async def cancel(self, run_id: str, reason: str = "cancelled") -> RunStatus:
        """End a run from any process; returns its final status, once it has one.

        Modules under way see CancelledError within a third of the lease, sync ones `graphflow.is_cancelled()`; what
        they had buffered is dropped. A run that is over stays as it is. RunNotFound, PlanMismatch, UnstorableValue.
        """
        async with self._sessions.open() as session:
            head = await session.store.head(check_run_id(run_id))
            if not await session.store.post(head.id, cancel_request(reason)):
                return (await session.store.head(head.id)).status
            entrance = await self._entrance_of(session, head)
            return (await entrance.finish(head)).status

    async def signal(self, run_id: str, name: str, value: Any = None) -> SignalSent:
        """Send a signal to a run, from any process: it answers the `wait_for_signal(name)` that has waited longest, or
        the next one. What comes back says what the run waited for, and what was meant if that was another name.

        It is stored; who drives the run takes it within a third of the lease. A suspended run that nobody drives goes on
        with `resume`. InvalidSignal, with what is wrong in each field, if the value does not fit the schema of who waits:
        then the run goes on waiting. RunOver, RunNotFound, UnstorableValue, ValueTooLarge.
        """
        async with self._sessions.open() as session:
            return await send_signal(session.store, check_run_id(run_id), name, value)

    async def send_message(self, run_id: str, mailbox: str, message: Any) -> None:
        """Put a message into a mailbox of a run, from any process. RunOver, RunNotFound, UnstorableValue,
        ValueTooLarge."""
        text = value_text(f"message to {mailbox}", message)
        sender = run_id if is_inside(run_id) else ""
        request = message_request(checked_name("mailbox", mailbox), uuid4().hex, text, sender)
        async with self._sessions.open() as session:
            if not await session.store.post(check_run_id(run_id), request):
                raise RunOver(run_id)

    def drain(self, grace_seconds: float = DEFAULT_DRAIN_SECONDS) -> None:
        """Stop driving runs: nothing more starts, what runs gets `grace_seconds` to end and be committed, and each run
        is given back; `run_task` then raises RunInterrupted. For signal handlers and other threads."""
        self._sessions.drain(checked(CALL_BOUNDS, "grace_seconds", grace_seconds))

    async def delete(self, run_id: str) -> None:
        """Remove a stored run, finished or not. LeaseHeld if a process drives it, RunNotFound."""
        async with self._sessions.open() as session:
            await session.store.delete(check_run_id(run_id))

    async def state(self, run_id: str) -> dict[str, Any]:
        """The state of a stored run, finished or not: a copy, by state key."""
        async with self._sessions.open() as session:
            await session.store.head(check_run_id(run_id))
            return {
                key: decode(text, key) for key, text in (await session.store.state(RunId(run_id))).items()
            }

    async def _run_task(
        self, task: Task, state: Mapping[str, Any] | None, run_id: str | None, watch: _Watch
    ) -> RunResult:
        if not isinstance(task, Task):
            raise TypeError(
                f"run_task takes a Task, as Task(type='numbers', params=...), not {type(task).__name__}"
            )
        refuse_while_loading()
        # Refused here, not by the store, which would have had it sent.
        told = {name: getattr(task, name) for name in ("type", "objective", "params", "metadata", "id")}
        value_text("task", told)
        initial = initial_texts(state or {})
        plan = self.compile(list(initial))
        async with self._sessions.open() as session:
            entrance = self._entrance(session, plan)
            head = await entrance.new(task, initial, None if run_id is None else check_run_id(run_id))
            return await self._finish(entrance, head, task, watch)

    def _identity(self) -> Identity:
        return Identity(self, self.name, self._own_name is not None, self._file, self.cache.address)

    def _entrance(self, session: Session, plan: Plan) -> Entrance:
        identity = self._identity()
        terms = Terms(
            agent=self.name,
            find_code=lambda: identity.code,
            check_owner=partial(_check_owner, identity),
            kept=self.retention,
            lease_seconds=self.lease_seconds,
            stall_seconds=self.stall_seconds,
            id_prefix=self._own_name,
        )
        return Entrance(session, plan, terms)

    async def _entrance_of(self, session: Session, head: RunHead) -> Entrance:
        """To a stored run, with the plan under which it goes on."""
        async with setting_aside(session.store, head.id):
            state = await session.store.state(head.id)
        return self._entrance(session, self.compile(list(state)))

    async def _finish(
        self, entrance: Entrance, head: RunHead, task: Task, watch: _Watch, *, waits: bool = True
    ) -> RunResult:
        # A run of another graph is refused before anybody is told of it.
        await check_plan(entrance.session.store, entrance.plan, head)
        watch.run_id = head.id
        watch.committed.set()
        with draining(head.id, entrance.session.drain) as driven:
            try:
                run = await entrance.finish(head, on_commit=watch.committed.set, waits=waits)
            except RunInterrupted:
                await driven.raise_if_stopped()
                raise
            await driven.raise_if_stopped()
        outcome = await self._result(entrance.session, entrance.plan, run)
        for each in (task, outcome.task):
            each.status, each.result = outcome.status, outcome.result
        self.node_results = outcome.node_results
        return outcome

    async def _result(self, session: Session, plan: Plan, run: Run) -> RunResult:
        failed_items = {
            plan.nodes[index].name: await session.store.failed_items(run.id, plan.nodes[index].name)
            for index, state in run.maps.items()
            if state.failed
        }

        def read_map(name: str) -> list[Any]:
            return in_own_loop(lambda: self._map_results(run.id, name))

        return run_result(plan, run, failed_items, read_map)

    async def _map_results(self, run_id: RunId, name: str) -> list[Any]:
        async with self._sessions.open() as session:
            pages = session.store.result_pages(run_id, name)
            return [value async for page in pages for value in decode_all([text for _, text in page], name)]


class _Watch:
    """Tells `stream` which run it is and when something was committed."""

    def __init__(self) -> None:
        self.run_id: RunId | None = None
        self.committed = asyncio.Event()


class _Strangers:
    """Runs of other agents that have the name of this one."""

    def __init__(self) -> None:
        self._codes: set[str] = set()

    def note(self, identity: Identity, head: RunHead) -> None:
        """Say once where such an agent is, unless this process has it: it may be this one, before it was moved."""
        if head.code in self._codes or identity.is_loaded(head.code):
            return
        self._codes.add(head.code)
        logger.warning(
            "run %s is left alone: it belongs to another agent named %s, at %s; if that is this one, which has moved, "
            "go on with resume(run_id, accept_changes=True); if not, give each a name of its own by Agent(name=...)",
            head.id,
            head.agent,
            head.code,
        )


def _check_owner(identity: Identity, head: RunHead) -> None:
    """AgentMismatch if the run is another agent's."""
    if identity.owner_of(head.agent, head.code) is Owner.ANOTHERS:
        raise AgentMismatch(
            head.id, _described(head.agent, head.code), _described(identity.name, identity.code)
        )


def _described(name: str, code: str) -> str:
    return f"{name} ({code})" if code else name


def _log_refusal(run_id: RunId, error: GraphflowError) -> None:
    logger.error("run %s is not resumed: %s", run_id, error)


async def _has_news(store: Store, run_id: RunId) -> bool:
    """Whether a suspended run has something to go on with."""
    if await store.waiting_requests(run_id):
        return True
    waits = await store.waits(run_id)
    return any(wait.deadline is not None and wait.deadline * 1000 <= now() for wait in waits)
