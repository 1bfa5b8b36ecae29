"""Every key in Redis, built here and nowhere else. This is the key table.

All keys of a run share the hash tag `{ID}`, so that one script may touch them; the prefix `gf` is a setting. Every value
is UTF-8 text: words, numbers, ISO-8601 times in UTC, or compact JSON. A field that is not there has its default.

    gf:meta                      HASH    schema: the number of this layout
    gf:runs                      ZSET    run id by creation (ms since 1970); a hint, the run itself decides
    gf:runs:open                 ZSET    the same for runs that are not over; a hint, too
    gf:run:{ID}                  HASH    agent code task status revision op plan_hash created started updated finished
                                         owner progress error limit held iterations keys_revision initial leases posted snapshots mailboxes
                                         parent parent_snapshot
                                         expires keep_complete keep_other quarantined
    gf:run:{ID}:task             HASH    objective params metadata id of the task, whose type is in the run's hash
    gf:run:{ID}:plan             STRING  the compiled graph as JSON
    gf:run:{ID}:initial          HASH    state key -> digest of the value that the run was started with
    gf:run:{ID}:state            HASH    state key -> JSON value
    gf:run:{ID}:revisions        HASH    state key -> revision of its last change; initial state that never changed has none
    gf:run:{ID}:expiring         HASH    state key that was set with a ttl -> its end (ms since 1970, the driver's clock)
    gf:run:{ID}:nodes            HASH    node -> pending ready running waiting succeeded failed skipped
    gf:run:{ID}:node:NODE        HASH    visits considered settled changed opened started finished last chosen again handled
                                         reopened dropped crashes error result earlier; of a sub-graph
                                         entered inputs iterations limit; per module number
                                         status:0 attempts:0 result:0 error:0 retry_at:0
    gf:run:{ID}:events           STREAM  every fact in order: event revision at, and fields of its own
    gf:run:{ID}:inbox            LIST    requests from outside
    gf:run:{ID}:steps            HASH    NODE:VISIT:MODULE:ITEM:CALL -> result; ITEM is - if there is none. CALL is
                                         step:DIGEST:NUMBER:NAME, signal:NUMBER:NAME (its answer), sent:NUMBER:DIGEST,
                                         wait:NUMBER:NAME (its beginning), timeout:NUMBER:NAME (nobody answered);
                                         DIGEST is 2: and 32 hex digits, the 2 being its form; without it of the first
    gf:run:{ID}:waits            HASH    NODE:VISIT:MODULE:ITEM -> signal since field question schema deadline refused: who waits
                                         for a signal
    gf:run:{ID}:signals          HASH    signal -> values that came before anybody waited for them
    gf:run:{ID}:mailbox:NAME     LIST    messages not yet taken: id from value
    gf:run:{ID}:lease            HASH    token owner deadline (ms since 1970, Redis' clock) length (ms)
    gf:run:{ID}:map:NODE         HASH    visit total source span borrowed done failed retried active crashes (index:count,
                                         with blanks between) median_ms stragglers (JSON list of [index, seconds])
    gf:run:{ID}:map:NODE:in      HASH    index -> item; not there if they are borrowed
    gf:run:{ID}:map:NODE:out     HASH    index -> result
    gf:run:{ID}:map:NODE:failed  HASH    index -> failure with its attempts
    gf:run:{ID}:map:NODE:pages   HASH    number of the first element of a page of the generator's -> end, digest of the texts
                                         of its items, and their indexes unless these are all of it
    gf:run:{ID}:map:NODE:VISIT:in :out :failed :pages   the same of an earlier visit, as long as a snapshot names it
    gf:run:{ID}:snapshot:NUMBER  HASH    revision at nodes plan_hash iterations keys_revision mailboxes
                                         visit:MAP unfinished:MAP
    gf:run:{ID}:snapshot:NUMBER:state :revisions :expiring :nodes :node:NODE :map:MAP :steps :waits :signals :mailbox:NAME
                                         as the run's own were

What needs a word: `task` is the type of the task; runs of earlier versions hold all of the task there, as JSON. `initial`
counts the state keys that the run was started with; a fork has none. `revision` counts outcomes, `op` names the last commit, `leases` counts how often the run was taken,
`posted` holds the last requests' operation ids, `snapshots` the numbers of those kept; `parent` is the run that this one
was forked from. Of a run that is over, `expires` is when its keys end (ms since 1970, Redis' clock); `keep_complete` and
`keep_other` are seconds. `quarantined` says why it could not be read. In a node, `last` is how it settled before its
present visit, `chosen` the names that its last decision chose (`(none)` if there were none); `result` is that of its last
module; `status:0` is left out where it is the node's own. In a map, `source` is `open` while a generator or another map may
yield more, `total` are the items so far then; `span` is the last index plus one, of a generator the elements taken from it;
`borrowed` is the visit of the map whose results are the items. A node inside of a sub-graph has its path for a name, as in
`research/plan`; so have state keys, mailboxes and signals there. Node names hold no colon, so no two keys meet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphflow.ids import RunId


@dataclass(frozen=True, slots=True)
class StoreKeys:
    """The keys of one store."""

    prefix: str = "gf"

    @property
    def meta(self) -> str:
        return f"{self.prefix}:meta"

    @property
    def runs(self) -> str:
        return f"{self.prefix}:runs"

    @property
    def open_runs(self) -> str:
        return f"{self.prefix}:runs:open"

    def run(self, run_id: str) -> RunKeys:
        return RunKeys(f"{self.prefix}:run:{{{run_id}}}")

    def run_id_of(self, key: str) -> RunId:
        """The run that a key of a run belongs to."""
        return RunId(key[len(self.prefix) + len(":run:{") : key.index("}")])


class RunKeys:
    """The keys of one run."""

    __slots__ = (
        "events",
        "expiring",
        "inbox",
        "initial",
        "lease",
        "nodes",
        "plan",
        "revisions",
        "run",
        "signals",
        "state",
        "steps",
        "task",
        "waits",
    )

    def __init__(self, run: str) -> None:
        self.run = run
        self.task = f"{run}:task"
        self.plan = f"{run}:plan"
        self.initial = f"{run}:initial"
        self.state = f"{run}:state"
        self.revisions = f"{run}:revisions"
        self.expiring = f"{run}:expiring"
        self.nodes = f"{run}:nodes"
        self.events = f"{run}:events"
        self.inbox = f"{run}:inbox"
        self.steps = f"{run}:steps"
        self.waits = f"{run}:waits"
        self.signals = f"{run}:signals"
        self.lease = f"{run}:lease"

    def others(self, nodes: Iterable[str], maps: Iterable[str], mailboxes: Iterable[str] = ()) -> list[str]:
        """Every key but the run's hash that a run of these nodes may have."""
        keys = [
            self.task,
            self.plan,
            self.initial,
            self.state,
            self.revisions,
            self.expiring,
            self.nodes,
            self.events,
            self.inbox,
            self.lease,
        ]
        keys += (self.steps, self.waits, self.signals, *map(self.mailbox, mailboxes))
        keys += map(self.node, nodes)
        for name in maps:
            keys += (self.map(name), *self.records(name))
        return keys

    def node(self, name: str) -> str:
        return f"{self.run}:node:{name}"

    def mailbox(self, name: str) -> str:
        return f"{self.run}:mailbox:{name}"

    def map(self, name: str) -> str:
        return f"{self.run}:map:{name}"

    def items(self, node: str, lender: str | None) -> str:
        """Where a map's items lie: they are its own, or the results of another map."""
        return self.map_in(node) if lender is None else self.map_out(lender)

    def map_in(self, name: str) -> str:
        return f"{self.run}:map:{name}:in"

    def map_out(self, name: str) -> str:
        return f"{self.run}:map:{name}:out"

    def map_failed(self, name: str) -> str:
        return f"{self.run}:map:{name}:failed"

    def map_pages(self, name: str) -> str:
        return f"{self.run}:map:{name}:pages"

    def records(self, name: str, visit: int | None = None) -> tuple[str, str, str, str]:
        """A map's items, results, failures and pages; with `visit`, those of an earlier visit that were kept."""
        of = self.map(name) if visit is None else f"{self.map(name)}:{visit}"
        return f"{of}:in", f"{of}:out", f"{of}:failed", f"{of}:pages"

    def snapshot(self, number: int) -> RunKeys:
        """The keys of a snapshot: its own, and copies under the names that they have in the run."""
        return RunKeys(f"{self.run}:snapshot:{number}")
