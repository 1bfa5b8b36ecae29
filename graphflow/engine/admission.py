"""Who runs next, of the modules of nodes: those that are ready, and those that come back after a message.

Items of maps start by `maps/refill.py`; both ask the line whether they may.
"""

from __future__ import annotations

from collections import deque

from graphflow.clock import now
from graphflow.engine.attempt import Attempt
from graphflow.engine.bodies import Bodies
from graphflow.engine.drive import Drive
from graphflow.engine.line import Line
from graphflow.engine.slots import Slots
from graphflow.ids import ModuleNumber, NodeNumber, enumerate_modules
from graphflow.inputs import RetryDue
from graphflow.run import NodeStatus, Place
from graphflow.settings import BACKOFF_MAX_SECONDS


class Admission:
    """Gives the slots of one run to the attempts of its nodes."""

    def __init__(self, drive: Drive, line: Line, slots: Slots, bodies: Bodies) -> None:
        self._drive = drive
        self._line = line
        self._slots = slots
        self._bodies = bodies
        self._ready: deque[Attempt] = deque()

    @property
    def waiting(self) -> list[Attempt]:
        """The attempts that wait for a slot or for their ticket, the next one first."""
        return [*self._slots.returning, *self._ready]

    def enter_node(self, index: NodeNumber) -> None:
        """Go on with a node that was active when the run was loaded."""
        state = self._drive.run.nodes[index]
        for number, module in enumerate_modules(state.modules):
            if Place(index, state.visits, number) in self._drive.run.waits:
                continue
            if module.status is NodeStatus.WAITING:
                due = RetryDue(index, number)
                self._drive.timers.after(_seconds_until(module.retry_at), self._drive.arrive, due)
            elif module.status in (NodeStatus.READY, NodeStatus.RUNNING):
                module.status = NodeStatus.READY
                self.add(index, number)

    def add(self, index: NodeNumber, module: ModuleNumber) -> None:
        """A module of a node is ready."""
        visit = self._drive.run.nodes[index].visits
        self._ready.append(Attempt(self._bodies.of(index, module), visit))

    def put_back(self, attempt: Attempt) -> None:
        """It runs again, before the others."""
        self._ready.appendleft(attempt)

    def admit(self) -> list[Attempt]:
        """Give free slots to attempts: who comes back goes on, who is ready is to be launched when that it starts is
        stored."""
        for _ in range(len(self._slots.returning)):
            attempt = self._slots.returning.popleft()
            if attempt.task is None or attempt.task.done() or attempt.is_abandoned:
                continue
            if self._slots.has_room(attempt) and self._line.may_start(attempt):
                self._slots.let_come_back(attempt)
            else:
                self._slots.returning.append(attempt)
        admitted: list[Attempt] = []
        for _ in range(len(self._ready)):
            if self._slots.free <= 0:
                break
            attempt = self._ready.popleft()
            if self._is_admissible(attempt):
                self._slots.take(attempt)
                admitted.append(attempt)
            else:
                self._ready.append(attempt)
        return admitted

    def _is_admissible(self, attempt: Attempt) -> bool:
        if not self._line.lets_node_run(attempt.node):
            return False
        return self._slots.has_room(attempt) and self._line.may_start(attempt)

    def drop_node(self, index: NodeNumber) -> None:
        """The node's visit is over: what has not started leaves the line."""
        dropped = [attempt for attempt in self._ready if attempt.node.index == index]
        self._ready = deque(attempt for attempt in self._ready if attempt.node.index != index)
        for attempt in dropped:
            self._line.leave(attempt)


def _seconds_until(retry_at: float) -> float:
    """Never longer than any wait between two attempts: whoever stored the time may have had another clock."""
    return min((retry_at - now()) / 1000, BACKOFF_MAX_SECONDS)
