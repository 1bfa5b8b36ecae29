"""Which executors are there, by the names that nodes give? Each is imported when a run first needs it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module

from graphflow.executors.executor import Executor

#: Name -> module and class.
EXECUTORS = {"inline": ("graphflow.executors.inline", "InlineExecutor")}

#: What runs steps and generators, wherever the bodies of their nodes run.
LOCAL = "inline"


@contextmanager
def open_executors(names: Collection[str]) -> Iterator[Mapping[str, Executor]]:
    """The executors of these names, and the local one, open as long as the block lasts. In a running event loop."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(_made(name)) for name in sorted({LOCAL, *names})}


def _made(name: str) -> Executor:
    module, class_name = EXECUTORS[name]
    executor: Executor = getattr(import_module(module), class_name)()
    return executor
