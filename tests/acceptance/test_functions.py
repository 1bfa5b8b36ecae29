"""Functions as nodes: parameters by name, sync and async, decisions, limits, failures of every kind."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphflow import END, Agent, AgentModule, NodeStatus, NonRetryableException, RunStatus
from tests.acceptance.support import agent_on, module_node, task, within
from tests.helpers import SOON_SECONDS, run


@pytest.fixture
def agent(redis_url: str) -> Agent:
    return agent_on(redis_url)


def test_parameters_are_filled_by_name(agent: Agent) -> None:
    @agent.node(outputs=["limit"])
    async def settings(cache: Any) -> str:
        await cache.set("limit", 3)
        return "set"

    @agent.node(inputs=["later"])
    async def gather(
        task: Any,
        cache: Any,
        semaphore: asyncio.Semaphore,
        settings: str,
        limit: int,
        given: str,
        later: Any = 5,
        own: int = 7,
    ) -> list[Any]:
        async with semaphore:
            return [task.params["x"], await cache.get("given"), settings, limit, given, later, own]

    outcome = agent.run_task_sync(task(x=1), state={"given": "state"})

    assert outcome["gather"] == [1, "state", "set", 3, "state", 5, 7]


def test_result_of_a_function_is_its_node_result_and_its_state_key(agent: Agent) -> None:
    @agent.node
    def nothing() -> None: ...

    @agent.node
    async def reads_it(nothing: None, cache: Any) -> list[Any]:
        return [nothing, await cache.get("nothing"), await cache.exists("nothing")]

    outcome = agent.run_task_sync(task())

    assert outcome["nothing"] is None
    assert "nothing" in outcome
    assert outcome["reads_it"] == [None, None, True]


def test_status_means_nothing_in_what_a_function_returns(agent: Agent) -> None:
    @agent.node
    def answer() -> dict[str, str]:
        return {"status": "failed", "error": "of the page that was read"}

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["answer"] == {"status": "failed", "error": "of the page that was read"}


def test_decorated_function_stays_a_plain_function(agent: Agent) -> None:
    @agent.node(max_retries=5)
    def add(left: int = 1, right: int = 2) -> int:
        return left + right

    assert add(3, 4) == 7


def test_sync_functions_run_in_threads_at_the_same_time(agent: Agent) -> None:
    both = threading.Barrier(2, timeout=30)

    @agent.node
    def one() -> str:
        both.wait()
        return threading.current_thread().name

    @agent.node
    def two() -> str:
        both.wait()
        return threading.current_thread().name

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["one"] != outcome["two"]
    assert threading.current_thread().name not in (outcome["one"], outcome["two"])


def test_sync_function_in_a_map_runs_in_several_threads(agent: Agent) -> None:
    together = threading.Barrier(4, timeout=30)

    @agent.node(map_over="items")
    def names(item: int) -> str:
        together.wait()
        return threading.current_thread().name

    outcome = agent.run_task_sync(task(), state={"items": list(range(8))})

    assert outcome.status is RunStatus.COMPLETE
    assert len(set(outcome["names"])) >= 4


def test_context_set_in_one_item_is_not_seen_in_another(agent: Agent) -> None:
    colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="white")
    colour.set("green")

    @agent.node(map_over="items", max_concurrency=1)
    async def asynchronous(item: int) -> str:
        seen = colour.get()
        colour.set(f"red {item}")
        return seen

    @agent.node(map_over="items")
    def in_threads(item: int) -> str:
        seen = colour.get()
        colour.set(f"blue {item}")
        return seen

    outcome = agent.run_task_sync(task(), state={"items": list(range(20))})

    assert set(outcome["asynchronous"]) == {"green"}
    assert set(outcome["in_threads"]) == {"green"}
    assert colour.get() == "green"


# Decisions


def test_decision_starts_what_it_names_and_skips_the_rest(agent: Agent) -> None:
    @agent.node
    def question() -> int:
        return 7

    @agent.decide(after="question", to=["small", "large"])
    def size(question: int) -> str:
        return "small" if question < 10 else "large"

    @agent.node(dependencies=["size"])
    def small(question: int) -> str:
        return f"{question} is small"

    @agent.node(dependencies=["size"])
    def large(question: int) -> str:
        return f"{question} is large"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["small"] == "7 is small"
    assert outcome.node_results["large"].status is NodeStatus.SKIPPED


@pytest.mark.parametrize(
    "write",
    [
        lambda agent, choose: agent.decide(choose),
        lambda agent, choose: agent.decide()(choose),
        lambda agent, choose: agent.decide(after="a")(choose),
        lambda agent, choose: agent.decide(to=None)(choose),
        lambda agent, choose: agent.decide("left")(choose),
    ],
    ids=["no parentheses", "empty parentheses", "only after=", "to=None", "a name in the place of to="],
)
def test_decision_that_does_not_say_where_it_leads_is_told_what_is_missing(agent: Agent, write: Any) -> None:
    def choose():
        return "left"

    with pytest.raises(
        TypeError, match=r"lacks to=, the nodes that the function may choose, as @agent.decide\(to="
    ):
        write(agent, choose)


def test_name_of_a_node_that_is_not_given_by_name_is_told_how(agent: Agent) -> None:
    with pytest.raises(TypeError, match=r"@agent.node\(name='fetch'\)"):
        agent.node("fetch")  # type: ignore[call-overload]


def test_decision_for_a_list_starts_all_of_them(agent: Agent) -> None:
    @agent.decide(to=["a", "b", "c"])
    def pick() -> list[str]:
        return ["a", "c"]

    for name in "abc":
        agent.node(name=name, dependencies=["pick"])(lambda: "ran")

    outcome = agent.run_task_sync(task())

    assert {name for name in "abc" if name in outcome} == {"a", "c"}
    assert outcome.result == {"a": "ran", "c": "ran"}


def test_decision_for_end_stops_what_runs_and_completes(agent: Agent) -> None:
    ended: list[str] = []

    @agent.node
    async def slow() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "too late"

    @agent.node
    def answer() -> int:
        return 42

    @agent.decide(after="answer", to=[])
    def enough() -> str:
        return END

    started = time.monotonic()
    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["answer"] == 42
    assert "slow" not in outcome
    assert ended == ["cancelled"]
    assert time.monotonic() - started < SOON_SECONDS


def test_decision_for_none_falls_through_to_all_dependents(agent: Agent) -> None:
    @agent.decide(to=["a", "b"])
    def pick() -> None:
        return None

    for name in "ab":
        agent.node(name=name, dependencies=["pick"])(lambda: "ran")

    outcome = agent.run_task_sync(task())

    assert [outcome["a"], outcome["b"]] == ["ran", "ran"]


def test_wrong_name_in_a_decision_fails_the_node_and_names_the_neighbours(agent: Agent) -> None:
    calls: list[str] = []

    @agent.decide(to=["small", "large"])
    def pick() -> str:
        calls.append("pick")
        return "smal"

    for name in ("small", "large"):
        agent.node(name=name, dependencies=["pick"])(lambda: "ran")

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert outcome.failures[0].node == "pick"
    assert "'smal'" in outcome.failures[0].error
    assert "small" in outcome.failures[0].error
    assert len(calls) == 1


def test_loop_of_decisions_runs_until_the_condition_is_met(agent: Agent) -> None:
    @agent.node
    async def step(cache: Any) -> int:
        number = int(await cache.get("number", 0)) + 1
        await cache.set("number", number)
        return number

    @agent.decide(after="step", to=["step", "report"])
    def enough(step: int) -> str:
        return "step" if step < 10 else "report"

    @agent.node(start=False)
    def report(step: int) -> str:
        return f"after {step} steps"

    outcome = agent.run_task_sync(task())

    assert outcome["report"] == "after 10 steps"
    assert outcome.node_results["step"]["visits"] == 10


# Failures


class Forever(AgentModule):
    async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
        await cache.set("started", True)
        await asyncio.sleep(60)


def test_module_over_its_timeout_is_tried_again_and_then_failed(agent: Agent) -> None:
    agent.add_node(module_node("sleeps", Forever(config=within(0.1)), max_retries=2))

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert outcome.failures[0].attempts == 2
    assert "timeout=0.1" in outcome.failures[0].error
    assert "started" not in outcome
    assert outcome.seconds < SOON_SECONDS


def test_function_over_its_timeout_is_tried_again(agent: Agent) -> None:
    calls: list[int] = []

    @agent.node(timeout=0.1)
    async def sleeps_once() -> str:
        calls.append(1)
        await asyncio.sleep(60 if len(calls) == 1 else 0)
        return "the second time"

    assert agent.run_task_sync(task())["sleeps_once"] == "the second time"


def test_sync_function_over_its_timeout_frees_its_slot_and_its_thread(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=1)
    release = threading.Event()

    @agent.node(timeout=0.1, max_retries=2)
    def blocks() -> None:
        release.wait(60)

    @agent.node(timeout=5)
    def other() -> str:
        return "ran"

    outcome = agent.run_task_sync(task())
    release.set()

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["other"] == "ran"
    assert "timeout=0.1" in outcome.failures[0].error
    assert outcome.seconds < SOON_SECONDS


def test_process_ends_although_a_sync_function_hangs(redis_url: str, tmp_path: Path) -> None:
    program = tmp_path / "hangs.py"
    program.write_text(HANGS)

    ended = subprocess.run(
        [sys.executable, str(program), redis_url], capture_output=True, text=True, timeout=30, check=False
    )

    assert ended.stdout == "failed\n", ended.stderr
    assert ended.returncode == 0


HANGS = """
import sys, threading
from graphflow import Agent, RedisCache, Task

agent = Agent(cache=RedisCache(sys.argv[1]))

@agent.node(timeout=0.1, max_retries=1)
def hangs():
    threading.Event().wait()

print(agent.run_task_sync(Task(type="hangs")).status)
"""


def test_non_retryable_exception_fails_at_once(agent: Agent) -> None:
    calls: list[int] = []

    @agent.node(max_retries=5)
    def refuses() -> None:
        calls.append(1)
        raise NonRetryableException("the account is closed")

    outcome = agent.run_task_sync(task())

    assert len(calls) == 1
    assert outcome.failures[0].error == "NonRetryableException: the account is closed"
    assert outcome.failures[0].attempts == 1


def test_retry_on_failure_false_allows_one_attempt(agent: Agent) -> None:
    calls: list[int] = []

    @agent.node(retry_on_failure=False)
    def fails() -> None:
        calls.append(1)
        raise ValueError("no")

    agent.run_task_sync(task())

    assert len(calls) == 1


def test_reported_failure_of_a_module_is_tried_again(agent: Agent) -> None:
    calls: list[int] = []

    class Reports(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            calls.append(1)
            await cache.set("calls", len(calls))
            if len(calls) < 3:
                return {"status": "error", "error": "not yet"}
            return {"status": "success", "result": "now"}

    agent.add_node(module_node("reports", Reports()))

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome.node_results["reports"].result == "now"
    assert outcome.node_results["reports"].attempts == 3
    assert outcome["calls"] == 3


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


class OwnBaseException(BaseException):
    pass


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ValueError("plain"), "ValueError"),
        (lambda: SystemExit(3), "SystemExit"),
        (lambda: KeyboardInterrupt(), "KeyboardInterrupt"),
        (lambda: asyncio.CancelledError(), "CancelledError"),
        (lambda: OwnBaseException("own"), "OwnBaseException"),
        (lambda: ExceptionGroup("several", [ValueError("one"), TypeError("two")]), "ExceptionGroup"),
        (lambda: BaseExceptionGroup("several", [KeyboardInterrupt()]), "BaseExceptionGroup"),
        (lambda: UnprintableError(), "UnprintableError"),
        (lambda: StopIteration(1), "StopIteration"),
        (lambda: StopAsyncIteration(1), "StopAsyncIteration"),
        (lambda: GeneratorExit(), "GeneratorExit"),
        (lambda: ValueError("x" * 1_000_000), "ValueError"),
        (lambda: ValueError("\ud800 is half a character"), "ValueError"),
        (lambda: TimeoutError("its own"), "TimeoutError"),
        (lambda: MemoryError(), "MemoryError"),
        (lambda: RecursionError("deep"), "RecursionError"),
    ],
)
@pytest.mark.parametrize("kind", ["coroutine", "thread", "item", "thread item"])
def test_whatever_a_body_raises_is_a_failure_as_data(
    agent: Agent, make: Callable[[], BaseException], name: str, kind: str
) -> None:
    async def coroutine() -> None:
        _raise(make())

    def thread() -> None:
        _raise(make())

    async def item(one: int) -> None:
        _raise(make())

    def thread_item(one: int) -> None:
        _raise(make())

    body = {"coroutine": coroutine, "thread": thread, "item": item, "thread item": thread_item}[kind]
    options = {"map_over": "items"} if "item" in kind else {}
    agent.node(name="raises", max_retries=2, **options)(body)  # type: ignore[call-overload]

    @agent.node
    def healthy() -> str:
        return "alive"

    outcome = run(asyncio.wait_for(agent.run_task(task(), state={"items": [1]}), 10))

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["healthy"] == "alive"
    failure = outcome.failures[0]
    assert failure.attempts == 2
    assert name in failure.error
    assert len(failure.error) < 2_000


def test_failure_hands_over_to_the_error_handler_with_the_errors_key(agent: Agent) -> None:
    @agent.node(max_retries=2, on_error="handler")
    def fragile() -> None:
        raise ValueError("broke")

    @agent.node(inputs=["errors"])
    def handler(errors: list[dict[str, Any]]) -> str:
        return f"{errors[0]['node']}: {errors[0]['error']}"

    @agent.node
    def beside() -> str:
        return "fine"

    outcome = agent.run_task_sync(task())

    assert outcome["handler"] == "fragile: ValueError: broke"
    assert outcome["errors"] == [
        {"node": "fragile", "item": None, "error": "ValueError: broke", "attempts": 2}
    ]
    assert outcome.status is RunStatus.PARTIAL


def test_error_handler_is_skipped_when_nothing_failed(agent: Agent) -> None:
    @agent.node(on_error="handler")
    def sturdy() -> str:
        return "held"

    @agent.node
    def handler() -> str:
        return "never"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome.node_results["handler"].status is NodeStatus.SKIPPED
    assert "errors" not in outcome


def test_node_that_succeeds_after_its_error_handler_makes_the_run_complete(agent: Agent) -> None:
    @agent.node(start=True, on_error="repair")
    async def fragile(cache: Any) -> str:
        if not await cache.get("repaired", False):
            raise NonRetryableException("broke")
        return "works"

    @agent.node
    async def repair(cache: Any) -> None:
        await cache.set("repaired", True)

    @agent.decide(after="repair", to="fragile")
    def once_more() -> str:
        return "fragile"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["fragile"] == "works"


# Limits


def test_deadline_ends_the_run_and_is_named(redis_url: str) -> None:
    agent = agent_on(redis_url, deadline=0.2)

    @agent.node
    async def slow() -> None:
        await asyncio.sleep(60)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert "deadline=0.2" in (outcome.error or "")
    assert outcome.seconds < SOON_SECONDS


def test_max_visits_ends_the_run_and_is_named(agent: Agent) -> None:
    @agent.node(max_visits=3)
    def step() -> str:
        return "again"

    @agent.decide(after="step", to="step")
    def for_ever() -> str:
        return "step"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert "'step'" in (outcome.error or "")
    assert "max_visits=3" in (outcome.error or "")
    assert outcome.node_results["step"].visits == 3


def test_endless_loop_ends_at_the_default_limit(agent: Agent) -> None:
    @agent.node
    def step() -> str:
        return "again"

    @agent.decide(after="step", to="step")
    async def for_ever() -> str:
        return "step"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert "max_total_iterations=120" in (outcome.error or "")


def test_module_runs_never_exceed_the_slots(redis_url: str) -> None:
    agent = agent_on(redis_url, max_concurrent_tasks=3)
    running, most = 0, 0

    async def body() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    for number in range(12):
        agent.node(name=f"n{number}")(body)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert most == 3


# Modules in a node


class Says(AgentModule):
    word: str
    fails: bool = False
    wait: float = 0

    async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
        await asyncio.sleep(self.wait)
        if self.fails:
            raise ValueError(self.word)
        await cache.append("said", self.word)
        return self.word


def test_modules_of_a_node_run_one_after_another(agent: Agent) -> None:
    agent.add_node(module_node("talk", Says(word="one", wait=0.03), Says(word="two")))

    outcome = agent.run_task_sync(task())

    assert outcome["said"] == ["one", "two"]
    assert outcome.node_results["talk"].result == "two"
    assert [module["result"] for module in outcome.node_results["talk"]["results"]] == ["one", "two"]


def test_stop_on_success_leaves_out_the_modules_after_it(agent: Agent) -> None:
    first = Says(word="one", config={"stop_on_success": True})
    agent.add_node(module_node("talk", first, Says(word="two")))

    outcome = agent.run_task_sync(task())

    assert outcome["said"] == ["one"]
    assert outcome.node_results["talk"].result == "one"
    assert [module.status for module in outcome.node_results["talk"].results] == [
        NodeStatus.SUCCEEDED,
        NodeStatus.SKIPPED,
    ]


def test_parallel_modules_run_at_the_same_time(agent: Agent) -> None:
    both = asyncio.Barrier(2)

    class Meets(Says):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            await both.wait()
            return await super().process(cache, semaphore)

    agent.add_node(
        module_node(
            "talk",
            Meets(word="one", config=within(SOON_SECONDS)),
            Meets(word="two", config=within(SOON_SECONDS)),
            Says(word="three"),
            parallel=True,
        )
    )

    outcome = agent.run_task_sync(task())

    assert sorted(outcome["said"]) == ["one", "three", "two"]
    assert outcome.node_results["talk"].result == "three"


def test_other_parallel_modules_finish_before_the_node_fails(agent: Agent) -> None:
    agent.add_node(
        module_node(
            "talk", Says(word="broken", fails=True), Says(word="two", wait=0.05), parallel=True, max_retries=1
        )
    )

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert outcome["said"] == ["two"]
    assert outcome.node_results["talk"].results[1].status is NodeStatus.SUCCEEDED


def test_committed_modules_of_a_visit_do_not_run_again(agent: Agent) -> None:
    calls: list[str] = []

    class Once(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            calls.append(self.name)
            if self.name == "second" and calls.count("second") == 1:
                raise ValueError("the first time")

    agent.add_node(module_node("talk", Once(name="first"), Once(name="second")))

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE
    assert calls == ["first", "second", "second"]


def test_parallel_modules_respect_the_concurrency_of_their_node(agent: Agent) -> None:
    running, most = 0, 0

    class Counts(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1

    modules = [Counts() for _ in range(6)]
    agent.add_node(module_node("talk", *modules, parallel=True, max_concurrency=2))

    assert agent.run_task_sync(task()).status is RunStatus.COMPLETE
    assert most == 2
