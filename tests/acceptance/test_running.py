"""Running tasks through the public API: run ids, resuming, streaming, several at once, and what comes back."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from graphflow import Agent, AgentModule, NodeStatus, RunStatus, Task
from graphflow.entrance import driving
from graphflow.errors import InvalidName, PlanMismatch, RunInterrupted, RunNotFound, StateError, TaskMismatch
from graphflow.events import Event, NodeSucceeded, RunFinished, RunStarted
from tests.acceptance.support import agent_on, cancel, client, keys_of_run, module_node, task, until
from tests.helpers import run, wait_until
from tests.parallel_agent import naive_agent, numbers


def counting_agent(url: str, calls: list[int], **settings: Any) -> Agent:
    agent = agent_on(url, **settings)

    @agent.node
    def answer(task: Task) -> int:
        calls.append(task.params["x"])
        return int(task.params["x"]) + 1

    return agent


# Run ids


def test_finished_run_of_an_id_comes_back_without_running_again(redis_url: str) -> None:
    calls: list[int] = []

    first = counting_agent(redis_url, calls).run_task_sync(task(x=1), run_id="again-finished")
    second = counting_agent(redis_url, calls).run_task_sync(task(x=1), run_id="again-finished")

    assert calls == [1]
    assert first["answer"] == second["answer"] == 2
    assert second.status is RunStatus.COMPLETE
    assert second.result == 2
    assert second.node_results["answer"].attempts == 1


def test_failed_run_of_an_id_comes_back_with_its_failures_and_says_how_to_try_again(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(max_retries=2)
    def fails() -> None:
        raise ValueError("no")

    agent.run_task_sync(task(), run_id="again-failed")
    outcome = agent.run_task_sync(task(), run_id="again-failed")

    assert outcome.status is RunStatus.FAILED
    assert [str(failure) for failure in outcome.failures] == ["fails failed after 2 attempts: ValueError: no"]
    assert "to try again" in (outcome.error or "")
    assert "again-failed" in (outcome.error or "")


@pytest.mark.parametrize(
    "other",
    [
        Task(type="other", objective="show a behaviour", params={"x": 1}),
        Task(type="test", objective="another", params={"x": 1}),
        task(x=2),
    ],
    ids=["type", "objective", "params"],
)
def test_another_task_under_the_same_id_is_refused(redis_url: str, other: Task) -> None:
    calls: list[int] = []
    agent = counting_agent(redis_url, calls)
    run_id = agent.run_task_sync(task(x=1)).run_id

    with pytest.raises(TaskMismatch, match=run_id):
        agent.run_task_sync(other, run_id=run_id)

    assert calls == [1]


@pytest.mark.parametrize(
    ("state", "named"),
    [({"a": 1, "b": [3]}, "'b'"), ({"a": 1}, "'b'"), ({"a": 0, "c": 1}, "'a', 'b', 'c'"), (None, "'a', 'b'")],
    ids=["another value", "a key less", "other keys", "none"],
)
def test_another_initial_state_under_the_same_id_is_refused(
    redis_url: str, state: dict[str, object] | None, named: str
) -> None:
    calls: list[int] = []
    agent = counting_agent(redis_url, calls)
    run_id = agent.run_task_sync(task(x=1), state={"a": 1, "b": [2]}).run_id

    with pytest.raises(TaskMismatch, match=f"state differs in {named}\\)"):
        agent.run_task_sync(task(x=1), state=state, run_id=run_id)

    assert agent.run_task_sync(task(x=1), state={"b": [2], "a": 1}, run_id=run_id).is_complete
    assert calls == [1]


def test_drain_while_a_run_is_being_entered_lets_nothing_begin(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, begun = agent_on(redis_url), []
    take_lease = driving.take_lease

    async def drained_meanwhile(*args: Any) -> Any:
        held = await take_lease(*args)
        agent.drain()
        return held

    monkeypatch.setattr(driving, "take_lease", drained_meanwhile)

    @agent.node(map_over="items", max_concurrency=1)
    async def work(item: int) -> int:
        begun.append(item)
        return item

    with pytest.raises(RunInterrupted):
        agent.run_task_sync(task(), state={"items": [1, 2, 3]})
    assert begun == []


def test_initial_state_in_another_order_is_the_same(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    def look(ranks):
        return sorted(ranks)

    agent.run_task_sync(task(), state={"ranks": {"a": 1e16, "b": 2}}, run_id="ranks")
    again = agent.run_task_sync(task(), state={"ranks": {"b": 2, "a": 1e16}}, run_id="ranks")

    assert again.result == ["a", "b"]


def test_initial_state_that_is_no_dict_is_refused_in_a_sentence(redis_url: str) -> None:
    with pytest.raises(StateError, match=r"state= is a dict of values by key, not list"):
        counting_agent(redis_url, []).run_task_sync(task(x=1), state=["a"])  # type: ignore[arg-type]


def test_state_for_a_run_that_began_with_none_is_refused(redis_url: str) -> None:
    agent = counting_agent(redis_url, [])
    run_id = agent.run_task_sync(task(x=1)).run_id

    with pytest.raises(TaskMismatch, match="state differs in 'a'"):
        agent.run_task_sync(task(x=1), state={"a": 1}, run_id=run_id)


def test_run_that_does_not_know_its_initial_state_is_taken_as_it_is(redis_url: str) -> None:
    """As those of earlier versions."""
    agent = counting_agent(redis_url, [])
    run_id = agent.run_task_sync(task(x=1), state={"a": 1}).run_id
    with client(redis_url) as connection:
        connection.hdel(f"gf:run:{{{run_id}}}", "initial")
        connection.delete(f"gf:run:{{{run_id}}}:initial")

    assert agent.run_task_sync(task(x=1), state={"a": 2}, run_id=run_id)["a"] == 1


def test_another_graph_under_the_same_id_is_refused(redis_url: str) -> None:
    agent = counting_agent(redis_url, [])
    agent.run_task_sync(task(x=1), run_id="same-id-other-graph")
    agent.node(name="more")(lambda: None)

    with pytest.raises(PlanMismatch, match="same-id-other-graph"):
        agent.run_task_sync(task(x=1), run_id="same-id-other-graph")
    with pytest.raises(PlanMismatch):
        run(agent.resume("same-id-other-graph"))


def test_changed_body_of_a_function_is_the_same_graph(redis_url: str) -> None:
    before, after = agent_on(redis_url), agent_on(redis_url)
    before.node(name="answer")(lambda: 1)
    after.node(name="answer")(lambda: 2)

    before.run_task_sync(task(), run_id="same-graph")

    assert after.run_task_sync(task(), run_id="same-graph")["answer"] == 1


def test_run_id_that_cannot_be_a_key_is_refused(redis_url: str) -> None:
    with pytest.raises(InvalidName, match="run id"):
        counting_agent(redis_url, []).run_task_sync(task(x=1), run_id="no {braces} please")


def test_unknown_run_id_names_the_store_that_was_looked_in(redis_url: str) -> None:
    agent = counting_agent(redis_url, [])

    with pytest.raises(RunNotFound, match=r"redis\.sock"):
        run(agent.resume("never-was"))
    with pytest.raises(RunNotFound, match="never-was"):
        run(agent.state("never-was"))


def test_two_callers_of_one_run_id_share_one_run(redis_url: str) -> None:
    calls: list[int] = []
    agent = agent_on(redis_url)

    @agent.node
    async def slow() -> int:
        calls.append(1)
        await asyncio.sleep(0.1)
        return len(calls)

    async def main() -> list[Any]:
        both = await asyncio.gather(*(agent.run_task(task(), run_id="shared") for _ in range(2)))
        return [outcome["slow"] for outcome in both]

    assert run(main()) == [1, 1]
    assert calls == [1]


def test_run_says_its_id_and_how_to_resume_it(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="graphflow"):
        outcome = counting_agent(redis_url, []).run_task_sync(task(x=1))

    assert any(outcome.run_id in record.message and "run_id" in record.message for record in caplog.records)


# Interrupted and resumed


def test_cancelling_the_caller_leaves_a_run_that_resume_ends(redis_url: str) -> None:
    calls: list[str] = []

    def build(gate: asyncio.Event) -> Agent:
        agent = agent_on(redis_url)

        @agent.node
        async def first() -> str:
            calls.append("first")
            return "first"

        @agent.node
        async def second(first: str, cache: Any) -> str:
            calls.append("second")
            await cache.set("half", True)
            await gate.wait()
            return f"{first}, second"

        return agent

    async def main() -> None:
        gate = asyncio.Event()
        agent = build(gate)
        running = asyncio.create_task(agent.run_task(task(), run_id="cancelled"))
        await until(lambda: "second" in calls)
        await cancel(running)
        assert await agent.state("cancelled") == {"first": "first"}
        gate.set()

        outcome = await build(gate).resume("cancelled")

        assert outcome.status is RunStatus.COMPLETE
        assert outcome["second"] == "first, second"
        assert outcome["half"] is True
        assert outcome.node_results["second"].attempts == 1

    run(main())
    assert calls == ["first", "second", "second"]


def test_calling_again_with_the_run_id_resumes_an_interrupted_map(redis_url: str) -> None:
    done: list[int] = []
    is_open = False
    agent = agent_on(redis_url)

    @agent.node(map_over="items", max_concurrency=5)
    async def work(item: int) -> int:
        if item >= 10 and not is_open:
            await asyncio.sleep(60)
        done.append(item)
        return item

    async def main() -> None:
        nonlocal is_open
        items = {"items": list(range(20))}
        running = asyncio.create_task(agent.run_task(task(), state=items, run_id="interrupted-map"))
        with client(redis_url) as connection:
            await until(lambda: connection.hget("gf:run:{interrupted-map}:map:work", "done") == "10")
        await cancel(running)
        is_open = True

        outcome = await agent.run_task(task(), state=items, run_id="interrupted-map")

        assert outcome["work"] == list(range(20))

    run(main())
    assert sorted(done) == list(range(20))


def test_cancelling_the_caller_at_any_moment_stops_the_driving(redis_url: str) -> None:
    agent = agent_on(redis_url, max_total_iterations=1_000_000)

    @agent.node
    async def step(cache: Any) -> None:
        await cache.increment("steps")

    @agent.decide(after="step", to="step")
    async def again() -> str:
        return "step"

    async def main() -> None:
        for number in range(60):
            running = asyncio.create_task(agent.run_task(task(), run_id="cancelled-often"))
            for _ in range(number * 3):
                await asyncio.sleep(0)
            await cancel(running)

    run(main())


def test_resuming_a_finished_run_gives_its_result(redis_url: str) -> None:
    calls: list[int] = []
    agent = counting_agent(redis_url, calls)
    agent.run_task_sync(task(x=4), run_id="resume-finished")

    outcome = run(agent.resume("resume-finished"))

    assert outcome.result == 5
    assert outcome.task.params == {"x": 4}
    assert calls == [4]


def test_timer_of_a_retry_survives_an_interruption(redis_url: str) -> None:
    calls: list[int] = []
    agent = agent_on(redis_url)

    @agent.node(max_retries=4)
    async def fragile() -> str:
        calls.append(1)
        if len(calls) < 4:
            raise ValueError("not yet")
        return "now"

    async def main() -> None:
        running = asyncio.create_task(agent.run_task(task(), run_id="retry-interrupted"))
        with client(redis_url) as connection:
            await until(lambda: connection.hget("gf:run:{retry-interrupted}:nodes", "fragile") == "waiting")
        await cancel(running)

        outcome = await agent.resume("retry-interrupted")

        assert outcome["fragile"] == "now"
        assert outcome.node_results["fragile"].attempts == 4

    run(main())
    assert len(calls) == 4


# Sync door, several at once


def test_sync_call_works_in_a_running_loop_and_several_times(redis_url: str) -> None:
    agent = counting_agent(redis_url, [])

    async def notebook() -> list[Any]:
        return [agent.run_task_sync(task(x=number)).result for number in range(3)]

    assert run(notebook()) == [1, 2, 3]
    assert agent.run_task_sync(task(x=9)).result == 10
    assert agent.run_task_sync(task(x=10)).result == 11


def test_one_agent_runs_in_several_threads_at_once(redis_url: str) -> None:
    agent = naive_agent(redis_url)
    results: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: results.append(agent.run_task_sync(numbers(20))["final_results"]))
        for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [[2 * number for number in range(20)]] * 4


def test_one_agent_runs_many_tasks_at_once(redis_url: str) -> None:
    agent = counting_agent(redis_url, [])

    async def main() -> list[Any]:
        return [
            outcome.result
            for outcome in await asyncio.gather(*(agent.run_task(task(x=n)) for n in range(100)))
        ]

    assert run(main()) == list(range(1, 101))


def test_no_connection_and_no_thread_is_left_after_a_run(redis_url: str) -> None:
    agent = counting_agent(redis_url, [])
    with client(redis_url) as connection:
        before = len(connection.client_list())

        agent.run_task_sync(task(x=1))

        wait_until(lambda: len(connection.client_list()) <= before, what="the run's connections to close")
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("graphflow-")] == []


# Streaming


def test_stream_yields_the_events_in_order_up_to_the_end(redis_url: str) -> None:
    agent = counting_agent(redis_url, [])
    asked = task(x=1)

    async def main() -> list[Event]:
        return [event async for event in agent.stream(asked)]

    events = run(main())

    assert [event.kind for event in events] == ["RunStarted", "NodeStarted", "NodeSucceeded", "RunFinished"]
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].status == "complete"
    assert [event.revision for event in events] == sorted(event.revision for event in events)
    assert asked.status == "complete"
    assert asked.result == 2


def test_stream_yields_while_the_run_goes_on(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def first() -> None: ...

    gate: list[asyncio.Event] = []

    @agent.node
    async def second(first: None) -> None:
        await gate[0].wait()

    async def main() -> None:
        gate.append(asyncio.Event())
        async for event in agent.stream(task()):
            if isinstance(event, NodeSucceeded) and event.node == "first":
                assert not gate[0].is_set()
                gate[0].set()

    run(asyncio.wait_for(main(), 10))
    assert gate[0].is_set()


def test_leaving_the_stream_stops_the_driving_and_the_run_can_be_resumed(redis_url: str) -> None:
    agent = agent_on(redis_url)
    gate: list[asyncio.Event] = []

    @agent.node
    async def waits() -> str:
        await gate[0].wait()
        return "done"

    async def main() -> None:
        gate.append(asyncio.Event())
        events = agent.stream(task(), run_id="left-stream")
        async for _ in events:
            break
        await events.aclose()  # type: ignore[attr-defined]
        with client(redis_url) as connection:
            assert connection.hget("gf:run:{left-stream}", "status") == "executing"
        gate[0].set()
        assert (await agent.resume("left-stream"))["waits"] == "done"

    run(main())


def test_stream_of_a_refused_graph_raises_and_does_not_hang(redis_url: str) -> None:
    agent = counting_agent(redis_url, [])
    agent.run_task_sync(task(x=1), run_id="stream-refused")

    async def main() -> None:
        async for _ in agent.stream(task(x=2), run_id="stream-refused"):
            pass

    with pytest.raises(TaskMismatch):
        run(asyncio.wait_for(main(), 10))


def test_stream_of_a_finished_run_tells_its_story_again(redis_url: str) -> None:
    agent = counting_agent(redis_url, [])
    agent.run_task_sync(task(x=1), run_id="stream-finished")

    async def main() -> list[str]:
        return [event.kind async for event in agent.stream(task(x=1), run_id="stream-finished")]

    assert run(main()) == ["RunStarted", "NodeStarted", "NodeSucceeded", "RunFinished"]


# What comes back


def test_missing_value_says_why_it_is_missing(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(max_retries=1, outputs=["page"])
    def fetch() -> None:
        raise ConnectionError("no network")

    @agent.node
    def parse(fetch: None) -> None: ...

    @agent.node
    def combine(parse: None) -> None: ...

    outcome = agent.run_task_sync(task())

    with pytest.raises(
        KeyError, match=r"combine never ran: it waits for parse, and fetch failed: ConnectionError"
    ):
        outcome["combine"]
    with pytest.raises(KeyError, match=r"page was not set: fetch failed"):
        outcome["page"]
    with pytest.raises(KeyError, match="no state key 'other'"):
        outcome["other"]
    assert outcome.get("combine", "instead") == "instead"


def test_node_results_can_be_subscripted_as_dicts_are(redis_url: str) -> None:
    class Fetch(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            return {"status": "success", "result": {"pages": 3}}

    class Fails(AgentModule):
        async def process(self, cache, semaphore):  # type: ignore[no-untyped-def]
            return {"status": "error", "error": "no such page"}

    agent = agent_on(redis_url)
    agent.add_multiple_nodes([module_node("fetch", Fetch()), module_node("fails", Fails(), max_retries=1)])

    outcome = agent.run_task_sync(task())

    assert agent.node_results["fetch"]["status"] == "succeeded"
    assert agent.node_results["fetch"]["result"] == {"pages": 3}
    assert agent.node_results["fetch"]["results"][0]["result"] == {"pages": 3}
    assert agent.node_results["fails"]["status"] is NodeStatus.FAILED
    assert "no such page" in agent.node_results["fails"]["error"]
    assert outcome.node_results["fetch"].visits == 1
    assert outcome.node_results["fetch"].seconds >= 0
    assert set(outcome.node_results) == {"fetch", "fails"}
    with pytest.raises(KeyError):
        outcome.node_results["nobody"]


def test_state_of_a_run_can_be_read_while_it_goes_on_and_afterwards(redis_url: str) -> None:
    agent = agent_on(redis_url)
    gate: list[asyncio.Event] = []
    is_waiting = threading.Event()

    @agent.node
    async def first(cache: Any) -> str:
        await cache.set("key", [1, 2])
        return "first"

    @agent.node
    async def second(first: str) -> str:
        is_waiting.set()
        await gate[0].wait()
        return "second"

    async def main() -> tuple[dict[str, Any], dict[str, Any]]:
        gate.append(asyncio.Event())
        running = asyncio.create_task(agent.run_task(task(), run_id="looked-at", state={"given": 1}))
        await until(is_waiting.is_set)
        during = await agent.state("looked-at")
        gate[0].set()
        await running
        return during, await agent.state("looked-at")

    during, afterwards = run(main())

    assert during == {"given": 1, "key": [1, 2], "first": "first"}
    assert afterwards == {**during, "second": "second"}


def test_results_of_several_end_nodes_come_by_name(redis_url: str) -> None:
    agent = agent_on(redis_url)
    agent.node(name="start")(lambda: 0)
    agent.node(name="a", dependencies=["start"])(lambda: 1)
    agent.node(name="b", dependencies=["start"])(lambda: 2)

    assert agent.run_task_sync(task()).result == {"a": 1, "b": 2}


def test_run_leaves_no_lease_and_expiring_keys_only(redis_url: str) -> None:
    agent = counting_agent(redis_url, [])

    outcome = agent.run_task_sync(task(x=1), run_id="left-keys")

    with client(redis_url) as connection:
        keys = keys_of_run(redis_url, outcome.run_id)
        assert keys
        assert not [key for key in keys if key.endswith((":lease", ":inbox"))]
        assert connection.zscore("gf:runs:open", outcome.run_id) is None
        assert connection.zscore("gf:runs", outcome.run_id) is not None


def test_default_agent_name_is_that_of_its_file_and_run_ids_are_readable(redis_url: str) -> None:
    outcome = counting_agent(redis_url, []).run_task_sync(task("numbers", x=1))
    named = counting_agent(redis_url, [], name="doubler").run_task_sync(task("numbers", x=1))

    assert outcome.run_id.startswith("numbers-")
    assert named.run_id.startswith("doubler-")
