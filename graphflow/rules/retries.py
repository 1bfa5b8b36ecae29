"""One attempt has failed: is there another, and when? Rule 8, for module runs and for sub-graphs."""

from __future__ import annotations

from graphflow import events
from graphflow.ids import ModuleNumber
from graphflow.planning.plan import PlanNode
from graphflow.rules.draft import Draft
from graphflow.run import Failure, NodeStatus
from graphflow.settings import BACKOFF_BASE_SECONDS, BACKOFF_FACTOR, BACKOFF_MAX_SECONDS


def waits_for_retry(draft: Draft, node: PlanNode, place: ModuleNumber, failure: Failure, draw: float) -> bool:
    """Whether the module, an attempt of which is counted by now, is tried again; otherwise it has failed for good."""
    state = draft.edit(node.index)
    module = state.modules[place]
    module.failure = failure
    if not failure.retryable or module.attempts >= node.config.attempts:
        module.status = NodeStatus.FAILED
        return False
    delay = backoff_seconds(module.attempts, draw)
    module.status = NodeStatus.WAITING
    module.retry_at = draft.now + delay * 1000
    state.status = state.busiest
    draft.transition.delayed.append((node.index, place, module.retry_at))
    draft.emit_node(
        events.RetryScheduled,
        node.index,
        module=node.modules[place].name,
        attempt=module.attempts + 1,
        error=failure.summary,
        delay=round(delay, 3),
    )
    return True


def backoff_seconds(attempts: int, draw: float) -> float:
    """Full jitter over an exponential back-off after `attempts` failures."""
    ceiling = min(BACKOFF_MAX_SECONDS, BACKOFF_BASE_SECONDS * BACKOFF_FACTOR ** min(attempts - 1, 60))
    return draw * ceiling
