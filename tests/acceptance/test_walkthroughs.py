"""The walkthroughs are programs that run, and their pages show what these print."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.acceptance.pages import shown, walkthrough
from tests.servers import redis_cli_path

DOUBLED = "[0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38]"
#: What differs from one run of a program to the next.
VARYING = {
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z": "TIME",
    r"prices-\d{2}-\d{2}-\d{2}": "RUN",
    r"\b[0-9a-f]{32}\b": "TASK",
    r"^\d{13}-\d+$": "ENTRY",
    r"^\d{13}$": "MILLISECONDS",
    r"^\d+-[0-9a-f]{8}(\.\d+)?$": "TOKEN",
    r"^\S+:\d+:\d+\.\d+$": "OWNER",
    r"^\S*walkthroughs/": "walkthroughs/",
    r"graphflow:run:\S+": "graphflow:run:HOST:PID",
}


@pytest.mark.parametrize("name", ["01_first_agent", "03_conditions"])
def test_page_shows_what_the_walkthrough_prints(tmp_path: Path, name: str) -> None:
    printed = walkthrough(name, cwd=tmp_path)

    assert [_without_ids(text) for text in shown(f"walkthroughs/{name}.md")] == [_without_ids(printed)]


def _without_ids(text: str) -> str:
    return re.sub(r"\b([a-z]+)-[0-9a-z]{4}-[0-9a-z]{4}\b", r"\1-ID", text)


def test_first_agent_halves_the_range_until_it_has_found_the_number(tmp_path: Path) -> None:
    lines = walkthrough("01_first_agent", cwd=tmp_path).splitlines()

    assert lines[0] == "50: lower"
    assert "complete - found 44 with 6 guesses" in lines
    assert "report: succeeded, 1 visits" in lines


def test_parallel_agent_gives_one_answer_in_three_forms_and_two_of_them_overlap(tmp_path: Path) -> None:
    output = walkthrough("02_parallel_agent", cwd=tmp_path)

    assert _without_times(shown("walkthroughs/02_parallel_agent.md")[0]) == _without_times(output)
    assert output.splitlines()[1::2] == [DOUBLED] * 3
    milliseconds = {form: int(found) for form, found in re.findall(r"(\w+): complete, (\d+) ms", output)}
    # Seven subtasks of 50 ms one after another take at least 350 ms, on three processors at least 150.
    assert milliseconds["naive"] >= 350
    assert 150 <= milliseconds["claim"] < milliseconds["naive"]
    assert 150 <= milliseconds["map"] < milliseconds["naive"]


def test_conditions_end_complete_after_a_repair_and_partial_after_a_clean_up(tmp_path: Path) -> None:
    output = walkthrough("03_conditions", cwd=tmp_path)

    assert "complete: 5 characters, 3 attempts" in output
    assert "complete: paid with card spare, 2 visits" in output
    assert "partial: one line logged, discarded, because store failed" in output


@pytest.mark.parametrize("client", ["redis-cli", "graphflow redis-cli"])
def test_inspect_shows_a_run_in_the_middle_as_its_page_does(tmp_path: Path, client: str) -> None:
    output = walkthrough("04_inspect", cwd=tmp_path, env={"PATH": _path_with(client)})

    replies = _replies(output)
    assert {command.split(" gf:")[0].split(" '")[0] for command in replies} >= {
        "zrevrange",
        "hgetall",
        "hget",
    }
    for block in shown("walkthroughs/04_inspect.md"):
        for command, lines in _replies(block).items():
            _assert_alike(lines, replies[command], command)
    assert "complete {'product': 'product-0', 'cents': 100}" in output


def test_large_map_goes_on_in_the_middle_of_its_file_and_loses_no_row(tmp_path: Path) -> None:
    output = walkthrough("05_large_map", cwd=tmp_path)

    [begun, left, resumed, *rest] = output.splitlines()
    assert (begun, left) == ("reading from row 0", "left in the middle")
    start = int(resumed.removeprefix("reading from row "))
    assert 2_000 <= start < 20_000
    assert [output.replace(str(start), "START")] == [
        re.sub(r"(?<=row )[1-9]\d*", "START", text) for text in shown("walkthroughs/05_large_map.md")
    ]
    good = [number for number in range(20_000) if number != 7_777]
    tax = sum(number % 100 * (1 + number % 3) // 5 for number in good)
    assert rest[0].startswith(f"partial {tax} ")
    assert rest[2] == f"order: {len(good)} of 20000, 1 failed"


def _without_times(output: str) -> str:
    return re.sub(r"\d+ ms", "MS", output)


def _path_with(client: str) -> str:
    """A PATH with the real redis-cli on it, or with none."""
    if client == "redis-cli":
        return f"{Path(redis_cli_path()).parent}{os.pathsep}{os.environ['PATH']}"
    return os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not any(Path(folder, name).exists() for name in ("redis-cli", "valkey-cli"))
    )


def _replies(output: str) -> dict[str, list[str]]:
    """What each command was answered, by command without the client's name. Fields of a hash have no order."""
    replies = {}
    for section in output.split("\n\n"):
        command, _, reply = section.strip().partition("\n")
        if command.startswith("$ "):
            words = re.sub(r"^\$ (graphflow redis-cli|redis-cli -s \S+) ", "", command)
            replies[_without_what_varies(words)] = sorted(_without_what_varies(reply).splitlines())
    return replies


def _without_what_varies(text: str) -> str:
    for pattern, word in VARYING.items():
        text = re.sub(pattern, word, text, flags=re.MULTILINE)
    return text


def _assert_alike(page: list[str], program: list[str], command: str) -> None:
    """The same lines; `…` on the page stands for anything, and a number for any number where it counts batches."""
    if command == "client list":
        patterns = [
            ".*".join(re.escape(part) for part in re.sub(r"id=\d+ ", "", line).split("…")) for line in page
        ]
        for pattern in patterns:
            assert any(re.search(pattern, line) for line in program), (pattern, program)
        return
    if command.startswith(("hgetall 'gf:run:{RUN}'", "xrevrange")):
        page, program = _without_numbers(page), _without_numbers(program)
    assert page == program, command


def _without_numbers(lines: list[str]) -> list[str]:
    return sorted("NUMBER" if re.fullmatch(r"\d+(-\d+)?", line) else line for line in lines)
