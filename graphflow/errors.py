"""Every error graphflow raises, in one tree. A user's failure is data in the outcome; ours is an exception.

GraphflowError
├── InvalidGraph            the graph cannot be compiled; every problem in one error
│   └── UnknownSetting      a keyword that a node, module, task or agent does not have; also a TypeError
├── RunsOnImport            code that is loaded for its agent runs it at once
├── InvalidName             a run, node, type or prefix has a name that cannot be used
├── InvalidSetting          a number that a setting cannot be
├── ExpressionError         an expression does not parse
├── EvaluationError         an expression cannot be evaluated on this state
│   └── BudgetExceeded      it would take too many steps or too much memory
├── StateError              what a module did with its cache
│   ├── MissingKey          a key that is read is not in the state; also a KeyError
│   ├── UnstorableValue     not JSON and not a registered type
│   ├── UnknownType         a stored value is of a type that this process has not registered
│   │   └── ChangedType     its class is there, and has no longer the fields that it had
│   ├── ValueTooLarge       over max_value_bytes
│   ├── TransactionTooLarge over max_transaction_bytes
│   ├── WrongType           append to what is no list, increment of what is no number
│   ├── NoItems             the source of a map holds something else
│   ├── NoMessage           none came in time; also a TimeoutError
│   ├── NoSignal            nobody answered in time; also a TimeoutError
│   ├── TransactionClosed   the module run that owned this cache has ended
│   └── OutsideRun          state asked for where no run is
├── RunError                about one run
│   ├── RunNotFound
│   ├── RunExists
│   ├── RunComplete         nothing of the run failed that could be tried again
│   ├── SnapshotNotFound
│   ├── MapNotFound         the run's graph has no map node of this name
│   ├── TaskMismatch        this run id belongs to another task, or to one with another initial state
│   ├── AgentMismatch       this run belongs to another agent
│   ├── PlanMismatch        this run was started with another graph
│   ├── RunOver             the run has ended: nothing can be sent to it, nobody drives it
│   ├── InvalidSignal       what was to be sent does not fit the schema; also a NonRetryableException
│   ├── LeaseHeld           another process drives the run
│   ├── LeaseLost           another process took the run over
│   ├── RunStalled          nothing of the run went on, and nothing said why
│   └── RunInterrupted      this process was asked to stop driving
├── StoreError              about the store
│   ├── InvalidAddress      a store URL cannot be read
│   ├── StoreUnreachable
│   │   └── StoreBusy       it is there, and does not serve at present
│   ├── StoreFull
│   ├── WritesRefused       read-only, or its disk or its replicas fail
│   ├── AccessDenied        wrong user or password
│   │   └── MissingRight    the user may not run a command, or not on a key
│   ├── ClusterMember       it has a part of the keys only
│   ├── StoreWentBack       it lost what it had acknowledged
│   ├── CorruptState        a key has the wrong type or unreadable content
│   ├── SchemaTooNew
│   ├── UnsafeStore         its settings break what is promised, and are not accepted
│   └── EmbeddedServerError the embedded store's folder or server cannot be used
├── MissingExtra            an optional dependency is not installed
├── WaitsInVain             a test waits for what nothing will bring about; see graphflow.testing
├── PlaceNotPassed          a test was to crash where nothing has come by; see graphflow.testing
└── NonRetryableException   raised by a module: fail at once, do not try again
    └── AnswerRefused       raised by a module: drop the answer, and wait for another
"""

from __future__ import annotations

from collections.abc import Sequence

#: Waits of a run that stood still that its error names.
MAX_WAITS_SHOWN = 5

#: What reading a stored text raises that graphflow did not write: a number may be infinite or of another type, a text be
#: nested without end.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


class GraphflowError(Exception):
    """The root of all errors that graphflow raises."""


class InvalidGraph(GraphflowError):
    """A graph was refused before anything was stored. `problems` holds one sentence per mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(
            f"the graph has {count}:\n" + "\n".join(f"  - {problem}" for problem in self.problems)
        )


class UnknownSetting(InvalidGraph, TypeError):
    """A node, module, decision, task or agent was given settings that it does not have: a sentence for each in `problems`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems)
        self.args = ("\n".join(self.problems),)


class RunsOnImport(GraphflowError):
    """Code that was loaded for its agent runs an agent as it is loaded. `place` is the file or module."""

    def __init__(self, place: str) -> None:
        self.place = place
        super().__init__(
            f'{place} runs its agent as it is loaded; put that below `if __name__ == "__main__":`, so that other '
            "processes can load the agent"
        )


class InvalidName(GraphflowError, ValueError):
    """A name cannot be used. `what` says what it was for: "run id", "node name", "type", "prefix"."""

    def __init__(self, what: str, name: str, reason: str) -> None:
        self.what = what
        self.name = name
        super().__init__(f"{_shortened(name)!r} cannot be a {what}: {reason}")


class InvalidSetting(GraphflowError, ValueError):
    """A setting cannot be this number, or is no number. `shown` is the value as text, `wanted` says what is accepted."""

    def __init__(self, setting: str, shown: str, wanted: str) -> None:
        self.setting = setting
        self.shown = shown
        self.wanted = wanted
        super().__init__(f"{setting} is {shown}; {wanted}")


class ExpressionError(GraphflowError):
    """An expression does not parse, or uses what the language does not have. `position` counts from 0."""

    def __init__(self, text: str, reason: str, position: int | None = None) -> None:
        self.text = text
        self.reason = reason
        self.position = position
        where = "" if position is None else f" at position {position}"
        super().__init__(f"{reason}{where} in expression {_shortened(text)!r}")


class EvaluationError(GraphflowError):
    """An expression parsed, but its value cannot be computed on this state."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(f"{reason} in expression {_shortened(text)!r}")


class BudgetExceeded(EvaluationError):
    """An expression would take too many steps or build too large a value."""


class StateError(GraphflowError):
    """A module used its cache in a way that cannot be carried out."""


class MissingKey(StateError, KeyError):
    """A key was read without a default and is not in the state. `nearest` are the names most like it."""

    def __init__(self, key: str, nearest: Sequence[str] = ()) -> None:
        self.key = key
        self.nearest = tuple(nearest)
        hint = f"; the nearest keys are {', '.join(map(repr, self.nearest))}" if self.nearest else ""
        super().__init__(
            f"the state has no key {key!r}{hint}; give a default to read a key that may be missing"
        )

    __str__ = Exception.__str__  # KeyError would show the message quoted


class UnstorableValue(StateError):
    """A value is neither JSON nor of a registered type. `path` leads to it inside the value of `key`."""

    def __init__(self, key: str, type_name: str, path: str = "", reason: str | None = None) -> None:
        self.key = key
        self.type_name = type_name
        self.path = path
        place = f"{key!r}" if not path else f"{key!r} at {path}"
        super().__init__(
            f"cannot store {place}: "
            + (
                reason
                or f"a value of type {type_name} is neither JSON nor registered; convert it, or register_type({type_name})"
            )
        )


class UnknownType(StateError):
    """The stored value of `key` is of a registered type that this process has not registered."""

    def __init__(self, key: str, type_name: str) -> None:
        self.key = key
        self.type_name = type_name
        super().__init__(
            f"cannot read {key!r}: no type is registered as {type_name!r} in this process; "
            "import the module that calls register_type for it before reading"
        )


class ChangedType(UnknownType):
    """The stored value of `key` is of a registered type that has changed since, so that it would not come back whole."""

    def __init__(self, key: str, type_name: str, detail: str) -> None:
        self.key = key
        self.type_name = type_name
        StateError.__init__(self, f"cannot read {key!r} as {type_name}: {detail}")


class ValueTooLarge(StateError):
    """A value's stored text is longer than `max_value_bytes`."""

    def __init__(self, key: str, type_name: str, size: int, limit: int) -> None:
        self.key = key
        self.type_name = type_name
        self.size = size
        self.limit = limit
        super().__init__(
            f"cannot store {key!r}: the {type_name} takes {size:,} bytes, more than max_value_bytes={limit:,}; "
            "split it over several keys, or store a reference to it"
        )


class TransactionTooLarge(StateError):
    """All writes of one module run together are over `max_transaction_bytes`."""

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"one module run writes {size:,} bytes, more than max_transaction_bytes={limit:,}; "
            "write less in one run, or split the work with map_over"
        )


class WrongType(StateError):
    """`append`, `increment` or `update` met a stored value that it does not apply to."""

    def __init__(self, key: str, operation: str, found: str, wanted: str) -> None:
        self.key = key
        self.operation = operation
        super().__init__(f"cannot {operation} {key!r}: it holds {found}, {operation} needs {wanted}")


class NoItems(StateError):
    """The source of a map, a node's result or a state key, is no list of items."""

    def __init__(self, source: str, found: str, advice: str) -> None:
        self.source = source
        super().__init__(f"map_over={source!r} holds {found}, not a list of items; {advice}")


class NoMessage(StateError, TimeoutError):
    """No message came within the timeout, in seconds."""

    def __init__(self, mailboxes: Sequence[str], timeout: float) -> None:
        self.mailboxes = tuple(mailboxes)
        super().__init__(f"no message in {' or '.join(map(repr, mailboxes))} within timeout={timeout:g} s")


class NoSignal(StateError, TimeoutError):
    """Nobody answered within the timeout, in seconds from the first wait."""

    def __init__(self, signal: str, timeout: float) -> None:
        self.signal = signal
        super().__init__(f"no signal {signal!r} within timeout={timeout:g} s")


class TransactionClosed(StateError):
    """The module run that this cache belonged to has ended; its cache answers no more."""

    def __init__(self) -> None:
        super().__init__(
            "this cache belongs to a module run that has ended; await every cache call before process() returns"
        )


class OutsideRun(StateError):
    """State was asked for where no run is."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"agent.cache.{operation} has no state outside a run: pass state= to run_task, read outcome[...] after it, "
            "or look at a stored run with `await agent.state(run_id)`"
        )


class RunError(GraphflowError):
    """Something about one run."""

    def __init__(self, run_id: str, message: str) -> None:
        self.run_id = run_id
        super().__init__(message)


class RunNotFound(RunError):
    """No run of this id is in the store that was looked in."""

    def __init__(self, run_id: str, store: str) -> None:
        self.store = store
        super().__init__(
            run_id,
            f"no run {run_id!r} in {store}; `graphflow list` shows what is there, --url looks elsewhere",
        )


class RunExists(RunError):
    """A run of this id exists already."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id, f"run {run_id!r} exists already; resume it, or choose another run_id")


class RunComplete(RunError):
    """A run is complete, so there is nothing to try again."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            run_id,
            f"run {run_id!r} is complete: there is nothing to try again; name a snapshot to go back to "
            "(`await agent.snapshots(run_id)` lists them), or start the task under a new run_id",
        )


class MapNotFound(RunError):
    """The graph of the run has no map node of this name. `maps` are those that it has."""

    def __init__(self, run_id: str, name: str, maps: Sequence[str]) -> None:
        self.name = name
        self.maps = tuple(maps)
        there = f"its maps are {', '.join(self.maps)}" if self.maps else "it has no maps"
        super().__init__(run_id, f"run {run_id} has no map {_shortened(name)!r}; {there}")


class SnapshotNotFound(RunError):
    """The run keeps no snapshot of this number."""

    def __init__(self, run_id: str, number: int, kept: Sequence[int]) -> None:
        self.number = number
        self.kept = tuple(kept)
        what = (
            f"it keeps {', '.join(map(str, self.kept))}"
            if self.kept
            else "it keeps none: Node(snapshot=...) and Agent(auto_snapshot=True) have them taken"
        )
        super().__init__(run_id, f"run {run_id!r} has no snapshot {number}; {what}")


class TaskMismatch(RunError):
    """This run id belongs to another task."""

    def __init__(self, run_id: str, difference: str) -> None:
        super().__init__(
            run_id,
            f"run {run_id!r} was started for another task ({difference}); choose another run_id for this one",
        )


class AgentMismatch(RunError):
    """This run belongs to another agent, whose modules it would not find here."""

    def __init__(self, run_id: str, stored: str, agent: str) -> None:
        super().__init__(
            run_id,
            f"run {run_id!r} belongs to agent {stored}, not to {agent}; choose another run_id for this one, go on with "
            f"the run by that agent, or with this one by resume(run_id, accept_changes=True) or "
            f"`graphflow resume {run_id} --agent FILE:AGENT --accept-changes`",
        )


class PlanMismatch(RunError):
    """This run was started with another graph. `differences` says in what; `obstacles` why it cannot go on with this one
    even if that is accepted, and is empty unless that was asked for."""

    def __init__(
        self,
        run_id: str,
        stored_hash: str,
        plan_hash: str,
        differences: Sequence[str] = (),
        obstacles: Sequence[str] = (),
    ) -> None:
        self.stored_hash = stored_hash
        self.plan_hash = plan_hash
        self.differences = tuple(differences)
        self.obstacles = tuple(obstacles)
        listed = "".join(f"\n  - {phrase}" for phrase in self.obstacles or self.differences)
        if self.obstacles:
            message = (
                f"run {run_id!r} was started with another graph and cannot go on with this one:{listed}\n"
                "restore these to finish it, or start anew under another run_id"
            )
        else:
            message = (
                f"run {run_id!r} was started with another graph (plan {stored_hash}, this one is {plan_hash})"
                f"{':' if listed else ''}{listed}\n"
                "restore the graph to finish it, go on with this one by resume(run_id, accept_changes=True) or "
                f"`graphflow resume {run_id} --accept-changes`, or start anew under another run_id"
            )
        super().__init__(run_id, message)


class RunOver(RunError):
    """A run has ended: what is sent to it would never be read, and there is nothing to drive."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            run_id, f"run {run_id!r} is over, so nothing can be sent to it; send it to a run that goes on"
        )


class LeaseHeld(RunError):
    """Another process drives this run."""

    def __init__(self, run_id: str, owner: str, seconds_left: float) -> None:
        self.owner = owner
        self.seconds_left = seconds_left
        super().__init__(
            run_id, f"run {run_id!r} is driven by {owner}; its lease ends in {seconds_left:.1f} s"
        )


class LeaseLost(RunError):
    """Another process took this run over; what this one had in flight was dropped."""

    def __init__(self, run_id: str, detail: str = "") -> None:
        super().__init__(
            run_id,
            f"this process no longer drives run {run_id!r}{f' ({detail})' if detail else ''}; "
            "whoever took it over goes on from the last commit",
        )


class RunStalled(RunError):
    """The run stood still for `Agent.stall_seconds` although it had nothing to wait for, and was given back; it can be
    resumed. `waits` says who waits for whom."""

    def __init__(self, run_id: str, waits: Sequence[str] = ()) -> None:
        self.waits = tuple(waits)
        found = "; ".join(self.waits[:MAX_WAITS_SHOWN]) or "nothing waits for its turn either"
        more = len(self.waits) - MAX_WAITS_SHOWN
        super().__init__(
            run_id,
            f"run {run_id!r} stood still, with nothing in flight, and was given back. Who waits for whom: {found}"
            f"{f'; and {more} more' if more > 0 else ''}. Start it again under this run_id, or type `graphflow resume "
            f"{run_id}`, to resume it; and please report it, for this is a mistake of graphflow's",
        )


class RunInterrupted(RunError):
    """This process was asked to stop before the run was over, by `Agent.drain` or by a signal, whose number is `signal`; the
    run can be resumed."""

    def __init__(self, run_id: str) -> None:
        self.signal: int | None = None
        super().__init__(
            run_id,
            f"run {run_id!r} was interrupted and given back; start it again under this run_id, or type "
            f"`graphflow resume {run_id}`, to resume it",
        )


class StoreError(GraphflowError):
    """Something about the store."""


class InvalidAddress(StoreError):
    """A store URL cannot be read. `url` has its password masked; `source` names where it came from, if not an argument."""

    def __init__(self, url: str, reason: str, accepted: Sequence[str], source: str = "") -> None:
        self.url = url
        self.source = source
        origin = f" (from {source})" if source else ""
        forms = "".join(f"\n  {form}" for form in accepted)
        super().__init__(f"cannot read the store URL {url!r}{origin}: {reason}. Accepted forms:{forms}")


class StoreUnreachable(StoreError):
    """The store does not answer. `url` has its password masked."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(
            f"cannot reach Redis at {url}: {reason}; start it, or correct --url / GRAPHFLOW_REDIS_URL, "
            "or use --url embedded:// to run without a server of your own"
        )


class StoreBusy(StoreUnreachable):
    """The server is there and says that it does not serve at present: a trouble that passes."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        remedy = "try again when it has loaded its data or ended its script"
        if reason.startswith("max number of clients"):
            remedy = "raise its maxclients, or end programs that keep connections open"
        StoreError.__init__(self, f"Redis at {url} does not serve at present: {reason}; {remedy}")


class StoreFull(StoreError):
    """Redis refuses writes because its memory is full."""

    def __init__(self, url: str) -> None:
        self.url = url
        super().__init__(f"Redis at {url} is out of memory; raise maxmemory or delete finished runs")


class WritesRefused(StoreError):
    """Redis answers but takes no writes at present: it is a replica, cannot write its disk, or lacks its replicas."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        super().__init__(
            f"Redis at {url} refuses writes: {reason}; connect to the primary, or repair its disk or replicas"
        )


class AccessDenied(StoreError):
    """Redis refuses this user or password."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        super().__init__(
            f"Redis at {url} denies access: {reason}; correct the user and password in --url / GRAPHFLOW_REDIS_URL"
        )


class MissingRight(AccessDenied):
    """Redis does not let this user run a command, or not on a key. `right` is what ACL SETUSER takes: `+COMMAND ...`, `~gf:*`,
    or `alldbs`; empty where the server does not say which."""

    def __init__(self, url: str, reason: str, right: str | None = None) -> None:
        self.url = url
        self.right = _missing_right(reason) if right is None else right
        wanted = f"the right {self.right}" if self.right else "the rights it lacks"
        place = " (your prefix in the place of gf)" if self.right.startswith("~") else ""
        StoreError.__init__(
            self,
            f"Redis at {url} denies access: {reason}; give the user {wanted}{place}: the lines ACL SETUSER in "
            'docs/redis.md, "Rights", have all that are needed',
        )


def _missing_right(reason: str) -> str:
    _, named, command = reason.partition("run the '")
    if named:
        name = command.partition("'")[0]
        # Redis 6.2 does not say which of their subcommands; the right to all would be too much.
        return "" if name in ("client", "config", "acl") else f"+{name}"
    if "database" in reason:
        return "alldbs"
    return "~gf:*" if "key" in reason else ""


class ClusterMember(StoreError):
    """The server is a node of a Redis Cluster, where a run's keys lie on several servers."""

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        super().__init__(
            f"Redis at {url} is a node of a cluster (it answered: {reason}), and this version of graphflow needs one "
            "server that has all keys; name one with cluster-enabled no in --url / GRAPHFLOW_REDIS_URL"
        )


class StoreWentBack(StoreError):
    """The run is not at the commit that the store had acknowledged last: Redis lost writes, or was set back."""

    def __init__(self, run_id: str, expected: int, found: int) -> None:
        self.run_id = run_id
        self.expected = expected
        self.found = found
        super().__init__(
            f"run {run_id!r} is at revision {found} in the store, which had acknowledged revision {expected}; resume the "
            "run to go on from what is there, and set appendfsync to always if nothing acknowledged may be lost"
        )


class CorruptState(StoreError):
    """A key of a run has the wrong type or cannot be read."""

    def __init__(self, key: str, detail: str) -> None:
        self.key = key
        super().__init__(
            f"key {key!r} is not as graphflow left it: {detail}; restore it, or start the run anew"
        )


class SchemaTooNew(StoreError):
    """The store was written by a newer graphflow."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"the store has schema {found}, this graphflow knows up to {known}; upgrade graphflow-engine"
        )


class UnsafeStore(StoreError):
    """The server's settings break what graphflow promises, and `on_risk` is "refuse". `risks` has a sentence for each."""

    def __init__(self, url: str, risks: Sequence[str]) -> None:
        self.url = url
        self.risks = tuple(risks)
        listed = "".join(f"\n  - {risk}" for risk in self.risks)
        super().__init__(f'Redis at {url} would not keep runs safe, and on_risk="refuse" is set:{listed}')


class EmbeddedServerError(StoreError):
    """The embedded server could not be started or joined, or its folder cannot be used by this process."""


class MissingExtra(GraphflowError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} needs an extra: pip install "graphflow-engine[{extra}]"')


class WaitsInVain(GraphflowError):
    """A test waits for what nothing will bring about: under a turned clock, or in a module that runs alone."""


class PlaceNotPassed(GraphflowError):
    """A test was to crash at a failpoint that was not passed, or not so often. `passed` are those that were."""

    def __init__(self, place: str, turn: int, passed: Sequence[str]) -> None:
        self.place = place
        self.turn = turn
        self.passed = tuple(passed)
        times = "" if turn == 1 else f" {turn} times"
        super().__init__(
            f"the failpoint {place!r} was not passed{times}; passed were {', '.join(passed) or 'none'}"
        )


class NonRetryableException(GraphflowError):
    """Raise this in a module when another attempt cannot help: the node fails at once."""


class AnswerRefused(NonRetryableException):
    """Raise this in a module that does not accept the answer which `wait_for_signal` has given it last.

    The answer is dropped, the reason is shown to whoever is to answer, no attempt is used, and the module run waits again.
    In a module run that has taken no answer it is a failure.
    """


class InvalidSignal(RunError, NonRetryableException):
    """A signal was not sent, for it does not fit the schema of who waits for it. `problems` says so for each field."""

    def __init__(self, run_id: str, signal: str, node: str, problems: Sequence[str]) -> None:
        self.signal = signal
        self.node = node
        self.problems = tuple(problems)
        super().__init__(
            run_id,
            f"signal {signal!r} does not fit what {node!r} waits for: {'; '.join(self.problems)}; it was not sent and run "
            f"{run_id} goes on waiting: send a value that fits, `graphflow show {run_id}` shows the schema",
        )


def _shortened(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
