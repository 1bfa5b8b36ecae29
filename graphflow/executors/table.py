"""Which executors are there, by the names that nodes give? Each is imported when a run first needs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module

from graphflow.executors.executor import Executor

#: Name -> module and class.
EXECUTORS = {"inline": ("graphflow.executors.inline", "InlineExecutor")}

#: What runs steps and generators, wherever the bodies of their nodes run.
LOCAL = "inline"


@contextmanager
def open_executors(names: Collection[str], on_end: Callable[[], None]) -> Iterator[Mapping[str, Executor]]:
    """The executors of these names, and the local one, open as long as the block lasts. In a running event loop.

    `on_end` is called there by one that will begin nothing more.
    """
    with ExitStack() as stack:
        yield {name: stack.enter_context(_made(name, on_end)) for name in sorted({LOCAL, *names})}


def _made(name: str, on_end: Callable[[], None]) -> Executor:
    module, class_name = EXECUTORS[name]
    executor: Executor = getattr(import_module(module), class_name)(on_end)
    return executor
