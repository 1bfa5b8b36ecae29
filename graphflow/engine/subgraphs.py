"""Sub-graphs under way: those to be entered are, those whose deadline has come are stopped. None of them has a slot.

Failure at each point: between the commit that has a sub-graph ready and that which enters it nothing has happened inside,
and who loads the run enters it; a deadline counts from the time that is stored with the entering.
"""

from __future__ import annotations

from graphflow.clock import now
from graphflow.engine.drive import Drive
from graphflow.ids import FIRST_MODULE, NodeNumber
from graphflow.inputs import Entered, GraphStopped, RetryDue
from graphflow.planning.plan import PlanNode, PlanScope, bits
from graphflow.run import NodeState, NodeStatus
from graphflow.settings import BACKOFF_MAX_SECONDS
from graphflow.transition import Transition


class Subgraphs:
    """Those of one run."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._plan = drive.plan
        #: The timers of deadlines, by sub-graph, each with the visit and the attempts that it is of.
        self._deadlines: dict[NodeNumber, tuple[tuple[int, int], int]] = {}

    @property
    def timers(self) -> int:
        """Timers that do nothing but end what goes on."""
        return sum(timer in self._drive.timers for _, timer in self._deadlines.values())

    def go_on(self, index: NodeNumber) -> bool:
        """Go on with a node that was active when the run was loaded; False if it is no sub-graph."""
        if not self._plan.subgraphs >> index & 1:
            return False
        state = self._drive.run.nodes[index]
        if state.status is NodeStatus.READY:
            self._drive.arrive(Entered(index))
        elif state.status is NodeStatus.WAITING:
            # Never longer than any wait between two attempts: whoever stored the time may have had another clock.
            seconds = min((state.modules[0].retry_at - now()) / 1000, BACKOFF_MAX_SECONDS)
            self._drive.timers.after(seconds, self._drive.arrive, RetryDue(index, FIRST_MODULE))
        else:
            self._watch(index, state)
        return True

    def react(self, transition: Transition) -> None:
        for index in bits(self._plan.subgraphs):
            if index in transition.nodes:
                self._watch(index, transition.nodes[index])

    def stop(self, node: PlanNode, reason: str) -> GraphStopped | None:
        """What stops the graph that the node stands in; None if that is the run's."""
        outer = self._plan.scopes[node.scope].node
        if outer is None:
            return None
        state = self._drive.run.nodes[outer]
        return GraphStopped(outer, state.visits, state.attempts, reason)

    def _watch(self, index: NodeNumber, state: NodeState) -> None:
        """See to it that there is a timer if and only if the graph is under way and has a deadline."""
        scope = self._plan.scopes[self._plan.nodes[index].inner or 0]
        if scope.deadline is None:
            return
        place = state.visits, state.attempts
        known = self._deadlines.get(index)
        if known is not None and (known[0] != place or not state.has_entered):
            self._drive.timers.cancel(known[1])
            del self._deadlines[index]
        if state.has_entered and index not in self._deadlines:
            self._deadlines[index] = place, self._start(index, scope, state)

    def _start(self, index: NodeNumber, scope: PlanScope, state: NodeState) -> int:
        assert state.graph is not None
        assert scope.deadline is not None
        reason = f"sub-graph {self._plan.nodes[index].name!r} reached deadline={scope.deadline:g} s"
        stop = GraphStopped(index, state.visits, state.attempts, reason)
        left = scope.deadline - max(0.0, now() - state.graph.entered) / 1000
        return self._drive.timers.after(left, self._drive.arrive, stop)
