"""`graphflow resume` and `graphflow run --recover`: from any folder, with the code where the run says or where it is named."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.command_line import doubles_file, graphflow, socket_of, started, wait_for_field

ANSWER = {"sum": sum(range(40)) * 2, "text": None}


def interrupted(folder: Path, run_id: str, *, file: str = "doubles.py", seconds: float = 0.3) -> Path:
    """A run in whose middle the process was killed."""
    if not (folder / "doubles.py").exists():
        doubles_file(folder)
    words = ("run", file, "--param", "count=40", "--param", f"seconds={seconds}", "--id", run_id)
    # Four threads at a time, so that there is a middle.
    text = (folder / "doubles.py").read_text()
    (folder / "doubles.py").write_text(text.replace("max_retries=2)", "max_retries=2, max_concurrency=4)"))
    with started(folder, *words) as process:
        wait_for_field(folder, f"gf:run:{{{run_id}}}:map:double", "done", at_least=4)
        process.kill()
    return folder


def code_of(folder: Path, run_id: str) -> str:
    return graphflow(folder, "redis-cli", "hget", f"gf:run:{{{run_id}}}", "code").stdout.strip()


def test_resume_last_goes_on_without_the_command_that_started_the_run(tmp_path: Path) -> None:
    interrupted(tmp_path, "broken-off")

    resumed = graphflow(tmp_path, "resume", "@last", "--json")

    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["result"] == ANSWER
    assert json.loads(resumed.stdout)["run_id"] == "broken-off"
    counts = Counter((tmp_path / "executions").read_text().split())
    assert set(counts) == {str(number) for number in range(40)}
    assert max(counts.values()) <= 2
    shown = graphflow(tmp_path, "resume", "broken-off")
    assert shown.stdout.splitlines()[0] == "run broken-off"
    assert f"result   {json.dumps(ANSWER)}" in shown.stdout.splitlines(), "a finished run's result comes back"


def test_run_is_resumed_from_another_folder_and_after_its_folder_has_moved(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere, moved = tmp_path_factory.mktemp("elsewhere"), tmp_path / "moved"
    original = tmp_path / "original"
    original.mkdir()
    interrupted(original, "travels")
    assert code_of(original, "travels") == "doubles.py:agent"
    shutil.move(original, moved)
    store = f"embedded://{moved}/.graphflow"

    why = graphflow(elsewhere, "show", "travels", "--why", "combine", "--url", store)
    resumed = graphflow(elsewhere, "resume", "travels", "--json", "--url", store)

    assert why.returncode == 0, why.stderr
    assert why.stdout.startswith("combine ")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["result"] == ANSWER
    assert not (elsewhere / ".graphflow").exists()


def test_script_of_another_folder_is_kept_with_its_whole_path(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scripts = tmp_path_factory.mktemp("scripts")
    file = doubles_file(scripts)

    graphflow(tmp_path, "run", str(file), "--id", "whole")

    assert code_of(tmp_path, "whole") == f"{file.resolve()}:agent"


def test_module_of_a_package_is_found_beside_the_store(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").touch()
    shutil.move(doubles_file(tmp_path), tmp_path / "flows" / "doubles.py")
    graphflow(tmp_path, "run", "flows.doubles", "--id", "packed")

    shown = graphflow(
        tmp_path_factory.mktemp("elsewhere"),
        *("resume", "packed", "--json", "--url", f"embedded://{tmp_path}/.graphflow"),
    )

    assert code_of(tmp_path, "packed") == "flows.doubles:agent"
    assert json.loads(shown.stdout)["result"] == {"sum": 6, "text": None}


def test_where_the_code_is_gone_the_command_to_type_is_said(tmp_path: Path) -> None:
    interrupted(tmp_path, "lost")
    (tmp_path / "doubles.py").rename(tmp_path / "renamed.py")

    refused = graphflow(tmp_path, "resume", "lost")
    resumed = graphflow(tmp_path, "resume", "lost", "--agent", "renamed.py", "--json")

    assert refused.returncode == 2
    assert "the agent of run lost is not found: there is no file" in refused.stderr
    assert "graphflow resume lost --agent FILE[:AGENT]" in refused.stderr
    assert json.loads(resumed.stdout)["result"] == ANSWER


def test_script_that_runs_its_agent_as_it_is_loaded_starts_no_other_run(tmp_path: Path) -> None:
    file = tmp_path / "eager.py"
    file.write_text(
        "from graphflow import Agent, Task\nagent = Agent()\n@agent.node\ndef only(): return 1\n"
        "agent.run_task_sync(Task(type='eager'))\n"
    )

    refused = graphflow(tmp_path, "run", "eager.py")

    assert refused.returncode == 2
    assert (
        'eager.py runs its agent as it is loaded; put that below `if __name__ == "__main__":`'
        in refused.stderr
    )
    assert not (tmp_path / ".graphflow").exists()


def test_changed_graph_is_refused_with_its_differences_until_they_are_accepted(tmp_path: Path) -> None:
    interrupted(tmp_path, "changed")
    text = (tmp_path / "doubles.py").read_text()
    (tmp_path / "doubles.py").write_text(
        text.replace("max_retries=2", "max_retries=3")
        + "\n@agent.node\ndef largest(double):\n    return max(double)\n"
    )

    refused = graphflow(tmp_path, "resume", "changed")
    accepted = graphflow(tmp_path, "resume", "changed", "--accept-changes", "--json")

    assert refused.returncode == 2
    assert "node 'largest' was added" in refused.stderr
    assert "node 'double': max_retries was 2, is not set" in refused.stderr
    assert "graphflow resume changed --accept-changes" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr
    assert json.loads(accepted.stdout)["result"] == {"largest": 78, "report": ANSWER}


def test_resume_of_a_run_that_is_not_there_is_exit_code_3(tmp_path: Path) -> None:
    refused = graphflow(tmp_path, "resume", "nowhere")

    assert refused.returncode == 3
    assert "no run 'nowhere' in embedded://" in refused.stderr
    assert not (tmp_path / ".graphflow").exists()


def test_recover_finishes_all_interrupted_runs_of_the_agent(tmp_path: Path) -> None:
    for run_id in ("first", "second"):
        interrupted(tmp_path, run_id)

    recovered = graphflow(tmp_path, "run", "doubles.py", "--recover", "--json")

    assert recovered.returncode == 0, recovered.stderr
    outcome = json.loads(recovered.stdout)
    assert {run["run_id"]: run["result"] for run in outcome["runs"]} == {"first": ANSWER, "second": ANSWER}
    assert outcome["refused"] == {}
    again = graphflow(tmp_path, "run", "doubles.py", "--recover")
    assert again.returncode == 0
    assert again.stdout == f"no interrupted runs of agent doubles in embedded://{tmp_path}/.graphflow\n"
    assert not socket_of(tmp_path).exists()


def test_recover_reports_runs_of_another_graph_with_exit_code_2(tmp_path: Path) -> None:
    interrupted(tmp_path, "older")
    text = (tmp_path / "doubles.py").read_text()
    (tmp_path / "doubles.py").write_text(text.replace("def report", "def result"))
    interrupted(tmp_path, "newer")

    recovered = graphflow(tmp_path, "run", "doubles.py", "--recover")

    assert recovered.returncode == 2
    assert any(line.split()[:2] == ["newer", "complete"] for line in recovered.stdout.splitlines())
    assert "refused: run 'older' was started with another graph" in recovered.stdout
    assert "node 'report' was removed" in recovered.stdout


def test_recover_takes_no_id_and_no_parameters(tmp_path: Path) -> None:
    doubles_file(tmp_path)

    refused = graphflow(tmp_path, "run", "doubles.py", "--recover", "--id", "x")

    assert refused.returncode == 2
    assert "leave out --id, --param and --params" in refused.stderr


def test_commands_keep_to_the_prefix_of_the_agent(tmp_path: Path) -> None:
    file = doubles_file(tmp_path)
    own = file.read_text().replace("Agent()", 'Agent(cache=RedisCache(prefix="mine"))')
    file.write_text(own.replace("import Agent", "import Agent, RedisCache"))

    shown = graphflow(tmp_path, "run", "doubles.py", "--id", "own", "--url", "embedded://")
    resumed = graphflow(tmp_path, "resume", "own", "--json", "--agent", "doubles.py")

    assert "hgetall 'mine:run:{own}'" in shown.stdout
    assert graphflow(tmp_path, "redis-cli", "exists", "mine:run:{own}").stdout == "1\n"
    assert json.loads(resumed.stdout)["run_id"] == "own"
