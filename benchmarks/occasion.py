"""What a contestant is given for one run: how many items of which workload, a server, a folder, and the watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.server import ServerAddress
from benchmarks.workloads import Workload


@dataclass(slots=True)
class Occasion:
    workload: Workload
    count: int
    #: Which of the forms of a contestant's file: the part of its name behind the file's, such as "sqlite".
    form: str
    server: ServerAddress
    #: Empty, and removed afterwards.
    folder: Path
    #: Seconds measured so far.
    seconds: float = 0.0
    #: More to report, by name.
    more: dict[str, object] = field(default_factory=dict)
    #: Called when the warm-up is over, right before the watch starts.
    on_start: Callable[[], object] = lambda: None

    @property
    def items(self) -> range:
        return range(self.count)

    @property
    def warm_up_items(self) -> range:
        """Enough to have every connection opened and every import made; few where each takes its time."""
        return range(min(self.count, 3 if self.workload.name in ("io", "cpu", "seven") else 50))

    @property
    def body(self) -> Callable[[int], Any]:
        assert self.workload.body is not None
        return self.workload.body

    @property
    def sync_body(self) -> Callable[[int], Any]:
        return self.workload.sync_body

    def total(self, results: Iterable[Any]) -> int:
        return self.workload.total(results)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Whatever happens inside is what is measured; all before it is warm-up."""
        self.on_start()
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun
