"""A graph of nodes with its cache and limits: build it, run tasks with it, resume and look at its runs."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, Unpack, overload

from graphflow.caches.redis_cache import RedisCache
from graphflow.caches.transaction import initial_texts
from graphflow.codec import decode
from graphflow.engine.compile import compile_plan
from graphflow.engine.plan import Plan
from graphflow.engine.recovery import finish_run
from graphflow.engine.session import Session, Sessions
from graphflow.errors import PlanMismatch, RunExists, TaskMismatch
from graphflow.events import Event, RunFinished
from graphflow.graph.flow import names_of
from graphflow.graph.functions import function_name
from graphflow.graph.modules import END, FunctionModule, ModuleConfig, ModuleType
from graphflow.graph.nodes import Node, NodeConfig, NodeOptions
from graphflow.graph.tasks import RunStatus, Task
from graphflow.ids import RunId, check_run_id, new_run_id
from graphflow.requests import cancel_request
from graphflow.result import NodeResult, RunResult, run_result
from graphflow.run import NodeState, Run
from graphflow.settings import DEFAULT_LEASE_SECONDS, DEFAULT_MAX_CONCURRENT_TASKS, DEFAULT_TIMEOUT_SECONDS
from graphflow.store.contract import RunHead

logger = logging.getLogger(__name__)

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Result = TypeVar("_Result")

#: Seconds that module runs under way get to end when the agent is drained.
DEFAULT_DRAIN_SECONDS = 10.0
#: Seconds after which `stream` looks for events that another process committed.
STREAM_POLL_SECONDS = 0.2


class Agent:
    """A graph of nodes over one store. One agent runs many tasks at once: nothing about a run lives on it.

    `max_concurrent_tasks` module runs at a time and `max_total_iterations` node runs (default 100 + 10 per node) limit
    each run, `deadline` its seconds from start to end. `lease_seconds` is how long a run stays with a process that
    does not answer before another may take it over.
    """

    def __init__(
        self,
        *,
        cache: RedisCache | None = None,
        name: str | None = None,
        max_concurrent_tasks: int = DEFAULT_MAX_CONCURRENT_TASKS,
        max_total_iterations: int | None = None,
        deadline: float | None = None,
        lease_seconds: float = DEFAULT_LEASE_SECONDS,
    ) -> None:
        self.cache = cache if cache is not None else RedisCache()
        self.max_concurrent_tasks = max_concurrent_tasks
        self.max_total_iterations = max_total_iterations
        self.deadline = deadline
        self.lease_seconds = lease_seconds
        self._own_name = name
        self._file = sys._getframe(1).f_globals.get("__file__")
        self._nodes: list[Node] = []
        self._sessions = Sessions(lambda: self.cache.store())
        #: Results by node of the latest run of this process.
        self.node_results: Mapping[str, NodeResult] = {}

    @property
    def name(self) -> str:
        """What runs of this agent are filed under: the name given, else the stem of the file that made the agent."""
        return self._own_name or (Path(self._file).stem if self._file else "agent")

    # Building the graph

    @property
    def nodes(self) -> dict[str, Node]:
        return {node.name: node for node in self._nodes}

    def add_node(self, node: Node) -> Node:
        """Add a node. Its dependencies may come later; the graph is checked as a whole when it is run."""
        self._nodes.append(node)
        return node

    def add_multiple_nodes(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self.add_node(node)

    @overload
    def node(self, function: _Function, /) -> _Function: ...
    @overload
    def node(
        self,
        /,
        *,
        name: str | None = None,
        type: ModuleType = ModuleType.EXECUTOR,
        dependencies: Sequence[str] = (),
        start: bool | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[NodeOptions],
    ) -> Callable[[_Function], _Function]: ...
    def node(
        self,
        function: _Function | None = None,
        /,
        *,
        name: str | None = None,
        type: ModuleType = ModuleType.EXECUTOR,
        dependencies: Sequence[str] = (),
        start: bool | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[NodeOptions],
    ) -> _Function | Callable[[_Function], _Function]:
        """Make a function a node; its parameters name what it depends on. The function is returned unchanged.

        `options` are the fields of `NodeConfig`, `timeout` is in seconds per attempt.
        """

        def decorate(function: _Function) -> _Function:
            module = FunctionModule(
                name=name or function_name(function),
                type=type,
                function=function,
                config=ModuleConfig(timeout=timeout),
            )
            self._add_function(module, dependencies, start, NodeConfig(**options))
            return function

        return decorate if function is None else decorate(function)

    def decide(
        self,
        *,
        to: str | Sequence[str],
        after: str | Sequence[str] = (),
        name: str | None = None,
        start: bool | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        **options: Unpack[NodeOptions],
    ) -> Callable[[_Function], _Function]:
        """Make a function flow control: it returns a name out of `to`, a list of names, END, or None to fall through.

        END need not be listed; with an empty `to` the function ends the run or falls through.
        """

        def decorate(function: _Function) -> _Function:
            module = FunctionModule(
                name=name or function_name(function),
                type=ModuleType.FLOW_CONTROL,
                function=function,
                to=names_of(to if isinstance(to, str) else list(to)) or [END],
                config=ModuleConfig(timeout=timeout),
            )
            self._add_function(
                module,
                names_of(after if isinstance(after, str) else list(after)),
                start,
                NodeConfig(**options),
            )
            return function

        return decorate

    def _add_function(
        self, module: FunctionModule, dependencies: Sequence[str], start: bool | None, config: NodeConfig
    ) -> None:
        self.add_node(
            Node(
                name=module.name,
                type=module.type,
                modules=[module],
                dependencies=list(dependencies),
                node_config=config,
                start=start,
            )
        )

    def compile(self, state_keys: Sequence[str] = ()) -> Plan:
        """The graph as a plan. InvalidGraph lists everything that is wrong with it."""
        plan = compile_plan(
            self._nodes,
            name=self.name,
            state_keys=state_keys,
            max_concurrent_tasks=self.max_concurrent_tasks,
            max_total_iterations=self.max_total_iterations,
            deadline=self.deadline,
        )
        for warning in plan.warnings:
            logger.warning("agent %s: %s", self.name, warning)
        return plan

    # Running

    async def run_task(
        self, task: Task, *, state: Mapping[str, Any] | None = None, run_id: str | None = None
    ) -> RunResult:
        """Run the task and return what it came to.

        `state` holds initial values by state key. With a `run_id` of your own the call is idempotent: the result of a
        finished run comes back, an interrupted run is resumed, one that another process drives is waited for.
        InvalidGraph, TaskMismatch, PlanMismatch, UnstorableValue and StoreError are raised before anything runs.
        """
        return await self._run_task(task, state, run_id, _Watch())

    def run_task_sync(
        self, task: Task, *, state: Mapping[str, Any] | None = None, run_id: str | None = None
    ) -> RunResult:
        """`run_task` for code without an event loop; in one that runs (a notebook) it blocks it until the end."""

        def run() -> RunResult:
            return asyncio.run(self.run_task(task, state=state, run_id=run_id))

        return _in_thread(run) if _is_in_loop() else run()

    async def resume(self, run_id: str) -> RunResult:
        """Go on with a run that was interrupted; a finished one's result comes back. RunNotFound, PlanMismatch."""
        async with self._sessions.open() as session:
            head = await session.store.head(check_run_id(run_id))
            plan = self.compile(list(await session.store.state(head.id)))
            return await self._finish(session, plan, head, head.task, _Watch())

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
                with suppress(TimeoutError):
                    await asyncio.wait_for(watch.committed.wait(), STREAM_POLL_SECONDS)

    async def cancel(self, run_id: str, reason: str = "cancelled") -> RunStatus:
        """End a run from any process; returns its final status, once it has one.

        Modules under way see CancelledError within a third of the lease, sync ones `graphflow.is_cancelled()`; what
        they had buffered is dropped. A run that is over stays as it is. RunNotFound, PlanMismatch.
        """
        async with self._sessions.open() as session:
            head = await session.store.head(check_run_id(run_id))
            if not await session.store.post(head.id, cancel_request(reason)):
                return (await session.store.head(head.id)).status
            plan = self.compile(list(await session.store.state(head.id)))
            if head.plan_hash != plan.hash:
                raise PlanMismatch(head.id, head.plan_hash, plan.hash)
            return (await finish_run(session, plan, head.id, lease_seconds=self.lease_seconds)).status

    def drain(self, grace_seconds: float = DEFAULT_DRAIN_SECONDS) -> None:
        """Stop driving runs: nothing more starts, what runs gets `grace_seconds` to end and be committed, and each run
        is given back; `run_task` then raises RunInterrupted. For signal handlers and other threads."""
        self._sessions.drain(grace_seconds)

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
        initial = initial_texts(state or {})
        plan = self.compile(list(initial))
        async with self._sessions.open() as session:
            head = await self._enter(session, plan, task, initial, run_id)
            return await self._finish(session, plan, head, task, watch)

    async def _enter(
        self, session: Session, plan: Plan, task: Task, initial: dict[str, str], run_id: str | None
    ) -> RunHead:
        """The run of this task: a new one, or that of the given id if it is for the same task and graph."""
        own_id = None if run_id is None else check_run_id(run_id)
        while True:
            wanted = own_id or new_run_id(
                self._own_name or task.type, int(time.time() * 1000), random.Random()
            )
            run = Run(wanted, task, [NodeState() for _ in plan.nodes], state=dict(initial))
            try:
                await session.store.create(run, plan, agent=self.name, code=self._code())
            except RunExists:
                if own_id is None:
                    continue
            else:
                logger.info(
                    "run %s started; run_task(..., run_id=%r) resumes it if it is interrupted", wanted, wanted
                )
            head = await session.store.head(wanted)
            if difference := head.task.difference(task):
                raise TaskMismatch(wanted, difference)
            return head

    async def _finish(
        self, session: Session, plan: Plan, head: RunHead, task: Task, watch: _Watch
    ) -> RunResult:
        if head.plan_hash != plan.hash:
            raise PlanMismatch(head.id, head.plan_hash, plan.hash)
        watch.run_id = head.id
        watch.committed.set()
        if head.status.is_final:
            run = await session.store.load(head.id, plan)
        else:
            run = await finish_run(
                session,
                plan,
                head.id,
                lease_seconds=self.lease_seconds,
                on_commit=watch.committed.set,
            )
        outcome = await self._result(session, plan, run)
        task.status, task.result = outcome.status, outcome.result
        self.node_results = outcome.node_results
        return outcome

    async def _result(self, session: Session, plan: Plan, run: Run) -> RunResult:
        failed_items = {
            plan.nodes[index].name: await session.store.failed_items(run.id, plan.nodes[index].name)
            for index, state in run.maps.items()
            if state.failed
        }

        def read_map(name: str) -> list[Any]:
            return _in_thread(lambda: asyncio.run(self._map_results(run.id, name)))

        return run_result(plan, run, failed_items, read_map)

    async def _map_results(self, run_id: RunId, name: str) -> list[Any]:
        async with self._sessions.open() as session:
            return [decode(text, name) async for _, text in session.store.results(run_id, name)]

    def _code(self) -> str:
        """Where this agent is, as `package.module:variable` or `FILE:variable`; empty if it is not at the top of a file."""
        for module in list(sys.modules.values()):
            if getattr(module, "__file__", None) != self._file or self._file is None:
                continue
            for name, value in list(vars(module).items()):
                if value is self:
                    # Only a module inside a package can be imported from anywhere.
                    return (
                        f"{module.__name__ if '.' in module.__name__ else Path(self._file).absolute()}:{name}"
                    )
        return ""


class _Watch:
    """Tells `stream` which run it is and when something was committed."""

    def __init__(self) -> None:
        self.run_id: RunId | None = None
        self.committed = asyncio.Event()


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(function: Callable[[], _Result]) -> _Result:
    """Call it in a thread of its own, with this context, and wait for it: it may run an event loop there."""
    context = contextvars.copy_context()
    outcome: list[_Result] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(context.run(function))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="graphflow-sync")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
