"""An agent as a node's module: its graph is run inside, with keys, limits and failures of its own (rule 17)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from graphflow import Agent, InvalidGraph, Node, NodeConfig, RunStatus
from tests.acceptance.support import agent_on, client, keys_of_run, task


def research(calls: list[str] | None = None, **settings: Any) -> Agent:
    """Two nodes: plan reads the topic that it is given, write its result."""
    inner = Agent(name="inner", **settings)

    @inner.node
    async def plan(cache, topic):
        if calls is not None:
            calls.append("plan")
        await cache.set("notes", [topic])
        return f"plan of {topic}"

    @inner.node(outputs=["summary"])
    async def write(cache, plan):
        if calls is not None:
            calls.append("write")
        await cache.set("summary", plan.upper())
        return {"by": (await cache.get("task")).type, "given": (await cache.get("task")).params}

    return inner


def team(url: str, inner: Agent, **config: Any) -> Agent:
    agent = agent_on(url)

    @agent.node(outputs=["query"])
    async def ask(cache):
        await cache.set("query", "bees")
        return "asked"

    agent.node(name="research", inputs={"topic": "query"}, outputs={"report": "summary"}, **config)(inner)

    @agent.node
    def tell(research, report):
        return [research, report]

    return agent


def test_an_agent_in_a_node_runs_on_keys_of_its_own_and_gives_what_the_node_says(redis_url: str) -> None:
    agent = team(redis_url, research())

    outcome = agent.run_task_sync(task(), run_id="a-sub-graph")

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["tell"] == [{"by": "research", "given": {"topic": "bees"}}, "PLAN OF BEES"]
    assert outcome["research/notes"] == ["bees"]
    assert outcome.node_results["research/plan"].result == "plan of bees"
    assert outcome.node_results["research"].result == {"by": "research", "given": {"topic": "bees"}}
    assert "notes" not in outcome
    with client(redis_url) as connection:
        assert connection.hget("gf:run:{a-sub-graph}:nodes", "research/write") == "succeeded"
        assert connection.hget("gf:run:{a-sub-graph}:node:research", "iterations") == "2"


def test_the_same_agent_twice_has_two_graphs(redis_url: str) -> None:
    inner, agent = research(), agent_on(redis_url)
    for name in ("first", "second"):
        agent.node(name=name, inputs={"topic": f"'{name}'"}, outputs={f"{name}_report": "summary"})(inner)

    outcome = agent.run_task_sync(task())

    assert (outcome["first_report"], outcome["second_report"]) == ("PLAN OF FIRST", "PLAN OF SECOND")
    assert outcome["first"] == {"by": "first", "given": {"topic": "first"}}


def test_three_levels_are_entered_one_in_another(redis_url: str) -> None:
    middle = Agent(name="middle")
    middle.node(name="deep", inputs=["topic"], outputs={"report": "summary"})(research())
    agent = agent_on(redis_url)
    agent.node(name="outer", inputs={"topic": "'ants'"}, outputs={"out": "report"})(middle)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["out"] == "PLAN OF ANTS"
    assert outcome.node_results["outer/deep/plan"].result == "plan of ants"
    assert outcome["outer"] == {"by": "deep", "given": {"topic": "ants"}}


def test_a_failed_graph_is_one_failed_attempt_and_is_entered_anew(redis_url: str) -> None:
    inner, seen = Agent(name="inner"), []

    @inner.node
    async def first(cache):
        seen.append(await cache.get("left", None))
        await cache.set("left", "over")

    @inner.node(max_retries=1)
    async def second(first):
        if len(seen) < 2:
            raise RuntimeError("too early")
        return "done"

    agent = agent_on(redis_url)
    agent.node(name="inside", max_retries=2)(inner)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["inside"] == "done"
    assert seen == [None, None]
    assert outcome.node_results["inside"].attempts == 2


def test_a_graph_that_failed_for_good_names_the_node_inside_and_starts_on_error(redis_url: str) -> None:
    inner, agent = Agent(name="inner"), agent_on(redis_url)

    @inner.node(max_retries=1)
    async def breaks():
        raise RuntimeError("broken")

    agent.node(name="inside", on_error="mend")(inner)

    @agent.node(inputs=["errors"])
    def mend(errors):
        return errors

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.PARTIAL
    [entry] = outcome["mend"]
    assert entry["node"] == "inside"
    assert entry["attempts"] == 1
    assert entry["error"] == "SubgraphFailed: node 'inside/breaks' failed: RuntimeError: broken"
    assert [failure.node for failure in outcome.failures] == ["inside", "inside/breaks"]


def test_end_inside_ends_the_graph_in_which_it_stands(redis_url: str) -> None:
    inner, agent = Agent(name="inner"), agent_on(redis_url)

    @inner.decide(to=["never"])
    def stop():
        return "END"

    @inner.node
    def never():
        raise AssertionError

    agent.node(name="inside")(inner)

    @agent.node
    def after(inside):
        return "went on"

    outcome = agent.run_task_sync(task())

    assert outcome["after"] == "went on"
    assert outcome.node_results["inside/never"].status == "pending"
    assert outcome.explain("inside/never").startswith("inside/never")


def test_a_limit_inside_fails_the_sub_graph_only(redis_url: str) -> None:
    inner, agent = Agent(name="inner", max_total_iterations=1), agent_on(redis_url)

    @inner.node
    def one():
        return 1

    @inner.node
    def two(one):
        return 2

    agent.node(name="inside")(inner)

    @agent.node(run_when="settled", dependencies=["inside"])
    async def after():
        return "went on"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.PARTIAL
    assert outcome["after"] == "went on"
    assert "sub-graph 'inside' reached max_total_iterations=1" in str(outcome.node_results["inside"].error)


def test_a_deadline_inside_fails_the_attempt_and_stops_what_runs(redis_url: str) -> None:
    inner, agent, stopped = Agent(name="inner", deadline=0.05), agent_on(redis_url), []

    @inner.node
    async def lasts():
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append("lasts")

    agent.node(name="inside")(inner)

    @agent.node(run_when="settled", dependencies=["inside"])
    async def after():
        return "went on"

    outcome = agent.run_task_sync(task())

    assert outcome["after"] == "went on"
    assert "reached deadline=0.05 s" in str(outcome.node_results["inside"].error)
    assert stopped == ["lasts"]


def test_a_graph_that_waits_for_a_message_that_nobody_sends_fails_and_the_run_goes_on(redis_url: str) -> None:
    inner, agent = Agent(name="inner"), agent_on(redis_url)

    @inner.node(max_retries=1)
    async def waits(cache):
        return await cache.get_message("box")

    agent.node(name="inside")(inner)

    @agent.node(run_when="settled", dependencies=["inside"])
    async def after():
        return "went on"

    outcome = agent.run_task_sync(task())

    assert outcome["after"] == "went on"
    assert "waits for a message in 'inside/box'" in str(outcome.node_results["inside"].error)


def test_a_slot_of_each_graph_around_is_needed(redis_url: str) -> None:
    inner, agent = Agent(name="inner", max_concurrent_tasks=1), agent_on(redis_url)
    at_work, most = [0], [0]

    async def works() -> None:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        at_work[0] -= 1

    for number in range(5):
        inner.node(name=f"n{number}")(works)
    agent.node(name="inside")(inner)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert most == [1]


def test_a_run_is_suspended_by_a_signal_inside_and_another_process_goes_on(redis_url: str) -> None:
    def made() -> Agent:
        inner, agent = Agent(name="inner"), agent_on(redis_url, name="asks")

        @inner.node
        async def asks(cache):
            return await cache.wait_for_signal("approve")

        agent.node(name="research")(inner)

        @agent.node
        def after(research):
            return research

        return agent

    async def main() -> None:
        first = await made().run_task(task(), run_id="asks-inside")
        assert first.status is RunStatus.SUSPENDED
        assert "graphflow signal asks-inside research/approve JSON" in str(first.error)
        assert "research/asks is active" in first.explain("research")
        await made().signal("asks-inside", "research/approve", "yes")
        second = await made().resume("asks-inside")
        assert second.status is RunStatus.COMPLETE, second.error
        assert second["after"] == "yes"

    asyncio.run(main())


def test_messages_inside_stay_inside(redis_url: str) -> None:
    inner, agent = Agent(name="inner"), agent_on(redis_url)

    @inner.node
    async def sends(cache):
        await cache.publish_to_mailbox("box", 1)

    @inner.node
    async def takes(cache):
        return await cache.get_message("box")

    agent.node(name="inside")(inner)

    outcome = agent.run_task_sync(task(), run_id="messages-inside")

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["inside"] == {"sends": None, "takes": 1}
    with client(redis_url) as connection:
        assert connection.hget("gf:run:{messages-inside}", "mailboxes") == '["inside/box"]'


def test_a_second_visit_begins_anew(redis_url: str) -> None:
    inner, agent, seen = Agent(name="inner"), agent_on(redis_url), []

    @inner.node
    async def counts(cache):
        seen.append(await cache.get("count", 0))
        await cache.increment("count")

    @agent.node(outputs=["n"])
    async def begin(cache):
        await cache.increment("n")

    agent.node(name="inside", dependencies=["begin"])(inner)

    @agent.decide(to="begin", after="inside")
    async def again(cache):
        return "begin" if await cache.get("n") < 3 else None

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert seen == [0, 0, 0]
    assert outcome.node_results["inside/counts"].visits == 3


def test_the_graph_around_neither_reads_nor_writes_what_is_inside(redis_url: str) -> None:
    agent, seen = team(redis_url, research()), {}

    @agent.node
    async def looks(cache, tell):
        seen["keys"] = await cache.keys()
        for call in (cache.get("research/notes", None), cache.set("research/notes", 1)):
            with pytest.raises(Exception, match="inside of the sub-graph 'research'"):
                await call

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert seen["keys"] == ["ask", "query", "report", "research", "tell"]


@pytest.mark.parametrize("cancels", [False, True])
def test_a_cancel_reaches_what_runs_inside(redis_url: str, cancels: bool) -> None:
    inner, agent, stopped = Agent(name="inner"), agent_on(redis_url), []

    async def main() -> None:
        started = asyncio.Event()

        @inner.node
        async def lasts():
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                stopped.append("lasts")

        agent.node(name="inside")(inner)

        @agent.node
        async def ends():
            await started.wait()

        @agent.decide(to=[], after="ends")
        async def stop():
            if cancels:
                await asyncio.sleep(60)
            return "END"

        running = asyncio.create_task(agent.run_task(task(), run_id=f"cancels-{cancels}"))
        await started.wait()
        if cancels:
            assert await agent.cancel(f"cancels-{cancels}") is RunStatus.CANCELLED
        outcome = await running
        assert outcome.status is (RunStatus.CANCELLED if cancels else RunStatus.COMPLETE)

    asyncio.run(main())
    assert stopped == ["lasts"]


def test_every_key_of_a_run_with_a_sub_graph_goes_with_it(redis_url: str) -> None:
    agent = team(redis_url, research())

    agent.run_task_sync(task(), run_id="deleted-inside")
    assert any("research/plan" in key for key in keys_of_run(redis_url, "deleted-inside"))
    asyncio.run(agent.delete("deleted-inside"))

    assert keys_of_run(redis_url, "deleted-inside") == []


# Refused by name


def refused(agent: Agent) -> str:
    with pytest.raises(InvalidGraph) as caught:
        agent.compile()
    return str(caught.value)


def test_what_crosses_the_border_is_refused_with_the_way_out() -> None:
    inner, agent = Agent(name="inner"), Agent(name="outer")

    @agent.node
    def fetch():
        return 1

    @inner.node
    def plan(fetch):
        return fetch

    inner.node(name="reads", condition="nodes.fetch > 0")(lambda: None)
    inner.node(name="waits", dependencies=["fetch"])(lambda: None)
    agent.node(name="research")(inner)
    agent.node(name="after", dependencies=["research/plan"])(lambda: None)

    message = refused(agent)

    assert (
        "unknown dependency 'research/plan', which is inside the sub-graph 'research': name the sub-graph"
        in message
    )
    assert "give it 'fetch' by inputs= of the sub-graph's node" in message
    assert "condition reads nodes.fetch, which is outside of this sub-graph: give it by inputs=" in message
    assert "unknown dependency 'fetch', which is outside of this sub-graph" in message


def test_an_agent_that_contains_itself_is_refused_with_the_path() -> None:
    agent, middle = Agent(name="agent"), Agent(name="middle")
    agent.node(name="middle")(middle)
    middle.node(name="again")(agent)

    assert "its agent contains itself: agent -> middle -> again" in refused(agent)


def test_what_is_not_built_is_refused_by_name() -> None:
    agent, inner = Agent(name="agent"), Agent(name="inner")
    inner.node(name="items", map_over="numbers", inputs=["numbers"])(lambda item: item)
    agent.node(name="mapped", map_over="numbers", inputs=["numbers"])(research())
    agent.node(name="inside", inputs={"numbers": "[1]"})(inner)
    agent.add_node(Node(name="two", modules=[research(), research()]))
    agent.node(name="timed", timeout=1)(research())
    agent.node(name="listed", inputs={"a": "b"})(lambda a: a)

    message = refused(agent)

    assert "node 'mapped': a mapped sub-graph is not in this version" in message
    assert "sub-graph 'inside': node 'items': a map inside of a sub-graph is not in this version" in message
    assert "node 'two': a node with a sub-graph has no other modules" in message
    assert "node 'timed': timeout is for modules" in message
    assert "node 'listed': inputs as a dict is for sub-graphs" in message


def test_a_setting_without_effect_is_a_warning() -> None:
    agent = Agent(name="agent")
    config = NodeConfig(inputs={"topic": "'x'"}, max_concurrency=3)
    agent.add_node(Node(name="inside", modules=[research(auto_snapshot=True)], node_config=config))

    warnings = agent.compile().warnings

    assert (
        "node 'inside': max_concurrency has no effect on a sub-graph; set it on the nodes inside" in warnings
    )
    assert "sub-graph 'inside': auto_snapshot has no effect inside; set it on the agent that runs" in warnings


def test_the_hash_of_a_plan_holds_the_graphs_inside() -> None:
    def plan(extra: bool) -> str:
        inner, agent = research(), Agent(name="agent")
        if extra:
            inner.node(name="extra")(lambda: None)
        agent.node(name="inside", inputs={"topic": "'x'"})(inner)
        return agent.compile().hash

    assert plan(False) == plan(False)
    assert plan(False) != plan(True)


# Trying again what failed


def failing_inside(url: str, runs: list[str], *, needed: bool) -> tuple[Agent, dict[str, bool]]:
    """`breaks` fails while its switch says so; the sub-graph succeeds all the same unless it is `needed`."""
    inner, agent, broken = Agent(name="inner"), agent_on(url), {"breaks": True}

    @inner.node
    async def costly():
        runs.append("costly")
        return 1

    @inner.node(max_retries=1)
    async def breaks(costly):
        runs.append("breaks")
        if broken["breaks"]:
            raise RuntimeError("broken")
        return costly + 1

    if not needed:
        inner.node(name="other")(lambda: 7)
    agent.node(name="inside")(inner)

    @agent.node
    async def after(inside):
        runs.append("after")
        return inside

    return agent, broken


def test_a_retry_opens_a_failed_sub_graph_inside(redis_url: str) -> None:
    runs: list[str] = []
    agent, broken = failing_inside(redis_url, runs, needed=True)

    first = agent.run_task_sync(task(), run_id="failed-inside")
    assert first.status is RunStatus.FAILED
    broken["breaks"] = False
    second = asyncio.run(agent.fork("failed-inside"))

    assert second.status is RunStatus.COMPLETE, second.error
    assert second["after"] == 2
    assert runs == ["costly", "breaks", "breaks", "after"]


def test_a_retry_opens_a_sub_graph_that_succeeded_in_part(redis_url: str) -> None:
    runs: list[str] = []
    agent, broken = failing_inside(redis_url, runs, needed=False)

    first = agent.run_task_sync(task(), run_id="partly-inside")
    assert first.status is RunStatus.PARTIAL
    assert first["after"] == 7
    broken["breaks"] = False
    second = asyncio.run(agent.fork("partly-inside"))

    assert second.status is RunStatus.COMPLETE, second.error
    assert second["after"] == {"breaks": 2, "other": 7}
    assert runs == ["costly", "breaks", "after", "breaks", "after"]


def test_a_retry_goes_on_inside_where_a_cancel_stopped_it(redis_url: str) -> None:
    runs: list[str] = []
    inner, agent = Agent(name="inner"), agent_on(redis_url)

    async def main() -> None:
        started, waits = asyncio.Event(), [True]

        @inner.node
        async def costly():
            runs.append("costly")
            return 1

        @inner.node
        async def lasts(costly):
            started.set()
            if waits[0]:
                await asyncio.sleep(60)
            return costly + 1

        agent.node(name="inside")(inner)
        running = asyncio.create_task(agent.run_task(task(), run_id="stopped-inside"))
        await started.wait()
        await agent.cancel("stopped-inside")
        await running
        waits[0] = False
        outcome = await agent.fork("stopped-inside")
        assert outcome.status is RunStatus.COMPLETE, outcome.error
        assert outcome["inside"] == 2

    asyncio.run(main())
    assert runs == ["costly"]
