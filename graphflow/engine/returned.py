"""How is what a body returned read: as a result, a decision, or a failure?

What goes wrong in a body is data: everything that it raises becomes a `Failure`. What reads a return value is made of
plain data, so that it can go along to wherever the body runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from graphflow.engine.failures import failure_from, overdue, shortened
from graphflow.errors import UnstorableValue, ValueTooLarge
from graphflow.graph.flow import names_of
from graphflow.graph.modules import END
from graphflow.run import Failure
from graphflow.values import value_text


@dataclass(slots=True)
class Returned:
    """What one attempt came to: the text of its result with its decision, or a failure."""

    result: str | None = None
    decision: tuple[str, ...] | None = None
    failure: Failure | None = None
    #: Of a batch: the texts of the items' results.
    results: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What a sync function has given, to be awaited in the event loop: it called an async one."""

    rest: Awaitable[Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """How the values of one module are read: a function fails by raising, a module class can also return a dict with
    `status`, which is asimov's contract."""

    #: The node's.
    name: str
    is_function: bool
    #: The nodes that the module may decide for; empty if it is no decision.
    to: tuple[str, ...] = ()

    def one(self, value: Any) -> Returned:
        """What the module run, or the item, came to."""
        if self.is_function:
            decision = self._decision(value) if self.to else None
        elif isinstance(value, dict) and ("status" in value or "decision" in value):
            if value.get("status", "success") != "success":
                return Returned(failure=_reported_failure(value))
            if "new_nodes" in value:
                message = (
                    "new_nodes is not in this version; let a decision choose among nodes that the graph has"
                )
                return Returned(failure=Failure("NotInThisVersion", message, retryable=False))
            decision = self._decision(value["decision"]) if "decision" in value else None
            value = _result_in(value)
        else:
            decision = None
        if isinstance(decision, Failure):
            return Returned(failure=decision)
        try:
            return Returned(value_text(self.name, value), decision)
        except (UnstorableValue, ValueTooLarge) as error:
            return unstorable(error)

    def batch(self, value: Any, count: int) -> Returned:
        """A batch comes to a list with one result for each of its items."""
        if not self.is_function and isinstance(value, dict) and "status" in value:
            if value["status"] != "success":
                return Returned(failure=_reported_failure(value))
            value = value.get("result")
        if not isinstance(value, list | tuple) or len(value) != count:
            found = f"{len(value)} results" if isinstance(value, list | tuple) else type(value).__name__
            message = f"returned {found} for a batch of {count} items; return a list with one result for each"
            return Returned(failure=Failure("InvalidBatch", message, retryable=False))
        try:
            return Returned(results=[value_text(self.name, member) for member in value])
        except (UnstorableValue, ValueTooLarge) as error:
            return unstorable(error)

    def _decision(self, value: Any) -> tuple[str, ...] | Failure | None:
        """The names decided for, None to fall through, or the failure of a decision that the node may not make."""
        if value is None:
            return None
        if not isinstance(value, str) and not (
            isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
        ):
            message = f"a decision is a node's name, a list of names, END or None, not {type(value).__name__}"
            return Failure("InvalidDecision", message, retryable=False)
        names = names_of(value)
        allowed = {*self.to, END}
        unknown = [name for name in names if name not in allowed]
        if unknown:
            message = (
                f"{self.name!r} decided for {unknown[0]!r}, but to= allows only {', '.join(sorted(allowed))}"
            )
            return Failure("InvalidDecision", message, retryable=False)
        return tuple(dict.fromkeys(names))


def _result_in(value: dict[str, Any]) -> Any:
    """The result in what a module class returned: `result`, else its decision, else whatever else is there."""
    if "result" in value:
        return value["result"]
    if "decision" in value:
        return value["decision"]
    return {key: item for key, item in value.items() if key != "status"} or None


def unstorable(error: UnstorableValue | ValueTooLarge) -> Returned:
    """What the attempt came to, since its body has returned what cannot be stored."""
    return Returned(failure=Failure(type(error).__name__, str(error), retryable=False))


def timed_out(seconds: float, error: BaseException | None = None) -> Returned:
    """What the attempt came to, since its time is up. `error` is what its body raised then."""
    return Returned(failure=overdue(f"no result within timeout={seconds:g} s", error))


def _reported_failure(value: dict[str, Any]) -> Failure:
    if not isinstance(value["status"], str):
        message = (
            f"process() returned status {value['status']!r}; return {{'status': 'success', 'result': ...}}, a failure "
            "with 'error', or a value without the key 'status'"
        )
        return Failure("InvalidStatus", message, retryable=False)
    error = value.get("error", value.get("result"))
    if isinstance(error, BaseException):
        return failure_from(error)
    return Failure(
        "ModuleFailed", shortened(str(error) if error is not None else f"status {value['status']!r}")
    )
