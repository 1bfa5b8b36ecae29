"""Which body has an attempt of a node? Made when one is first asked for, and kept for all attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from graphflow.engine.attempt import Body
from graphflow.engine.body import ModuleBody
from graphflow.engine.drive import Drive
from graphflow.engine.maps.plain import plain_body
from graphflow.engine.maps.sources import SourceBody
from graphflow.engine.run_view import RunView
from graphflow.executors.executor import Executor
from graphflow.executors.table import LOCAL
from graphflow.ids import FIRST_MODULE, ModuleNumber, NodeNumber
from graphflow.state.view import Messages, Steps


class Bodies:
    """The bodies of one run."""

    def __init__(
        self,
        drive: Drive,
        view: RunView,
        steps: Steps,
        messages: Messages,
        executors: Mapping[str, Executor],
    ) -> None:
        self._drive = drive
        self._view = view
        self._steps = steps
        self._messages = messages
        self._executors = executors
        self._semaphore = asyncio.Semaphore(drive.plan.max_concurrent_tasks)
        self._made: dict[tuple[NodeNumber, ModuleNumber], Body] = {}

    def of(self, index: NodeNumber, module: ModuleNumber) -> Body:
        """That of a node's module; of a map node that which reads its source."""
        body = self._made.get((index, module))
        if body is None:
            body = self._made[index, module] = self._make(index, module)
        return body

    def of_items(self, index: NodeNumber) -> Body:
        """That of the items of a map node."""
        node = self._drive.plan.nodes[index]
        return plain_body(node, self._executors[node.config.executor]) or self._module_body(
            index, FIRST_MODULE
        )

    def _make(self, index: NodeNumber, module: ModuleNumber) -> Body:
        node = self._drive.plan.nodes[index]
        if node.map is None:
            return self._module_body(index, module)
        local = self._executors[LOCAL]
        return SourceBody(node, self._view.inside(node), local, self._semaphore, self._drive.context)

    def _module_body(self, index: NodeNumber, module: ModuleNumber) -> ModuleBody:
        node = self._drive.plan.nodes[index]
        executor = self._executors[node.config.executor]
        view = self._view.inside(node)
        return ModuleBody(node, module, view, self._steps, self._messages, executor, self._semaphore)
