"""kill -9 around a step and around a wait: what was stored is not called again, and a wait goes on in another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from graphflow.failpoints import ENVIRONMENT_VARIABLE
from tests import programs
from tests.faults.harness import PATIENCE_SECONDS, looking_at
from tests.programs import ROOT
from tests.servers import RealServer

PROGRAM = """
import asyncio, json, os, sys
from graphflow import Agent, AnswerRefused, RedisCache, Task

url, log, form, run_id = sys.argv[1:]
agent = Agent(cache=RedisCache(url), name="victim", lease_seconds=10)

def note(word):
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{word}\\n".encode())
    os.close(file)

async def ask(question, *asker):
    note(" ".join(("ask", question, *asker)))
    return f"answer to {question}"

if form == "subtasks":
    @agent.node
    async def first(cache):
        return await take(cache, "first")

    @agent.node
    async def second(cache):
        return await take(cache, "second")

    async def take(cache, name):
        subtasks = await cache.get("subtasks")
        pending = next(each for each in subtasks if each["answer"] is None)
        note(f"run {name}")
        pending["answer"] = await cache.step("ask", ask, pending["question"], name)
        await cache.set("subtasks", subtasks)

    state = {"subtasks": [{"question": question, "answer": None} for question in "ab"]}
elif form == "items":
    @agent.node(map_over="questions", max_concurrency=2)
    async def items(question, cache):
        answers = [await cache.step("ask", ask, f"{question}{part}") for part in (1, 2)]
        await cache.append("log", question)
        return answers

    state = {"questions": list("abcdef")}
elif form == "signal":
    @agent.node
    async def asks(cache):
        answer = await cache.step("ask", ask, "before")
        signal = await cache.wait_for_signal("go")
        return [answer, signal, await cache.step("ask", ask, "after")]

    state = {}
elif form == "refusal":
    @agent.node(max_retries=1)
    async def asks(cache):
        answer = await cache.step("ask", ask, "before")
        signal = await cache.wait_for_signal("go", question="May it go?", timeout=600)
        checked = await cache.step("ask", ask, signal)
        if signal == "maybe":
            raise AnswerRefused("yes or no")
        return [answer, signal, checked]

    state = {}
elif form == "overdue":
    @agent.node(max_retries=1)
    async def asks(cache):
        try:
            return await cache.wait_for_signal("go", timeout=600)
        except TimeoutError:
            answer = await cache.step("ask", ask, "overdue")
        return [answer, await cache.wait_for_signal("go")]

    state = {}
else:
    @agent.node
    async def asks(cache):
        await cache.publish_to_mailbox("questions", "why")
        return await cache.get_message("answers")

    @agent.node
    async def answers(cache):
        question = await cache.get_message("questions")
        await cache.publish_to_mailbox("answers", await cache.step("ask", ask, question))

    state = {}

async def main():
    outcome = await agent.run_task(Task(type=form), state=state, run_id=run_id)
    print(json.dumps({"status": outcome.status, "error": outcome.error, "nodes": {
        name: result.result for name, result in outcome.node_results.items()}, "state": {
        key: outcome[key] for key in outcome}}))

asyncio.run(main())
"""


class Program:
    """The program above, in processes one after another that go on with one run."""

    def __init__(self, server: RealServer, folder: Path, form: str) -> None:
        self.log = folder / "log"
        self.run_id = f"step-{form}-{folder.name}"
        self.arguments = [server.url, str(self.log), form, self.run_id]

    def start(self, failpoints: str = "") -> subprocess.CompletedProcess[str]:
        return programs.run(
            ["-c", PROGRAM, *self.arguments],
            cwd=ROOT,
            env=os.environ | {ENVIRONMENT_VARIABLE: failpoints},
            timeout=PATIENCE_SECONDS,
        )

    def dies(self, failpoints: str) -> None:
        ended = self.start(failpoints)
        assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr

    def finishes(self) -> dict[str, object]:
        ended = self.start()
        assert ended.returncode == 0, ended.stderr
        outcome: dict[str, object] = json.loads(ended.stdout.splitlines()[-1])
        return outcome

    @property
    def asked(self) -> Counter[str]:
        lines = self.log.read_text().splitlines()
        return Counter(line.removeprefix("ask ") for line in lines if line.startswith("ask "))


@pytest.mark.parametrize("place", ["step.after_store@1", "step.after_store@2", "commit.before_send@3"])
def test_a_step_whose_result_was_stored_is_not_called_again_after_a_kill(
    place: str, redis_server: RealServer, tmp_path: Path
) -> None:
    program = Program(redis_server, tmp_path, "subtasks")

    program.dies(f"{place}=kill")
    with looking_at(redis_server.url) as client:
        stored = [field.partition(":")[0] for field in client.hkeys(f"gf:run:{{{program.run_id}}}:steps")]
    outcome = program.finishes()

    assert outcome["status"] == "complete"
    assert outcome["state"] == {
        "subtasks": [
            {"question": "a", "answer": "answer to a"},
            {"question": "b", "answer": "answer to b"},
        ]
    } | dict.fromkeys(("first", "second"))
    assert stored, "a result was stored before the process died"
    assert [program.asked[f"a {name}"] for name in stored] == [1] * len(stored)
    assert program.asked["b first"] + program.asked["b second"] == 1, (
        "who lost the first subtask asks for the second"
    )
    with looking_at(redis_server.url) as client:
        assert not client.exists(f"gf:run:{{{program.run_id}}}:steps")


def test_a_step_is_called_again_only_if_its_result_was_not_stored(
    redis_server: RealServer, tmp_path: Path
) -> None:
    program = Program(redis_server, tmp_path, "signal")

    program.dies("step.before_send=kill")
    assert program.asked == {"before": 1}
    program.dies("step.after_store=kill")
    assert program.asked == {"before": 2}, "the process died before the first result was stored"
    outcome = program.finishes()

    assert outcome["status"] == "suspended", outcome
    assert program.asked == {"before": 2}


def test_no_item_of_a_map_asks_twice_however_often_the_process_is_killed(
    redis_server: RealServer, tmp_path: Path
) -> None:
    program = Program(redis_server, tmp_path, "items")

    for turn in (3, 2, 4):
        program.dies(f"step.after_store@{turn}=kill")
    outcome = program.finishes()

    assert outcome["status"] == "complete"
    assert outcome["nodes"] == {
        "items": [[f"answer to {question}{part}" for part in (1, 2)] for question in "abcdef"]
    }
    # Two items run at a time: what one has asked while the process dies for the other is not stored yet.
    assert set(program.asked) == {f"{question}{part}" for question in "abcdef" for part in (1, 2)}
    assert program.asked.total() <= 12 + 3


@pytest.mark.parametrize("place", ["commit.before_send", "commit.after_reply"])
@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_wait_for_a_signal_survives_a_kill_at_each_commit(
    place: str, turn: int, redis_server: RealServer, tmp_path: Path
) -> None:
    program = Program(redis_server, tmp_path, "signal")

    ended = program.start(f"{place}@{turn}=kill")
    first = program.finishes()
    assert first["status"] == "suspended", ended.stderr
    _send(program, redis_server, "went")
    killed = program.start(f"{place}@{turn}=kill")
    outcome = program.finishes()

    assert outcome["nodes"] == {"asks": ["answer to before", "went", "answer to after"]}, killed.stderr
    assert program.asked == {"before": 1, "after": 1}


@pytest.mark.parametrize("place", ["commit.before_send@2", "commit.after_reply@2"])
def test_nothing_is_asked_twice_when_the_process_dies_around_a_refusal(
    place: str, redis_server: RealServer, tmp_path: Path
) -> None:
    program = Program(redis_server, tmp_path, "refusal")
    assert program.finishes()["status"] == "suspended"
    with looking_at(redis_server.url) as client:
        key = f"gf:run:{{{program.run_id}}}:waits"
        (asked,) = map(json.loads, client.hvals(key))
    _send(program, redis_server, "maybe")

    program.dies(f"{place}=kill")
    waiting = program.finishes()

    assert waiting["status"] == "suspended", waiting
    with looking_at(redis_server.url) as client:
        (wait,) = map(json.loads, client.hvals(key))
    assert wait == asked | {"refused": "yes or no"}, (
        "as it was first asked, with why the answer was not accepted"
    )
    _send(program, redis_server, "yes")
    outcome = program.finishes()
    assert outcome["nodes"] == {"asks": ["answer to before", "yes", "answer to yes"]}
    assert program.asked == {"before": 1, "maybe": 1, "yes": 1}


@pytest.mark.parametrize("place", ["commit.before_send", "commit.after_reply"])
@pytest.mark.parametrize("turn", [1, 2])
def test_timeout_of_a_wait_is_had_once_when_the_process_dies_around_it(
    place: str, turn: int, redis_server: RealServer, tmp_path: Path
) -> None:
    program = Program(redis_server, tmp_path, "overdue")
    assert program.finishes()["status"] == "suspended"
    with looking_at(redis_server.url) as client:
        key = f"gf:run:{{{program.run_id}}}:waits"
        ((waiting, text),) = client.hgetall(key).items()
        client.hset(key, waiting, json.dumps(json.loads(text) | {"deadline": 1}))

    program.dies(f"{place}@{turn}=kill")
    assert program.finishes()["status"] == "suspended"
    _send(program, redis_server, "late")
    outcome = program.finishes()

    assert outcome["nodes"] == {"asks": ["answer to overdue", "late"]}
    assert program.asked == {"overdue": 1}


@pytest.mark.parametrize("place", ["commit.before_send", "commit.after_reply"])
@pytest.mark.parametrize("turn", [1, 2, 3, 4])
def test_no_message_is_lost_or_sent_twice_by_a_kill_at_each_commit(
    place: str, turn: int, redis_server: RealServer, tmp_path: Path
) -> None:
    program = Program(redis_server, tmp_path, "messages")

    program.start(f"{place}@{turn}=kill")
    outcome = program.finishes()

    assert outcome["status"] == "complete", outcome
    assert outcome["nodes"] == {"asks": "answer to why", "answers": None}
    assert program.asked == {"why": 1}
    with looking_at(redis_server.url) as client:
        left = list(client.scan_iter(match=f"gf:run:{{{program.run_id}}}:mailbox:*", count=1000))
    assert left == [], "an empty list is no key"


def _send(program: Program, server: RealServer, value: str) -> None:
    code = (
        "import asyncio, sys; from graphflow import Agent, RedisCache; "
        "asyncio.run(Agent(cache=RedisCache(sys.argv[1])).signal(*sys.argv[2:]))"
    )
    words = ["-c", code, server.url, program.run_id, "go", value]
    programs.run(words, cwd=ROOT, timeout=PATIENCE_SECONDS).check_returncode()
