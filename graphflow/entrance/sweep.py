"""Resumes many runs, several at a time, none of which stops the others: what a process does that was started anew."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from graphflow.errors import CorruptState, GraphflowError, LeaseHeld, RunInterrupted, RunNotFound, StoreError
from graphflow.ids import RunId

T = TypeVar("T")

#: Runs that are driven at the same time.
RUNS_AT_A_TIME = 10


class Sweep(Generic[T]):
    """Calls `resume` for each run. It answers what the run came to, or None if the run is none of ours; LeaseHeld and
    RunNotFound say that others have seen to it. `refused` is told of runs that cannot be resumed, with the error."""

    def __init__(
        self,
        run_ids: Iterable[RunId],
        resume: Callable[[RunId], Awaitable[T | None]],
        refused: Callable[[RunId, GraphflowError], None],
        limit: int | None,
    ) -> None:
        self._waiting = deque(run_ids)
        self._resume = resume
        self._refused = refused
        self._left = len(self._waiting) if limit is None else limit
        self._results: list[T] = []
        self._ended: Exception | None = None

    async def run(self) -> list[T]:
        """What the runs came to, in the order of their ends.

        When the store fails, driving is drained, or `resume` or `refused` raises what it should not, no further run is
        taken and the first such error is raised at the end.
        """
        async with asyncio.TaskGroup() as group:
            for _ in range(min(RUNS_AT_A_TIME, self._left, len(self._waiting))):
                group.create_task(self._work())
        if self._ended is not None:
            raise self._ended
        return self._results

    async def _work(self) -> None:
        while self._waiting and self._left and self._ended is None:
            run_id = self._waiting.popleft()
            self._left -= 1
            try:
                result = await self._take(run_id)
            except Exception as error:
                # A group whose task fails at once, as an eager one may, leaves its owner cancelled before Python 3.13.
                self._ended = self._ended or error
                return
            if result is None:
                self._left += 1
            else:
                self._results.append(result)

    async def _take(self, run_id: RunId) -> T | None:
        try:
            return await self._resume(run_id)
        except (LeaseHeld, RunNotFound):
            pass
        except CorruptState as error:
            self._refused(run_id, error)
        except (RunInterrupted, StoreError) as error:
            self._ended = self._ended or error
        except GraphflowError as error:
            self._refused(run_id, error)
        return None
