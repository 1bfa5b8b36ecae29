"""How much memory did this process hold at most?"""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def peak_megabytes() -> float:
    """The largest resident memory of this process so far, in megabytes (1e6 bytes).

    `getrusage` would also count what the parent held when it started this process, so Linux is asked for its own figure.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())) is not None:
        return int(found[1]) * 1024 / 1e6
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6
