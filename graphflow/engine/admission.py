"""Who runs next: attempts that wait for a slot, for their ticket, or to come back to a slot after a message came.

What has lost a conflict keeps its place in the line, what fails or steps aside gives it up (`tickets.py`). Items of maps
wait in `map_driver.py` and ask here only whether their ticket lets them start.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from graphflow.engine.attempt import Attempt
from graphflow.engine.committer import now
from graphflow.engine.crashes import InFlight, suspects_to_run
from graphflow.engine.map_driver import MapDriver
from graphflow.engine.plan import PlanNode
from graphflow.engine.tickets import TicketLine
from graphflow.run import NodeStatus, Place, RetryDue, Started
from graphflow.settings import BACKOFF_MAX_SECONDS

if TYPE_CHECKING:
    from graphflow.engine.scheduler import Scheduler


class Admission:
    """Gives the slots of one run to its attempts."""

    def __init__(self, scheduler: Scheduler, maps: MapDriver, tickets: TicketLine) -> None:
        self._scheduler = scheduler
        self._plan = scheduler.plan
        self._run = scheduler.run
        self._slots = scheduler.slots
        self._maps = maps
        self._tickets = tickets
        self._ready: deque[Attempt] = deque()
        #: What alone may run, after the process has died with it twice.
        self.suspects: InFlight | None = None

    def add(self, attempt: Attempt) -> None:
        self._ready.append(attempt)

    def enter_node(self, index: int) -> None:
        state = self._run.nodes[index]
        for place, module in enumerate(state.modules):
            if Place(index, state.visits, place) in self._run.waits:
                continue
            if module.status is NodeStatus.WAITING:
                self._scheduler.timers.after(
                    _seconds_until(module.retry_at), self._scheduler.arrive, RetryDue(index, place)
                )
            elif module.status in (NodeStatus.READY, NodeStatus.RUNNING):
                module.status = NodeStatus.READY
                self._ready.append(Attempt(self._plan.nodes[index], place, state.visits))

    @property
    def room(self) -> int:
        """Attempts that will be admitted in this turn if they become ready now; where others may come between, none."""
        if self.suspects is not None or not self._tickets.is_empty:
            return 0
        if self._maps.has_open or self._scheduler.is_held:
            return 0
        return max(0, self._slots.free - len(self._ready))

    def admit(self) -> list[Attempt]:
        """Give free slots to ready attempts; that they start rides with this commit."""
        admitted: list[Attempt] = []
        for _ in range(len(self._ready)):
            if self._slots.free <= 0:
                break
            attempt = self._ready.popleft()
            if attempt.is_aside:
                self._let_come_back(attempt, admitted)
                continue
            if not self._is_admissible(attempt, admitted):
                self._ready.append(attempt)
                continue
            self._slots.free -= 1
            admitted.append(attempt)
            if self._run.nodes[attempt.node.index].modules[attempt.module].status is NodeStatus.READY:
                self._scheduler.committer.fold(Started(attempt.node.index, attempt.module))
        return admitted

    def _is_admissible(self, attempt: Attempt, admitted: list[Attempt]) -> bool:
        if self.suspects is not None and attempt.node.index not in self.suspects.nodes:
            return False
        return not self._is_crowded(attempt.node, admitted) and self.may_start(attempt)

    # Waiting for messages

    def step_aside(self, attempt: Attempt) -> None:
        """It waits for a message: its slot and its place in the line are free for others."""
        if attempt.is_aside:
            return
        attempt.is_aside = True
        self._slots.stop_clock(attempt)
        self._slots.give_back(attempt)
        self._maps.step_aside(attempt)
        if attempt.ticket is not None and attempt.transaction is not None:
            self._tickets.leave(attempt.ticket, attempt.transaction.footprint().writes)
            attempt.ticket = None
            self._scheduler.unpark()
        self._scheduler.wake()

    async def come_back(self, attempt: Attempt) -> None:
        """It goes on when it has a slot again, and a place in the line if its kind needs one."""
        if not attempt.is_aside:
            return
        if attempt.comeback is None:
            attempt.comeback = asyncio.Event()
            self._ready.append(attempt)
            self._scheduler.wake()
        await attempt.comeback.wait()

    def come_back_at_once(self, attempt: Attempt) -> None:
        """It was interrupted while it waited: it goes on now, for a moment beyond the limit."""
        if attempt.is_aside:
            attempt.is_aside = False
            self._slots.take_back(attempt)
            self._maps.come_back(attempt)
            self._slots.start_clock(attempt)

    def _let_come_back(self, attempt: Attempt, admitted: list[Attempt]) -> None:
        assert attempt.comeback is not None
        if attempt.task is None or attempt.task.done() or attempt.is_abandoned:
            return
        if (
            self._is_crowded(attempt.node, admitted)
            or not self._maps.has_room(attempt)
            or not self.may_start(attempt)
        ):
            self._ready.append(attempt)
        else:
            self.come_back_at_once(attempt)
            attempt.comeback.set()
            attempt.comeback = None

    def _is_crowded(self, node: PlanNode, admitted: list[Attempt]) -> bool:
        """Whether as many modules of the node are under way as its max_concurrency allows."""
        limit = node.config.max_concurrency
        if limit is None or node.map is not None:
            return False
        return self._slots.running(node.index) + sum(attempt.node is node for attempt in admitted) >= limit

    def may_start(self, attempt: Attempt) -> bool:
        """Whether its ticket, if it needs one, lets it start."""
        if self._tickets.is_empty:
            return True
        if attempt.ticket is None:
            if not self._tickets.needs_ticket(attempt.kind):
                return True
            attempt.ticket = self._tickets.take(attempt, attempt.kind, attempt.node.config.outputs)
        if not self._tickets.may_start(attempt.ticket):
            return False
        self._tickets.started(attempt.ticket)
        return True

    @property
    def waiting(self) -> list[Attempt]:
        """The attempts of nodes that wait for a slot or for their ticket, the next one first."""
        return list(self._ready)

    def described_wait(self, attempt: Attempt) -> str:
        """Who waits for whom, for people: `item 3 of node 'count' for item 2 of node 'count'`."""
        older = None if attempt.ticket is None else self._tickets.waits_for(attempt.ticket)
        if older is None:
            return f"{attempt.description} for its turn"
        described = older.owner.description if isinstance(older.owner, Attempt) else older.kind
        return f"{attempt.description} for {described}"

    def repeat(self, attempt: Attempt) -> None:
        """It lost a conflict: again against fresh state, no attempt used, in its place in the line."""
        assert attempt.transaction is not None
        footprint = attempt.transaction.footprint()
        attempt.transaction.close()
        if attempt.feed is not None:
            attempt.feed.close()
        attempt.ticket = self._tickets.conflict(attempt.ticket, attempt, attempt.kind, footprint)
        if attempt.is_item:
            self._maps.put_back(attempt.again())
        else:
            self._ready.appendleft(attempt.again())
        self._scheduler.unpark()

    def leave(self, attempt: Attempt) -> None:
        """The attempt is over for good; whoever waited for its ticket may go on."""
        written: Iterable[str] = ()
        if attempt.transaction is not None:
            written = attempt.transaction.footprint().writes if attempt.ticket is not None else ()
            attempt.transaction.close()
        if attempt.feed is not None:
            attempt.feed.close()
        # Its task refers to it, by its context: freed now, it is nothing that the garbage collector has to find.
        attempt.task = None
        if attempt.ticket is None:
            return
        self._tickets.leave(attempt.ticket, written)
        self._scheduler.unpark()
        self._maps.refill_soon()

    def drop_node(self, index: int) -> None:
        """The node's visit is over: what has not started leaves the line."""
        dropped = [attempt for attempt in self._ready if attempt.node.index == index]
        self._ready = deque(attempt for attempt in self._ready if attempt.node.index != index)
        for attempt in dropped:
            self.leave(attempt)

    # Suspects

    def enter_suspects(self) -> None:
        self.suspects = suspects_to_run(self._plan, self._run)

    def look_at_suspects(self) -> bool:
        """Whether what was stored lets others run than before."""
        if self.suspects is None:
            return False
        before, self.suspects = self.suspects, suspects_to_run(self._plan, self._run)
        return self.suspects != before

    def clear_suspects(self) -> bool:
        """Let everything run; False if it may already."""
        cleared, self.suspects = self.suspects is not None, None
        return cleared


def _seconds_until(retry_at: float) -> float:
    """Never longer than any wait between two attempts: whoever stored the time may have had another clock."""
    return min((retry_at - now()) / 1000, BACKOFF_MAX_SECONDS)
