"""`graphflow run`: the face of a run, its JSON outcome, exit codes, and going on after a stop."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.command_line import (
    doubles_file,
    graphflow,
    run_id_of,
    socket_of,
    started,
    wait_for_field,
)
from tests.helpers import wait_until


def test_run_shows_id_nodes_and_result(tmp_path: Path) -> None:
    doubles_file(tmp_path)

    shown = graphflow(
        tmp_path, "run", "doubles.py", "--param", "count=4", "--param", "text=hello", is_forked=False
    )

    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    run_id = run_id_of(shown.stdout)
    assert run_id.startswith("doubles-")
    assert lines[1] == (f"look at it: redis-cli -s .graphflow/redis.sock hgetall 'gf:run:{{{run_id}}}'")
    cells = [line.split() for line in lines]
    assert ["NODE", "STATUS", "VISITS", "ATTEMPTS", "SECONDS", "ITEMS"] in cells
    (row,) = [row for row in cells if row and row[0] == "double"]
    assert (row[1], row[2], row[-1]) == ("succeeded", "1", "4/4")
    assert ["status", "complete"] in [row[:2] for row in cells]
    assert 'result   {"sum": 12, "text": "hello"}' in lines


def test_json_outcome_is_all_there_is_on_stdout(tmp_path: Path) -> None:
    doubles_file(tmp_path)

    shown = graphflow(tmp_path, "run", "doubles.py", "--json", "--id", "nightly", is_forked=False)

    outcome = json.loads(shown.stdout)
    assert shown.returncode == 0
    assert outcome.pop("seconds") >= 0
    assert outcome == {
        "run_id": "nightly",
        "status": "complete",
        "error": None,
        "result": {"sum": 6, "text": None},
        "failures": [],
    }
    assert "chunks prints this" in shown.stderr


def test_partial_run_lists_its_failed_items_with_the_users_line_and_exits_with_1(tmp_path: Path) -> None:
    doubles_file(tmp_path)

    shown = graphflow(tmp_path, "run", "doubles.py", "--param", "bad=[1]", is_forked=False)

    assert shown.returncode == 1
    lines = shown.stdout.splitlines()
    place = lines.index("double item 1 failed after 2 attempts: ValueError: chunk 1 is bad")
    assert lines[place + 1].startswith("  doubles.py:")
    assert lines[place + 1].endswith('in double: raise ValueError(f"chunk {chunk} is bad")')
    assert any(line.split()[:2] == ["status", "partial"] for line in lines)


def test_failed_run_says_so_in_json_and_exits_with_1(tmp_path: Path) -> None:
    doubles_file(tmp_path)

    shown = graphflow(tmp_path, "run", "doubles.py", "--json", "--param", "text=broken")

    outcome = json.loads(shown.stdout)
    assert shown.returncode == 1
    assert outcome["status"] == "failed"
    assert outcome["result"] is None
    (failure,) = outcome["failures"]
    assert (failure["node"], failure["item"], failure["error"]) == (
        "combine",
        None,
        "LookupError: combine is broken",
    )
    assert 'in combine: raise LookupError("combine is broken")' in failure["at"]


def test_many_failures_are_counted_not_printed(tmp_path: Path) -> None:
    doubles_file(tmp_path)

    shown = graphflow(
        tmp_path, "run", "doubles.py", "--param", "count=30", "--param", f"bad={list(range(15))}"
    )

    assert shown.stdout.count("is bad\n") == 10
    assert "and 5 more failures" in shown.stdout


def test_same_id_again_gives_the_stored_result_without_running(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    graphflow(tmp_path, "run", "doubles.py", "--id", "once")

    again = graphflow(tmp_path, "run", "doubles.py", "--id", "once", "--json")

    assert json.loads(again.stdout)["result"] == {"sum": 6, "text": None}
    assert _executions(tmp_path) == Counter({"0": 1, "1": 1, "2": 1})


def test_same_id_for_another_task_is_refused(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    graphflow(tmp_path, "run", "doubles.py", "--id", "once")

    refused = graphflow(tmp_path, "run", "doubles.py", "--id", "once", "--param", "count=5")

    assert refused.returncode == 2
    assert "was started for another task (params differ)" in refused.stderr


def test_params_come_from_a_file(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    (tmp_path / "params.json").write_text('{"count": 2, "text": "from a file"}')

    shown = graphflow(tmp_path, "run", "doubles.py", "--params", "params.json", "--json")

    assert json.loads(shown.stdout)["result"] == {"sum": 2, "text": "from a file"}


def test_url_wins_over_the_agents_own_store(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    text = (tmp_path / "doubles.py").read_text()
    own = text.replace("Agent()", 'Agent(cache=RedisCache("redis://127.0.0.1:1"))')
    (tmp_path / "doubles.py").write_text(own.replace("import Agent", "import Agent, RedisCache"))

    shown = graphflow(tmp_path, "run", "doubles.py", "--url", "embedded://", "--json")

    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["status"] == "complete"


def test_an_agent_in_a_module_is_found_by_its_dotted_name(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").touch()
    (tmp_path / "flows" / "sums.py").write_text(
        "from graphflow import Agent\nadder = Agent()\n@adder.node\ndef total(task): return sum(task.params['of'])\n"
    )

    shown = graphflow(tmp_path, "run", "flows.sums:adder", "--param", "of=[1,2]", "--json")

    assert json.loads(shown.stdout)["result"] == 3


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_how_to_go_on_and_goes_on(
    tmp_path: Path, number: signal.Signals, exit_code: int
) -> None:
    doubles_file(tmp_path)
    words = ("run", "doubles.py", "--param", "count=300", "--param", "seconds=0.4", "--id", "stopped")
    with started(tmp_path, *words, is_forked=False) as process:
        wait_for_field(tmp_path, "gf:run:{stopped}:map:double", "done", at_least=20)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == exit_code
    assert f"stopped; go on with: graphflow {' '.join(words)}" in output.splitlines()
    assert "Traceback" not in output
    assert not socket_of(tmp_path).exists(), "the embedded server should have been shut down"

    resumed = graphflow(tmp_path, *words, "--json")

    assert json.loads(resumed.stdout)["result"]["sum"] == sum(range(300)) * 2
    executions = _executions(tmp_path)
    assert set(executions) == {str(index) for index in range(300)}
    assert max(executions.values()) <= 2


def test_a_second_process_waits_for_the_run_and_shows_who_drives_it(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    words = ("run", "doubles.py", "--param", "count=300", "--param", "free=30", "--id", "shared")
    with started(tmp_path, *words) as first:
        wait_for_field(tmp_path, "gf:run:{shared}", "revision", at_least=1)
        with started(tmp_path, *words) as second:
            assert second.stdout is not None
            assert any(f":{first.pid}, " in line for line in second.stdout)
            (tmp_path / "gate").touch()
            output, _ = second.communicate(timeout=60)
        first.communicate(timeout=60)

    assert first.returncode == second.returncode == 0
    assert 'result   {"sum": 89700, "text": null}' in output
    assert set(_executions(tmp_path).values()) == {1}


def test_verbose_prints_log_messages(tmp_path: Path) -> None:
    doubles_file(tmp_path)

    quiet = graphflow(tmp_path, "run", "doubles.py", "--id", "quiet", is_forked=False)
    verbose = graphflow(tmp_path, "run", "doubles.py", "--id", "loud", "--verbose", is_forked=False)

    assert quiet.stderr == ""
    assert "run loud started" in verbose.stderr


def test_run_ids_of_a_user_are_taken_as_they_are(tmp_path: Path) -> None:
    doubles_file(tmp_path)

    shown = graphflow(tmp_path, "run", "doubles.py", "--id", "nightly-11-20")

    assert run_id_of(shown.stdout) == "nightly-11-20"


def _executions(folder: Path) -> Counter[str]:
    return Counter((folder / "executions").read_text().split())


def test_what_does_not_end_in_its_grace_is_dropped(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    words = ("run", "doubles.py", "--param", "count=1", "--param", "seconds=600", "--grace", "0.2")
    with started(tmp_path, *words, is_forked=False) as process:
        wait_until((tmp_path / "executions").exists, what="the item to start")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)

    assert "stopping: what runs gets 0.2 s to finish; the same signal again ends it at once\n" in output
    assert process.returncode == 130


def test_a_second_signal_ends_the_process_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    doubles_file(tmp_path)
    words = ("run", "doubles.py", "--param", "count=1", "--param", "seconds=600", "--id", "hangs")
    with started(tmp_path, *words, "--grace", "600", is_forked=False) as process:
        wait_until((tmp_path / "executions").exists, what="the item to start")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert any(line.startswith("stopping: ") for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)

    assert process.returncode == 143
    assert output == f"ended; go on with: graphflow {' '.join(words)} --grace 600\n"
