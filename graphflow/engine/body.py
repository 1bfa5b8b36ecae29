"""The body of a module run: how a module is called that sees the state, and what the attempt comes to by that."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any

from graphflow.engine.arguments import arguments_of
from graphflow.engine.attempt import Attempt, CameTo
from graphflow.engine.failures import failure_from, members_of, message_of, shortened
from graphflow.engine.returned import Reading, Returned, timed_out
from graphflow.errors import AnswerRefused
from graphflow.executors.executor import Executor
from graphflow.executors.inline import watch_for_stop
from graphflow.graph.modules import FunctionModule
from graphflow.ids import ModuleNumber
from graphflow.inputs import SignalAwaited
from graphflow.planning.plan import PlanNode
from graphflow.state.calls import Calls
from graphflow.state.effects import Suspended
from graphflow.state.isolation import Overtaken
from graphflow.state.transaction import Transaction
from graphflow.state.view import Messages, StateView, Steps


class ModuleBody:
    """A module that sees the state, by a transaction of its own."""

    def __init__(
        self,
        node: PlanNode,
        module: ModuleNumber,
        view: StateView,
        steps: Steps,
        messages: Messages,
        executor: Executor,
        semaphore: asyncio.Semaphore,
    ) -> None:
        self.node = node
        self.module = module
        self._module = node.modules[module]
        self.seconds: float | None = self._module.timeout
        self._view = view
        self._steps = steps
        self._messages = messages
        self._executor = executor
        self._semaphore = semaphore
        self._reading = reading_of(node, module)

    def open(self, attempt: Attempt) -> None:
        attempt.transaction = Transaction(self._view, attempt, self._steps, self._messages)
        if attempt.index is not None:
            attempt.transaction.set_item(attempt.batch or attempt.index, attempt.text)

    def start(self, attempt: Attempt) -> Awaitable[Any]:
        transaction = attempt.transaction
        assert transaction is not None
        if not self._module.is_async:
            watch_for_stop(attempt.is_unwanted)
        return self._run(attempt, transaction)

    async def _run(self, attempt: Attempt, transaction: Transaction) -> Any:
        try:
            if self._module.bindings is None:
                return await self._module.module.process(transaction, self._semaphore)
            return await self._read_and_call(attempt, transaction)
        except BaseException:
            attempt.raised_in_time = not attempt.is_overdue
            raise
        finally:
            if (calls := transaction.steps_under_way) is not None:
                await _steps_over(attempt, calls)

    async def _read_and_call(self, attempt: Attempt, transaction: Transaction) -> Any:
        module = self._module.module
        assert isinstance(module, FunctionModule)
        arguments = await arguments_of(self._module.bindings or (), transaction, self._semaphore)
        if self._module.is_async:
            return await module.function(**arguments)
        value = await self._executor.in_thread(module.function, arguments, attempt.work_begins())
        # It may have called an async function, as a wrapper does.
        return await value if inspect.isawaitable(value) else value

    def came_to(self, attempt: Attempt, value: Any) -> CameTo:
        if (awaited := _awaited(attempt)) is not None:
            # The wait for a signal has come to nothing in the body's hands.
            return awaited
        if attempt.is_overdue:
            # It took the cancellation for itself; what it returns comes too late all the same.
            return timed_out(attempt.timeout)
        if attempt.batch:
            return self._reading.batch(value, len(attempt.batch))
        return self._reading.one(value)

    def raised(self, attempt: Attempt, error: BaseException) -> CameTo:
        # The wait for a signal may have come out in a group of exceptions.
        if (awaited := _awaited(attempt)) is not None:
            return awaited
        if isinstance(error, Overtaken | Suspended):
            return None
        if _has_refused(attempt, error):
            return _awaited(attempt)
        return raised(attempt, error)


def reading_of(node: PlanNode, module: ModuleNumber) -> Reading:
    """How what a module returns is read."""
    found = node.modules[module]
    return Reading(node.name, found.bindings is not None, tuple(found.module.to))


def raised(attempt: Attempt, error: BaseException) -> Returned:
    """What an attempt came to, since its body has raised."""
    if _is_too_late(attempt):
        # Whatever it has made of its cancellation, as a client's error.
        return timed_out(attempt.timeout, error)
    return Returned(failure=failure_from(error))


async def _steps_over(attempt: Attempt, calls: Calls) -> None:
    """Wait for the steps that a body has left under way, but for one that was cancelled: its steps are cut off."""
    try:
        if not attempt.is_cancelled:
            await calls.over()
    except asyncio.CancelledError:
        # What the body has come to stands.
        pass
    finally:
        calls.cut_off()


def _is_too_late(attempt: Attempt) -> bool:
    return attempt.is_overdue and not attempt.raised_in_time


def _has_refused(attempt: Attempt, error: BaseException) -> bool:
    """Whether the body has not accepted the answer that it was given last."""
    refusal = _refusal(error)
    if refusal is None or _is_too_late(attempt):
        return False
    assert attempt.transaction is not None
    return attempt.transaction.refuse(message_of(refusal))


def _refusal(error: BaseException) -> AnswerRefused | None:
    """Why the body does not accept its answer, if that is all that it has raised."""
    found: AnswerRefused | None = None
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseExceptionGroup):
            waiting += reversed(members_of(each))
        elif isinstance(each, AnswerRefused):
            found = found or each
        else:
            return None
    return found


def _awaited(attempt: Attempt) -> SignalAwaited | None:
    assert attempt.transaction is not None
    awaits = attempt.transaction.awaits
    if awaits is None:
        return None
    refused = None if awaits.refused is None else shortened(awaits.refused)
    return SignalAwaited(
        attempt.place, awaits.signal, awaits.field, awaits.question, awaits.schema, awaits.timeout, refused
    )
