"""README and the guide: their code runs, and the outputs they show are what a reader will see."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.pages import ROOT, blocks, examples, run_python, shown, walkthrough


def test_example_of_readme_is_a_walkthrough_and_prints_what_readme_shows(tmp_path: Path) -> None:
    [(code, output)] = examples("README.md")

    assert code == (ROOT / "walkthroughs" / "readme_example.py").read_text()
    assert output == walkthrough("readme_example", cwd=tmp_path)


def test_readme_shows_the_demo_as_it_runs_and_as_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    demo = [sys.executable, "-m", "graphflow", "demo", "--id", "tonight"]
    whole, resumed = [text for text in shown("README.md") if text.startswith("run ")]
    environment = {**os.environ, "PATH": "/nonexistent"}
    with subprocess.Popen(demo, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(re.search(r"square [1-9]\d*/300", line) for line in process.stdout)
        process.send_signal(signal.SIGKILL)

    output = run_python(
        "-m", "graphflow", "demo", "--id", "tonight", cwd=tmp_path, env={"PATH": "/nonexistent"}
    )

    assert _demo_lines(output) == _demo_lines(resumed)
    assert _demo_lines(whole) == _demo_lines(resumed.replace("tonight", "demo-0000-0000"))
    recorded = re.search(r"(\d+) were already recorded", output)
    assert recorded is not None
    assert 0 < int(recorded[1]) < 300


def test_times_of_the_demo_may_have_another_digit_than_readme_shows() -> None:
    [whole, _] = [text for text in shown("README.md") if text.startswith("run ")]
    slow = re.sub(r" (\d\.\d\d)", r"1\1", whole).replace("in 5.1 s", "in 105.1 s")

    assert slow != whole
    assert _demo_lines(slow) == _demo_lines(whole)


def test_commands_of_readme_are_the_ones_that_the_project_has() -> None:
    commands = [
        line for language, text in blocks("README.md") if language == "sh" for line in text.splitlines()
    ]

    assert commands[0] == (
        'python3 -m venv .venv && .venv/bin/pip install -e ".[dev]" && .venv/bin/graphflow demo'
    )
    assert ".venv/bin/pytest" in commands


def test_guide_is_one_program_that_prints_what_the_guide_shows(tmp_path: Path) -> None:
    found = list(examples("docs/guide.md"))
    program = "".join(f"{code}\nprint('--- end of block')\n" for code, _ in found)
    (tmp_path / "guide.py").write_text(program)

    output = run_python("guide.py", cwd=tmp_path)

    assert len(found) >= 5
    assert output.split("--- end of block\n")[:-1] == [text for _, text in found]


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CHANGELOG.md",
        *sorted(
            str(path.relative_to(ROOT))
            for folder in ("docs", "walkthroughs")
            for path in (ROOT / folder).glob("*.md")
        ),
    ],
)
def test_links_of_a_page_lead_to_files(page: str) -> None:
    folder = (ROOT / page).parent
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text())

    missing = [target for target in targets if "://" not in target and not (folder / target).exists()]

    assert missing == []


def _demo_lines(output: str) -> list[str]:
    """The output without what differs from run to run: ids, times, counts, and how often progress was printed."""
    lines = [line.rstrip() for line in output.splitlines() if not re.match(r"\d+/\d+ nodes", line)]
    text = "\n".join(lines)
    # A longer time takes more of the space before it.
    text = re.sub(r" *\d+\.\d+", " SECONDS", text)
    text = re.sub(r"\d+ ran in this process, \d+ were", "SOME ran in this process, SOME were", text)
    return re.sub(r"demo-\w{4}-\w{4}", "demo-0000-0000", text).splitlines()
