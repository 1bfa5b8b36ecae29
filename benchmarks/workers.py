"""Worker processes of contestants that have such: started for one run, ended with it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

#: Where a contestant's file, which its workers import too, finds the server.
SOCKET_VARIABLE = "GRAPHFLOW_BENCH_SOCKET"
PROCESSES = 2
STOP_SECONDS = 3.0


def socket_path() -> str:
    """The path of the server's socket."""
    return os.environ[SOCKET_VARIABLE]


@contextlib.contextmanager
def workers(module: str, *arguments: str) -> Iterator[None]:
    """Run `python -m module arguments` as long as the block; what it says is not shown."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
