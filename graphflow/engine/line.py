"""Who may start? Attempts that lost a conflict wait in a line, and after deaths nothing runs but the suspects.

The line is that of `tickets.py`; here it meets attempts. Whoever waits asks, and asks nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from graphflow.engine.attempt import Attempt
from graphflow.ids import ItemNumber
from graphflow.planning.plan import Plan, PlanNode
from graphflow.rules.crashes import InFlight, suspects_to_run
from graphflow.run import Run
from graphflow.state.footprint import Footprint
from graphflow.state.tickets import TicketLine


class Line:
    """The attempts of one run in their order after conflicts. `on_left` is called when a ticket has left or stopped:
    what waited for it may go on."""

    def __init__(self, plan: Plan, run: Run, on_left: Callable[[], None]) -> None:
        self._plan = plan
        self._run = run
        self._on_left = on_left
        self._tickets = TicketLine()
        #: What alone may run, after the process has died with it twice.
        self._suspects: InFlight | None = None

    @property
    def is_empty(self) -> bool:
        """No module run has lost a conflict so far: nothing need be asked."""
        return self._tickets.is_empty

    # Tickets

    def may_start(self, attempt: Attempt) -> bool:
        """Whether its ticket, if it needs one, lets it start; then it counts as started."""
        if self._tickets.is_empty:
            return True
        if attempt.ticket is None:
            if not self._tickets.needs_ticket(attempt.kind):
                return True
            outputs = [attempt.node.prefix + key for key in attempt.node.config.outputs]
            attempt.ticket = self._tickets.take(attempt, attempt.kind, outputs)
        if not self._tickets.may_start(attempt.ticket):
            return False
        self._tickets.started(attempt.ticket)
        return True

    def lost(self, attempt: Attempt) -> Attempt:
        """It lost a conflict: the attempt that is made in its place, against fresh state, in its place in the line."""
        attempt.ticket = self._tickets.conflict(attempt.ticket, attempt, attempt.kind, _footprint(attempt))
        attempt.close()
        self._on_left()
        return attempt.again()

    def holds_up(self, attempt: Attempt | None, keys: Collection[str], keyset_changes: bool) -> bool:
        """Whether a commit in the attempt's name that changes `keys` would disturb an older running ticket. Then the
        attempt has a ticket, and its commit is to be parked."""
        if self._tickets.is_empty:
            return False
        ticket = attempt.ticket if attempt is not None else None
        if not self._tickets.holds(keys, keyset_changes, than=ticket):
            return False
        if attempt is not None and attempt.transaction is not None:
            attempt.ticket = self._tickets.park(ticket, attempt, attempt.kind, _footprint(attempt))
        return True

    def step_aside(self, attempt: Attempt) -> None:
        """It waits for a message, and gives up its place."""
        if attempt.ticket is not None:
            self._tickets.leave(attempt.ticket, _footprint(attempt).writes)
            attempt.ticket = None
            self._on_left()

    def leave(self, attempt: Attempt) -> None:
        """The attempt is over for good; whoever waited for its ticket may go on."""
        written = _footprint(attempt).writes if attempt.ticket is not None else ()
        attempt.close()
        if attempt.ticket is not None:
            self._tickets.leave(attempt.ticket, written)
            self._on_left()

    def described_wait(self, attempt: Attempt) -> str:
        """Who waits for whom, for people: `item 3 of node 'count' for item 2 of node 'count'`."""
        older = None if attempt.ticket is None else self._tickets.waits_for(attempt.ticket)
        if older is None:
            return f"{attempt.description} for its turn"
        described = older.owner.description if isinstance(older.owner, Attempt) else older.kind
        return f"{attempt.description} for {described}"

    # Suspects

    def enter_suspects(self) -> None:
        self._suspects = suspects_to_run(self._plan, self._run)

    def look_at_suspects(self) -> bool:
        """Whether what was stored lets others run than before."""
        if self._suspects is None:
            return False
        before, self._suspects = self._suspects, suspects_to_run(self._plan, self._run)
        return self._suspects != before

    def clear_suspects(self) -> bool:
        """Let everything run; False if it may already."""
        cleared, self._suspects = self._suspects is not None, None
        return cleared

    @property
    def has_suspects(self) -> bool:
        return self._suspects is not None

    def lets_node_run(self, node: PlanNode) -> bool:
        """Whether the node is a suspect, or there is none."""
        return self._suspects is None or node.index in self._suspects.nodes

    def items_to_run(self, node: PlanNode) -> Collection[ItemNumber] | None:
        """Indexes of those items of a map that alone may run; None if all may."""
        return None if self._suspects is None else self._suspects.items.get(node.index, ())


def _footprint(attempt: Attempt) -> Footprint:
    return Footprint() if attempt.transaction is None else attempt.transaction.footprint()
