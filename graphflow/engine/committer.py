"""Stores what outcomes come to: folds them into the run one by one, and sends their writes as one commit.

A commit holds whole transitions, as many as are at hand, up to a number of writes and characters. The run in memory is ahead of
the store by the one commit that is under way; if that is refused, it is worthless and whoever drives the run drops it
together with every transaction over it.
"""

from __future__ import annotations

from graphflow.clock import now
from graphflow.engine.attempt import Attempt
from graphflow.engine.drive import Drive
from graphflow.engine.line import Line
from graphflow.engine.run_view import RunView
from graphflow.errors import GraphflowError, StateError, StoreWentBack
from graphflow.events import DecisionFired
from graphflow.failpoints import failpoint
from graphflow.inputs import Input
from graphflow.rules.advance import advance, apply
from graphflow.run import Failure
from graphflow.state.footprint import node_key
from graphflow.store.contract import Batch, CommitReply
from graphflow.transition import Transition

#: Writes, and characters of their texts, after which a commit takes no further outcome.
COMMIT_OPERATIONS = 1_000
COMMIT_SIZE = 1_000_000


class Committer:
    """Folds and commits for one run under one lease."""

    def __init__(self, drive: Drive, view: RunView, line: Line) -> None:
        self._drive = drive
        self._plan = drive.plan
        self._run = drive.run
        self._view = view
        self._line = line
        self._batch: Batch = drive.held.batch(drive.plan)
        self._expected = self._acknowledged = drive.run.revision

    @property
    def is_full(self) -> bool:
        return self._batch.operations >= COMMIT_OPERATIONS or self._batch.size >= COMMIT_SIZE

    def resolved(self, attempt: Attempt) -> dict[str, str | None] | Failure:
        """What the module run buffered, as final texts on the state as it is now; what does not apply fails it."""
        assert attempt.transaction is not None
        try:
            return attempt.transaction.resolve(self._view)
        except StateError as error:
            return Failure(type(error).__name__, str(error), retryable=False)

    def fold(self, incoming: Input, attempt: Attempt | None = None, *, room: int = 0) -> Transition | None:
        """Fold something into the run and the batch: everything that changes by it. None if it would disturb an older
        running ticket: then nothing has changed, and its attempt has a ticket of its own. `room` is that of `advance`."""
        failpoint("outcome.taken")
        transition = advance(self._plan, self._run, incoming, now(), self._drive.random.random(), room=room)
        for event in transition.events:
            if isinstance(event, DecisionFired):
                failpoint("decision.made")
        if not self._line.is_empty and self._disturbs(transition, attempt):
            return None
        self._batch.add(self._run, transition)
        apply(self._run, transition, self._plan)
        return transition

    async def commit(self) -> CommitReply | None:
        """Send what was folded; None if there was nothing. LeaseLost, StoreWentBack or another StoreError."""
        batch, expected = self._batch, self._expected
        if batch.is_empty:
            return None
        held = self._drive.held
        self._batch = held.batch(self._plan)
        self._expected = self._run.revision
        failpoint("commit.before")
        reply = await held.commit(batch, expected=expected, revision=self._expected)
        self._acknowledged = self._expected
        return reply

    async def loss(self) -> GraphflowError | None:
        """What there is to say if the store is behind the last commit that it has acknowledged."""
        try:
            head = await self._drive.store.head(self._run.id)
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
        return self._line.holds_up(attempt, [*transition.state, *results], changes_keys)
