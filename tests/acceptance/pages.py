"""The pages for readers, as tests see them: which programs do they show, and what do those print?"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Seconds that any program here may take.
PATIENCE_SECONDS = 60.0

_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page as (language, text)."""
    text = (ROOT / page).read_text()
    return [(block["language"], block["text"]) for block in _BLOCK.finditer(text)]


def shown(page: str) -> list[str]:
    """The outputs that a page shows."""
    return [text for language, text in blocks(page) if language == "text"]


def examples(page: str) -> Iterator[tuple[str, str]]:
    """Each block of Python with the output that stands below it, or none."""
    found = blocks(page)
    for number, (language, text) in enumerate(found):
        if language == "python":
            below = found[number + 1] if number + 1 < len(found) else ("", "")
            yield text, below[1] if below[0] == "text" else ""


def run_python(*words: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What a Python program prints, run with the embedded server of `cwd`. It must succeed."""
    process = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, "GRAPHFLOW_REDIS_URL": "embedded://", "PYTHONWARNINGS": "error", **(env or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def walkthrough(name: str, *, cwd: Path, env: dict[str, str] | None = None) -> str:
    return run_python(str(ROOT / "walkthroughs" / f"{name}.py"), cwd=cwd, env=env)
