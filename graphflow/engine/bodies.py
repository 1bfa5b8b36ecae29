"""Which body has an attempt of a node? Made when one is first asked for, and kept for all attempts."""

from __future__ import annotations

import asyncio

from graphflow.caches.view import Messages, Steps
from graphflow.engine.body import Body, ModuleBody
from graphflow.engine.drive import Drive
from graphflow.engine.plain_items import plain_body
from graphflow.engine.run_view import RunView
from graphflow.engine.sources import SourceBody
from graphflow.executors.executor import Executor


class Bodies:
    """The bodies of one run."""

    def __init__(
        self, drive: Drive, view: RunView, steps: Steps, messages: Messages, executor: Executor
    ) -> None:
        self._drive = drive
        self._view = view
        self._steps = steps
        self._messages = messages
        self._executor = executor
        self._semaphore = asyncio.Semaphore(drive.plan.max_concurrent_tasks)
        self._made: dict[tuple[int, int], Body] = {}

    def of(self, index: int, module: int) -> Body:
        """That of a node's module; of a map node that which reads its source."""
        body = self._made.get((index, module))
        if body is None:
            body = self._made[index, module] = self._make(index, module)
        return body

    def of_items(self, index: int) -> Body:
        """That of the items of a map node."""
        return plain_body(self._drive.plan.nodes[index]) or self._module_body(index, 0)

    def _make(self, index: int, module: int) -> Body:
        node = self._drive.plan.nodes[index]
        if node.map is None:
            return self._module_body(index, module)
        return SourceBody(node, self._view, self._executor, self._semaphore, self._drive.context)

    def _module_body(self, index: int, module: int) -> ModuleBody:
        node = self._drive.plan.nodes[index]
        return ModuleBody(
            node, module, self._view, self._steps, self._messages, self._executor, self._semaphore
        )
