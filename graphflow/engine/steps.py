"""Keeps what steps came to: stored at once, whatever becomes of the module run, and found again by its repetition."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from graphflow.engine.attempt import Attempt
from graphflow.engine.drive import Drive
from graphflow.engine.interrupts import is_of_signal
from graphflow.errors import GraphflowError
from graphflow.executors.executor import Executor
from graphflow.executors.inline import watch_for_stop
from graphflow.executors.threads import told_by
from graphflow.graph.functions import is_async
from graphflow.run import Place
from graphflow.state.view import Owner

#: Seconds that results under way to the store get at the end.
CLOSE_SECONDS = 5.0


class Steps:
    """What is remembered of one run's module runs."""

    def __init__(self, drive: Drive, executor: Executor) -> None:
        self._drive = drive
        self._executor = executor
        #: Under way to the store. Who looks for one of these waits for it, so that nothing is called twice.
        self._storing: dict[tuple[Place, str], asyncio.Task[str]] = {}
        #: Could not be stored: whoever waits for these waits for the end of the driving.
        self._in_vain: set[asyncio.Task[Any]] = set()

    async def call(self, owner: Owner, function: Callable[..., Any], *args: Any) -> Any:
        """Call a step's function, in a thread if it is sync; there `is_cancelled` tells of its owner."""
        assert isinstance(owner, Attempt)
        if not is_async(function):
            function = partial(_watched, owner.is_unwanted, function)
        try:
            result = await self._executor.execute(function, *args, ended=owner.work_begins())
            return await result if inspect.isawaitable(result) else result
        except (SystemExit, KeyboardInterrupt) as error:
            if is_of_signal(error) or owner.task in (None, asyncio.current_task()):
                raise
            # In another task than the attempt's, as gather() makes them, it would end the event loop.
            raise told_by(error) from error

    async def remembered(self, place: Place, field: str) -> str | None:
        storing = self._storing.get((place, field))
        if storing is not None:
            return await asyncio.shield(storing)
        return self._drive.run.steps.get(place, {}).get(field)

    async def remember(self, place: Place, field: str, text: str) -> str:
        """Store it; goes on if the caller is cancelled meanwhile. What stands there: the first that was stored."""
        storing = asyncio.create_task(self._keep(place, field, text))
        if not storing.done() and storing not in self._in_vain:
            self._storing[place, field] = storing
        return await asyncio.shield(storing)

    async def _keep(self, place: Place, field: str, text: str) -> str:
        try:
            node = self._drive.plan.nodes[place.node].name
            stored = await self._drive.held.step(node, place, field, text)
        except GraphflowError as error:
            # That is not the module's failure: it sees nothing of it, and ends with the driving.
            self._drive.break_off(error)
            self._storing.pop((place, field), None)
            if (task := asyncio.current_task()) is not None:
                self._in_vain.add(task)
            await asyncio.get_running_loop().create_future()
            raise
        self._drive.run.steps.setdefault(place, {})[field] = stored
        self._storing.pop((place, field), None)
        return stored

    async def close(self) -> None:
        """Wait for what is under way, though not for ever."""
        left = set(self._in_vain)
        if self._storing:
            left |= (await asyncio.wait(self._storing.values(), timeout=CLOSE_SECONDS))[1]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _watched(asked: Callable[[], bool], function: Callable[..., Any], *args: Any) -> Any:
    """Call it, in a context of its own."""
    watch_for_stop(asked)
    return function(*args)
