"""What a module run reads from: the run in this process, with the records of maps behind it in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from graphflow.codec import decode
from graphflow.engine.attempt import Attempt
from graphflow.engine.drive import Drive
from graphflow.errors import StoreError
from graphflow.graph.tasks import Task
from graphflow.ids import ItemNumber, NodeNumber
from graphflow.planning.plan import PlanNode, PlanScope
from graphflow.rules.draft import Draft
from graphflow.rules.pages import has_room
from graphflow.run import NodeStatus, SourcePage
from graphflow.state.claims import Claims
from graphflow.state.view import Owner


class RunView:
    """Answers the reads of the module runs of one run, each a look-up in memory."""

    def __init__(self, drive: Drive, scope: PlanScope | None = None, claims: Claims | None = None) -> None:
        """Of a sub-graph's `scope`, with the `claims` of its run."""
        self._drive = drive
        self._plan = drive.plan
        self._run = drive.run
        self._scope = scope = scope or drive.plan.scopes[0]
        self.prefix = scope.prefix
        self.borders = scope.borders
        self.claims = claims or Claims()

    def inside(self, node: PlanNode) -> RunView:
        """What the module runs of the node read from: the graph that it stands in."""
        if not node.scope:
            return self
        return RunView(self._drive, self._plan.scopes[node.scope], self.claims)

    @property
    def revision(self) -> int:
        return self._run.revision

    @property
    def keys_revision(self) -> int:
        return self._run.keys_revision

    @property
    def expiring(self) -> Collection[str]:
        return self._run.expiring

    def text(self, key: str) -> str | None:
        return self._run.state.get(key)

    def key_revision(self, key: str) -> int:
        return self._run.revisions.get(key, 0)

    def keys(self) -> Collection[str]:
        return self._run.state.keys()

    def node_text(self, name: str) -> str | None:
        index = self._plan.by_name[name]
        if self._run.nodes[index].settled_as is not NodeStatus.SUCCEEDED:
            return None
        return self._run.nodes[index].result

    def node_revision(self, name: str) -> int:
        return self._run.nodes[self._plan.by_name[name]].changed

    def is_node(self, name: str) -> bool:
        return name in self._plan.by_name

    def is_map(self, name: str) -> bool:
        index = self._plan.by_name.get(name)
        return index is not None and self._plan.nodes[index].lists_results

    def was_reduced_from_nothing(self, name: str) -> bool:
        """Whether the node is a map that had no result to reduce."""
        node = self._plan.nodes[self._plan.by_name[name]]
        opened = self._run.opened_map(node.index, self._run.nodes[node.index].visits)
        return node.is_reduced and (opened is None or opened.done == 0)

    def has_records(self, name: str) -> bool:
        index = self._plan.by_name.get(name)
        return index is not None and self._plan.nodes[index].map is not None

    def has_map_results(self, name: str) -> bool:
        return self._run.nodes[self._plan.by_name[name]].settled_as is NodeStatus.SUCCEEDED

    async def map_pages(self, name: str, start: int = 0) -> AsyncIterator[list[tuple[ItemNumber, str]]]:
        try:
            async for page in self._drive.store.result_pages(self._run.id, name, start):
                yield page
        except StoreError as error:
            # The store's trouble is no failure of the module that met it.
            self._drive.break_off(error)
            raise

    async def source_pages(self, name: str) -> list[SourcePage]:
        """What a map has taken from its generator so far."""
        try:
            return await self._drive.store.source_pages(self._run.id, name)
        except StoreError as error:
            self._drive.break_off(error)
            raise

    async def item_text(self, name: str, index: ItemNumber) -> str:
        """An item that a map has taken from its generator."""
        try:
            (text,) = await self._drive.store.items(self._run.id, name, [index])
        except StoreError as error:
            self._drive.break_off(error)
            raise
        return text

    def taken_from_source(self, index: NodeNumber, visit: int) -> int:
        """Elements that a map's visit has taken from its source and stored."""
        opened = self._run.opened_map(index, visit)
        return 0 if opened is None else opened.span

    def has_room_for_page(self, index: NodeNumber) -> bool:
        """Whether a map may take more items from its source."""
        return has_room(self._plan, self._run.active, index, self._run.unfinished)

    def borrowed_visit(self, node: PlanNode) -> int:
        """The visit of the map whose records are this map's items; 0 if it makes a copy of them."""
        if node.map is None or not node.map.borrows or node.map.source_node is None:
            return 0
        opened = self._run.maps.get(node.map.source_node)
        return 0 if opened is None else opened.visit

    def is_streaming(self, node: PlanNode) -> bool:
        """Whether the map over whose results this one maps is under way and has items."""
        source = None if node.map is None else node.map.source_node
        return (
            source is not None and self._run.active >> source & 1 == 1 and self._run.nodes[source].opened > 0
        )

    def task(self) -> Task:
        """In a sub-graph its type is the node's name, its params are what the sub-graph was given."""
        task = self._run.task.model_copy(deep=True)
        if self._scope.node is not None:
            task.type = self._plan.nodes[self._scope.node].own_name
            graph = self._run.nodes[self._scope.node].graph
            task.params = {} if graph is None else decode(graph.inputs, "inputs")
        return task

    async def set_now(self, key: str, text: str, ttl: float | None, asker: Owner | None) -> None:
        assert asker is None or isinstance(asker, Attempt)
        await self._drive.set_now(key, text, ttl, asker)

    def draft(self) -> Draft:
        """The run as expressions see it."""
        return Draft(self._plan, self._run, self._run.revision, 0)
