"""F25: bodies that do not end when their time is up. The timeout holds, the slot comes free, what comes late is not taken."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from graphflow import AgentModule, Cache
from graphflow.errors import TransactionClosed
from graphflow.graph.tasks import RunStatus
from tests.acceptance.support import agent_on, module_node, task, until, within
from tests.faults.harness import looking_at
from tests.faults.invariants import check_over
from tests.helpers import SOON_SECONDS, run
from tests.servers import RealServer


class Stubborn(AgentModule):
    """Takes its cancellations for itself until it is let go, and then writes and returns something."""

    name = "stubborn"

    async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
        self.config.context["begun"].append(asyncio.current_task())
        await cache.set("early", 1)
        while not self.config.context["let_go"].is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.config.context["let_go"].wait()
        try:
            await cache.set("late", 1)
        except TransactionClosed as error:
            self.config.context["refused"].append(error)
        return "late"


class Scene:
    def __init__(self, *, timeout: float = 0.2) -> None:
        self.context = {"begun": [], "refused": [], "let_go": asyncio.Event()}
        self.module = Stubborn(config=within(timeout).model_copy(update={"context": self.context}))

    @property
    def begun(self) -> int:
        return len(self.context["begun"])


@pytest.mark.parametrize("timeouts", [(0.3, 0.1, 0.2), (0.1, 0.2, 0.3)])
def test_each_body_has_the_time_of_its_own_timeout(redis_url: str, timeouts: tuple[float, ...]) -> None:
    ended: list[float] = []

    async def main() -> None:
        agent = agent_on(redis_url)

        def waiting(timeout: float) -> None:
            @agent.node(name=f"waits_{timeout}", timeout=timeout, max_retries=1)
            async def waits() -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.append(timeout)

        for timeout in timeouts:
            waiting(timeout)

        outcome = await agent.run_task(task())

        assert [failure.node for failure in outcome.failures] == [f"waits_{timeout}" for timeout in timeouts]
        for failure in outcome.failures:
            assert f"timeout={failure.node.removeprefix('waits_')}" in failure.error

    run(main())
    assert ended == sorted(timeouts)


def test_body_that_lets_its_cancellation_pass_fails_by_its_timeout(redis_url: str, tmp_path: Path) -> None:
    cleaned: list[str] = []

    async def main() -> None:
        agent = agent_on(redis_url)

        @agent.node(timeout=0.1, max_retries=2)
        async def waits() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append("up")

        outcome = await agent.run_task(task(), run_id=tmp_path.name)

        assert (outcome.status, outcome.failures[0].attempts) == (RunStatus.FAILED, 2)
        assert "timeout=0.1" in outcome.failures[0].error
        assert outcome.seconds < SOON_SECONDS

    run(main())
    assert cleaned == ["up", "up"]


def test_body_that_ignores_its_cancellation_frees_its_slot_and_its_late_result_is_not_taken(
    redis_server: RealServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        scene = Scene()
        agent = agent_on(redis_server.url, max_concurrent_tasks=2)
        agent.add_node(module_node("held", scene.module, max_retries=2))
        after = asyncio.Event()

        @agent.node
        async def other() -> str:
            # One or both of its tries are still under way, beyond their time.
            await until(lambda: scene.begun == 2)
            after.set()
            return "ran"

        @agent.node(run_when="settled", dependencies=["held", "other"])
        async def let_go() -> None:
            scene.context["let_go"].set()
            await until(lambda: len(scene.context["refused"]) == 2)

        outcome = await agent.run_task(task(), run_id=tmp_path.name)

        assert after.is_set()
        assert outcome.status is RunStatus.PARTIAL
        assert outcome["other"] == "ran"
        assert "timeout=0.2" in outcome.failures[0].error
        assert scene.begun == outcome.failures[0].attempts == 2
        assert "early" not in outcome
        assert "late" not in outcome
        assert outcome.node_results["held"].result is None

    run(main())
    assert "module 'stubborn' of node 'held' ignores its cancellation" in caplog.text
    with looking_at(redis_server.url) as client:
        check_over(client, tmp_path.name, ["held", "other", "let_go"], [], status="partial")


def test_items_that_ignore_their_cancellation_fail_alone(redis_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        agent = agent_on(redis_url, max_concurrent_tasks=2)
        let_go = asyncio.Event()

        @agent.node
        def numbers() -> list[int]:
            return list(range(6))

        @agent.node(map_over="numbers", max_retries=1, timeout=0.2)
        async def double(number: int) -> int:
            while number == 0 and not let_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await let_go.wait()
            return number * 2

        @agent.node
        async def total(double: list[int]) -> int:
            let_go.set()
            return sum(double)

        outcome = await agent.run_task(task(), run_id=tmp_path.name)

        assert (outcome.status, outcome["total"]) == (RunStatus.PARTIAL, 30)
        assert [(failure.node, failure.item) for failure in outcome.failures] == [("double", 0)]

    run(main())


def test_answer_to_a_cancellation_does_not_count_as_a_result(redis_url: str, tmp_path: Path) -> None:
    agent = agent_on(redis_url)

    @agent.node(timeout=0.1, max_retries=1)
    async def answers() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "something"

    outcome = agent.run_task_sync(task(), run_id=tmp_path.name)

    assert outcome.status is RunStatus.FAILED
    assert "timeout=0.1" in outcome.failures[0].error


def test_sync_body_over_its_time_learns_of_it_and_its_result_is_not_taken(
    redis_url: str, tmp_path: Path
) -> None:
    from graphflow import is_cancelled

    agent = agent_on(redis_url, max_concurrent_tasks=1)
    told = threading.Event()

    @agent.node(timeout=0.1, max_retries=1)
    def spins() -> str:
        while not is_cancelled():
            told.wait(0.01)
        told.set()
        return "late"

    outcome = agent.run_task_sync(task(), run_id=tmp_path.name)

    assert told.wait(5)
    assert outcome.status is RunStatus.FAILED
    assert "spins" not in outcome


@pytest.mark.parametrize("kind", ["node", "step", "items", "batches", "items_with_state"])
def test_sync_bodies_that_work_beyond_their_time_never_exceed_the_concurrency_of_their_node(
    redis_url: str, tmp_path: Path, kind: str
) -> None:
    agent = agent_on(redis_url)
    at_work: list[int] = []
    most: list[int] = []

    def works(*_: object) -> None:
        at_work.append(1)
        most.append(len(at_work))
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            time.sleep(0.01)
            most.append(len(at_work))
        at_work.pop()

    def node() -> None:
        works()

    async def step(cache: Cache) -> None:
        await cache.step("works", works, key=1)

    def items(item: int) -> None:
        works()

    def items_with_state(item: int, task: object) -> None:
        works()

    options: dict[str, Any] = {"map_over": "numbers"} if kind not in ("node", "step") else {}
    body = {"node": node, "step": step, "items_with_state": items_with_state}.get(kind, items)
    if kind == "batches":
        options["batch_size"] = 1
    agent.node(name="work", timeout=0.1, max_retries=2, max_concurrency=1, **options)(body)

    outcome = agent.run_task_sync(task(), state={"numbers": [0, 1]}, run_id=tmp_path.name)

    assert outcome.failures[0].attempts == 2
    assert "timeout=0.1" in outcome.failures[0].error
    assert max(most) == 1


def test_sync_step_of_a_module_over_its_time_learns_of_it(redis_url: str, tmp_path: Path) -> None:
    from graphflow import is_cancelled

    agent = agent_on(redis_url)
    told = threading.Event()

    def spins() -> None:
        while not is_cancelled():
            time.sleep(0.01)
        told.set()

    @agent.node(timeout=0.1, max_retries=1)
    async def asks(cache: Cache) -> None:
        await cache.step("spins", spins, key=1)

    outcome = agent.run_task_sync(task(), run_id=tmp_path.name)

    assert told.wait(SOON_SECONDS)
    assert "timeout=0.1" in outcome.failures[0].error


def test_node_that_is_stopped_but_does_not_end_keeps_no_slot(redis_url: str, tmp_path: Path) -> None:
    """A map that fails with its first item stops the others while the run goes on."""

    async def main() -> None:
        agent = agent_on(redis_url, max_concurrent_tasks=2)
        let_go = asyncio.Event()

        @agent.node(map_over="numbers", on_item_error="fail", max_retries=1)
        async def double(number: int) -> int:
            if number == 0:
                raise ValueError("no zero")
            while not let_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await let_go.wait()
            return number

        @agent.node(run_when="settled", dependencies=["double"])
        async def report() -> str:
            await asyncio.sleep(0.1)
            return "said"

        outcome = await agent.run_task(task(), state={"numbers": [1, 0, 2]}, run_id=tmp_path.name)
        let_go.set()

        assert outcome["report"] == "said"

    run(main())


def test_process_ends_although_a_coroutine_never_does(redis_url: str, tmp_path: Path) -> None:
    program = tmp_path / "never.py"
    program.write_text(NEVER)

    ended = subprocess.run(
        [sys.executable, str(program), redis_url], capture_output=True, text=True, timeout=30, check=False
    )

    assert ended.stdout == "failed\n", ended.stderr
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "ignores its cancellation" in ended.stderr


NEVER = """
import asyncio, sys
from graphflow import Agent, RedisCache, Task

agent = Agent(cache=RedisCache(sys.argv[1]))

@agent.node(timeout=0.1, max_retries=1)
async def never():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

print(agent.run_task_sync(Task(type="never")).status)
"""
