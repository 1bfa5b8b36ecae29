"""What tests of graphs need: a store in memory, a clock to turn, every order of outcomes, crashes, and a module alone.

Nothing else of graphflow imports it. docs/guide.md shows how it is used.
"""

from __future__ import annotations

from graphflow.testing.clock import TurnedClock
from graphflow.testing.crashes import ProcessDied, crash_at
from graphflow.testing.modules import ModuleCache, module_cache
from graphflow.testing.orders import Played, play_every_order
from graphflow.testing.store import MemoryCache, MemoryStore

__all__ = [
    # a graph without a server, and without waiting
    "MemoryCache",
    "MemoryStore",
    "TurnedClock",
    # what may come to pass
    "play_every_order",
    "Played",
    "crash_at",
    "ProcessDied",
    # a module alone
    "module_cache",
    "ModuleCache",
]
