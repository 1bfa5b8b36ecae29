"""Records the golden runs anew: `python -m tests.replay.record [NAME ...]`, all of them without a name."""

from __future__ import annotations

import asyncio
import sys

from tests.replay.graphs import GOLDEN
from tests.replay.recording import Recording, recorded
from tests.servers import RealServer


def record(name: str, url: str) -> Recording:
    golden = GOLDEN[name]
    agent = golden.build(url)
    with recorded() as steps:
        outcome = asyncio.run(agent.run_task(golden.task, state=golden.state))
    return Recording(name, outcome.plan.hash, outcome.status.value, steps)


def main() -> None:
    with RealServer() as server:
        for name in sys.argv[1:] or GOLDEN:
            recording = record(name, server.url)
            recording.save()
            print(f"{name}: {recording.status} in {len(recording.steps)} steps")


if __name__ == "__main__":
    main()
