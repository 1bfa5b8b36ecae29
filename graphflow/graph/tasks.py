"""What somebody wants done: the task, and the words for how far it is."""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import uuid4

from pydantic import Field

from graphflow.codec import encode, register_type
from graphflow.graph.noun import Noun


@register_type(name="graphflow.RunStatus")
class RunStatus(StrEnum):
    """How far a run is. The four final ones never change."""

    WAITING = "waiting"
    EXECUTING = "executing"
    SUSPENDED = "suspended"
    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in FINAL_STATUSES


FINAL_STATUSES = (RunStatus.COMPLETE, RunStatus.PARTIAL, RunStatus.FAILED, RunStatus.CANCELLED)


#: A task has the status of its latest run.
TaskStatus = RunStatus


@register_type(name="graphflow.Task")
class Task(Noun):
    """What somebody wants done. `params` is JSON plus registered types."""

    type: str
    objective: str = ""
    params: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)
    id: str = Field(default_factory=lambda: uuid4().hex)
    #: Filled by the latest run of this process.
    status: TaskStatus = TaskStatus.WAITING
    result: Any = None

    def difference(self, other: Task) -> str | None:
        """In one phrase, why `other` asks for something else; None if it asks for the same. Ids do not count."""
        for field in ("type", "objective", "params"):
            if encode(getattr(self, field), field) != encode(getattr(other, field), field):
                return f"{field} differ" if field == "params" else f"{field} differs"
        return None
