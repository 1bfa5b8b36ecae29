"""Stores what outcomes come to: folds them into the mirror one by one, and sends their writes as one commit.

A commit holds whole transitions, as many as are at hand, up to a number of writes and bytes. The mirror is ahead of the
store by the one commit that is under way; if that is refused, the mirror is worthless and whoever drives the run drops
it together with every transaction over it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from graphflow.caches.footprint import node_key
from graphflow.engine.advance import advance, apply
from graphflow.engine.attempt import Attempt
from graphflow.engine.mirror import Mirror
from graphflow.engine.plan import Plan
from graphflow.engine.tickets import TicketLine
from graphflow.errors import GraphflowError, StateError, StoreWentBack
from graphflow.failpoints import failpoint
from graphflow.run import Failure, Input, Outcome, Run, Transition
from graphflow.store.contract import Batch, CommitReply, Lease, Store

#: Writes and bytes after which a commit takes no further outcome.
COMMIT_OPERATIONS = 1_000
COMMIT_BYTES = 1_000_000


class Committer:
    """Folds and commits for one run under one lease. `on_transition` is told what each outcome has caused."""

    def __init__(
        self,
        plan: Plan,
        run: Run,
        store: Store,
        lease: Lease,
        mirror: Mirror,
        tickets: TicketLine,
        on_transition: Callable[[Transition], None],
    ) -> None:
        self._plan = plan
        self._run = run
        self._store = store
        self._lease = lease
        self._mirror = mirror
        self._tickets = tickets
        self._on_transition = on_transition
        self._random = random.Random()
        self._batch: Batch = store.batch(plan, run.id)
        self._expected = self._acknowledged = run.revision

    @property
    def is_full(self) -> bool:
        return self._batch.operations >= COMMIT_OPERATIONS or self._batch.size >= COMMIT_BYTES

    def resolved(self, attempt: Attempt) -> dict[str, str | None] | Failure:
        """What the module run buffered, as final texts on the state as it is now; what does not apply fails it."""
        assert attempt.transaction is not None
        try:
            return attempt.transaction.resolve(self._mirror)
        except StateError as error:
            return Failure(type(error).__name__, str(error), retryable=False)

    def resolved_outcome(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """The outcome with the module run's writes. The outcome itself stays as it is: parked, it is resolved again on
        another state."""
        if outcome.failure is not None:
            return outcome
        assert attempt.transaction is not None
        writes = self.resolved(attempt)
        if isinstance(writes, Failure):
            return Outcome(outcome.node, outcome.module, outcome.visit, failure=writes)
        if attempt.is_function:
            writes[attempt.node.name] = outcome.result
        return Outcome(
            outcome.node,
            outcome.module,
            outcome.visit,
            outcome.result,
            decision=outcome.decision,
            writes=writes,
            sent=attempt.transaction.sent,
            taken=attempt.transaction.taken,
        )

    def fold(self, outcome: Input, attempt: Attempt | None = None, *, room: int = 0) -> bool:
        """Fold one outcome into the mirror and the batch. False if it would disturb an older running ticket: then
        nothing has changed, and its attempt has a ticket of its own. `room` is that of `advance`."""
        failpoint("outcome.taken")
        transition = advance(self._plan, self._run, outcome, now(), self._random.random(), room=room)
        if not self._tickets.is_empty and self._disturbs(transition, attempt):
            return False
        self._batch.add(self._run, transition)
        apply(self._run, transition, self._plan)
        self._on_transition(transition)
        return True

    async def commit(self) -> CommitReply | None:
        """Send what was folded; None if there was nothing. LeaseLost, StoreWentBack or another StoreError."""
        batch, expected = self._batch, self._expected
        if batch.is_empty:
            return None
        self._batch = self._store.batch(self._plan, self._run.id)
        self._expected = self._run.revision
        failpoint("commit.before")
        reply = await self._store.commit(self._lease, batch, expected=expected, revision=self._expected)
        self._acknowledged = self._expected
        return reply

    async def loss(self) -> GraphflowError | None:
        """What there is to say if the store is behind the last commit that it has acknowledged."""
        try:
            head = await self._store.head(self._run.id)
        except GraphflowError as error:
            return error
        if head.revision >= self._acknowledged:
            return None
        return StoreWentBack(self._run.id, self._acknowledged, head.revision)

    def _disturbs(self, transition: Transition, attempt: Attempt | None) -> bool:
        results = [
            node_key(self._plan.nodes[index].name)
            for index, state in transition.nodes.items()
            if state.changed != self._run.nodes[index].changed
        ]
        changes_keys = any(
            (text is None) != (key not in self._run.state) for key, text in transition.state.items()
        )
        ticket = attempt.ticket if attempt is not None else None
        if not self._tickets.holds([*transition.state, *results], changes_keys, than=ticket):
            return False
        if attempt is not None and attempt.transaction is not None:
            attempt.ticket = self._tickets.park(
                ticket, attempt, attempt.kind, attempt.transaction.footprint()
            )
        return True


def now() -> float:
    """Milliseconds since 1970."""
    return time.time_ns() // 1000 / 1000
