"""Runs of `counting.py` as the tests hold them: started, killed in the middle, started again."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import redis

from tests import programs
from tests.helpers import wait_until
from tests.programs import ROOT

#: Items in flight at a time.
CONCURRENCY = 50
#: Seconds after which a process that should have ended counts as hanging.
PATIENCE_SECONDS = 300


@dataclass(slots=True)
class Counted:
    """One run over `count` numbers."""

    url: str
    run_id: str
    count: int
    log: Path
    source: str

    def start(self) -> subprocess.Popen[str]:
        words = ["-m", "tests.faults.counting", self.url, self.run_id, str(self.count)]
        words += [str(self.log), self.source, "--concurrency", str(CONCURRENCY)]
        return programs.start(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill_after(self, client: redis.Redis, records: int) -> set[int]:
        """Start it and SIGKILL it when so many items have their record: the items that have one then."""
        with self.start() as process:
            try:
                wait_until(
                    lambda: client.hlen(self.key("out")) >= records or process.poll() is not None,
                    timeout_seconds=PATIENCE_SECONDS,
                    what=f"{records} records",
                )
            finally:
                process.kill()
        assert process.returncode == -9, "it was killed in the middle"
        return set(map(int, client.hkeys(self.key("out"))))

    def finish(self) -> None:
        """Start it and let it come to the right end."""
        with self.start() as process:
            try:
                output, errors = process.communicate(timeout=PATIENCE_SECONDS)
            finally:
                process.kill()
        assert process.returncode == 0, errors
        assert json.loads(output.splitlines()[-1]) == {
            "status": "complete",
            "sum": self.count * (self.count - 1),
        }

    def key(self, part: str) -> str:
        return f"gf:run:{{{self.run_id}}}:map:double:{part}"
