"""Everything that changes in a run because of one input: `advance` makes it, the store commits it, `apply` brings the run
in memory up to date."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphflow.events import Event
from graphflow.graph.tasks import RunStatus
from graphflow.ids import ItemNumber, ModuleNumber, NodeNumber
from graphflow.inputs import Pace
from graphflow.run import Failure, Message, NodeState, Place, SourcePage, Wait


@dataclass(slots=True)
class MapChange:
    """What one outcome changes in a map's records."""

    visit: int
    #: Items of a new visit; the records of the one before are dropped.
    opened: list[tuple[ItemNumber, str]] | None = None
    #: Items that a visit under way gets besides.
    added: list[tuple[ItemNumber, str]] = field(default_factory=list)
    #: With a page of the source: the elements taken from it so far, and whether there may be more. 0 and None leave
    #: these as they are.
    span: int = 0
    has_more: bool | None = None
    page: SourcePage | None = None
    borrowed: int = 0
    done: list[tuple[ItemNumber, str]] = field(default_factory=list)
    failed: list[tuple[ItemNumber, Failure, int]] = field(default_factory=list)
    retried: int = 0
    results: str | None = None
    pace: Pace | None = None
    #: Index -> crashes, the whole of it; None leaves it as it is.
    crashes: dict[ItemNumber, int] | None = None

    @property
    def taken(self) -> int:
        """Elements taken from the source so far; 0 leaves it as it is. Of a list, as far as its items go."""
        if self.span or not self.opened:
            return self.span
        return self.opened[-1][0] + 1


@dataclass(slots=True)
class Transition:
    """Everything that changes because of one input. Masks and counters are the new values."""

    revision: int
    active: int
    fresh: int
    iterations: int
    nodes: dict[NodeNumber, NodeState] = field(default_factory=dict)
    state: dict[str, str | None] = field(default_factory=dict)
    #: State key -> its end in ms since 1970; None for one that has none any more.
    expiring: dict[str, float | None] = field(default_factory=dict)
    maps: dict[NodeNumber, MapChange] = field(default_factory=dict)
    #: What is remembered besides; None forgets all of a place, or one field of it.
    steps: dict[Place, dict[str, str | None] | None] = field(default_factory=dict)
    #: Who waits for a signal now; None for who does not any more.
    waits: dict[Place, Wait | None] = field(default_factory=dict)
    #: Signals kept, by name; none left for a name that is not waited for any more.
    signals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sent: list[Message] = field(default_factory=list)
    taken: list[tuple[str, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    #: (node, module) that may run now.
    ready: list[tuple[NodeNumber, ModuleNumber]] = field(default_factory=list)
    #: Items of maps that may run again, since what they waited for is there.
    items_ready: list[Place] = field(default_factory=list)
    #: (node, module, ms since 1970) of retries that wait for their time.
    delayed: list[tuple[NodeNumber, ModuleNumber, float]] = field(default_factory=list)
    #: Sub-graphs that are ready: an `Entered` of each is to come next.
    entering: list[NodeNumber] = field(default_factory=list)
    #: Bit mask of nodes whose attempts under way are to be cancelled.
    stopped: int = 0
    status: RunStatus | None = None
    deaths_counted: int = 0
    limit: str | None = None
    error: str | None = None
    held: tuple[str, ...] = ()
    started: float = 0
    finished: float = 0
