"""A run goes on from where another was: from its end, with what had failed open again, or from a snapshot."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from graphflow import (
    Agent,
    AgentModule,
    Node,
    RunStatus,
    SnapshotControl,
)
from graphflow.entrance import leases
from graphflow.errors import PlanMismatch, RunComplete, RunExists, RunNotFound, SnapshotNotFound
from tests.acceptance.support import agent_on, client, keys_of_run, task
from tests.helpers import run as run_async
from tests.parallel_agent import ParallelProcessor, naive_agent, numbers


class Broken:
    """Fails until it is mended, and counts its calls."""

    def __init__(self) -> None:
        self.is_mended = False
        self.calls: list[object] = []

    def call(self, value: object = None) -> None:
        self.calls.append(value)
        if not self.is_mended:
            raise RuntimeError("not yet")


def chain(url: str, broken: Broken, done: list[str]) -> Agent:
    agent = agent_on(url)

    @agent.node
    def first():
        done.append("first")
        return 20

    @agent.node(max_retries=2)
    def second(first):
        broken.call()
        return first + 1

    @agent.node
    def third(second):
        done.append("third")
        return second * 2

    return agent


# Trying again


def test_failed_run_is_tried_again_without_repeating_what_succeeded(redis_url):
    broken, done = Broken(), []
    agent = chain(redis_url, broken, done)
    failed = agent.run_task_sync(task())
    assert failed.status is RunStatus.FAILED
    broken.is_mended = True

    outcome = run_async(agent.fork(failed.run_id))

    assert outcome.status is RunStatus.COMPLETE
    assert outcome["third"] == 42
    assert done == ["first", "third"]
    assert len(broken.calls) == 3
    assert outcome.run_id != failed.run_id
    assert outcome.error is None
    assert outcome.failures == []


def test_run_that_was_tried_again_stays_as_it_was_and_is_named_by_the_new_one(redis_url):
    broken, done = Broken(), []
    agent = chain(redis_url, broken, done)
    failed = agent.run_task_sync(task())
    with client(redis_url) as redis:
        before = redis.hgetall(f"gf:run:{{{failed.run_id}}}")
        broken.is_mended = True

        outcome = run_async(agent.fork(failed.run_id))

        assert redis.hgetall(f"gf:run:{{{failed.run_id}}}") == before
        assert redis.hget(f"gf:run:{{{outcome.run_id}}}", "parent") == failed.run_id
        assert redis.hexists(f"gf:run:{{{outcome.run_id}}}", "parent_snapshot") is False


def test_message_of_a_failed_run_says_how_to_try_again(redis_url):
    failed = chain(redis_url, Broken(), []).run_task_sync(task())

    assert f"graphflow retry {failed.run_id}" in failed.error
    assert "agent.fork(" in failed.error


def test_failed_run_that_fails_again_has_all_its_attempts_anew(redis_url):
    broken = Broken()
    agent = chain(redis_url, broken, [])
    failed = agent.run_task_sync(task())

    again = run_async(agent.fork(failed.run_id))

    assert again.status is RunStatus.FAILED
    assert again.failures[0].attempts == 2
    assert len(broken.calls) == 4


def test_partial_map_runs_its_failed_items_again_and_what_depends_on_it(redis_url):
    broken, sums = Broken(), itertools.count()
    agent = agent_on(redis_url)

    @agent.node
    def numbers():
        return list(range(10))

    @agent.node(map_over="numbers", max_retries=1)
    def double(number):
        if number in (3, 7):
            broken.call(number)
        return number * 2

    @agent.node
    def total(double):
        next(sums)
        return sum(double)

    partial = agent.run_task_sync(task())
    assert partial.status is RunStatus.PARTIAL
    assert partial["total"] == 70
    broken.is_mended = True

    outcome = run_async(agent.fork(partial.run_id))

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["total"] == 90
    assert outcome["double"] == [number * 2 for number in range(10)]
    assert sorted(broken.calls) == [3, 3, 7, 7]
    assert next(sums) == 2
    assert partial["double"] == [number * 2 for number in range(10) if number not in (3, 7)]


@pytest.mark.parametrize("mode", ["fail", "collect"])
def test_failed_map_keeps_the_items_that_succeeded(redis_url, mode):
    broken, done = Broken(), []
    agent = agent_on(redis_url)

    @agent.node(map_over="numbers", max_retries=1, on_item_error=mode, max_concurrency=1)
    def double(number):
        if number > 2:
            broken.call(number)
        done.append(number)
        return number * 2

    @agent.node
    def total(double):
        if not broken.is_mended:
            raise ValueError("not all are there")
        return sum(double)

    failed = run_async(agent.run_task(task(), state={"numbers": [0, 1, 2, 3, 4]}))
    assert failed.status is RunStatus.FAILED
    broken.is_mended = True

    outcome = run_async(agent.fork(failed.run_id))

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["total"] == 20
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_failed_node_below_a_map_with_failed_items_waits_for_them(redis_url):
    broken, seen = Broken(), []
    agent = agent_on(redis_url)

    @agent.node(map_over="numbers", max_retries=1)
    def double(number):
        if number == 1:
            broken.call(number)
        return number * 2

    @agent.node(max_retries=1)
    def total(double):
        seen.append(double)
        if len(double) < 3:
            raise ValueError("one is missing")
        return sum(double)

    failed = run_async(agent.run_task(task(), state={"numbers": [0, 1, 2]}))
    assert failed.status is RunStatus.FAILED
    broken.is_mended = True

    outcome = run_async(agent.fork(failed.run_id))

    assert outcome["total"] == 6
    assert seen == [[0, 4], [0, 2, 4]]


def test_modules_of_a_failed_visit_that_had_committed_do_not_run_again(redis_url):
    broken, done = Broken(), []
    agent = agent_on(redis_url)

    class Sound(AgentModule):
        async def process(self, cache, semaphore):
            done.append(self.name)
            await cache.append("log", self.name)

    class Fragile(AgentModule):
        async def process(self, cache, semaphore):
            broken.call()
            await cache.append("log", self.name)

    agent.add_node(Node(name="work", modules=[Sound(name="a"), Fragile(name="b"), Sound(name="c")]))
    failed = run_async(agent.run_task(task(), state={"log": []}))
    assert failed["log"] == ["a"]
    broken.is_mended = True

    outcome = run_async(agent.fork(failed.run_id))

    assert outcome["log"] == ["a", "b", "c"]
    assert done == ["a", "c"]


def test_node_that_a_decision_started_is_tried_again(redis_url):
    broken = Broken()
    agent = agent_on(redis_url)

    @agent.node
    def plan():
        return 1

    @agent.decide(after="plan", to=["work", "rest"])
    def choose(plan):
        return "work"

    @agent.node(start=False)
    def work():
        broken.call()
        return "worked"

    @agent.node(start=False)
    def rest():
        return "rested"

    failed = agent.run_task_sync(task())
    broken.is_mended = True

    outcome = run_async(agent.fork(failed.run_id))

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["work"] == "worked"
    assert "rest" not in outcome


@pytest.mark.parametrize(("limit", "not_started", "visits"), [(3, "step", 3), (4, "report", 0)])
def test_run_that_hit_a_limit_goes_on_with_a_new_one(redis_url, limit, not_started, visits):
    agent = agent_on(redis_url, max_total_iterations=limit)

    @agent.node
    async def step(cache):
        await cache.increment("count")

    @agent.decide(after="step", to=["step", "report"])
    def enough(count=0):
        return "report" if count >= 4 else "step"

    @agent.node(start=False)
    def report(count=0):
        return count

    stopped = run_async(agent.run_task(task(), state={"count": 0}))
    assert stopped.status is RunStatus.FAILED
    assert stopped["count"] == limit
    assert stopped.node_results[not_started].visits == visits

    outcome = run_async(agent.fork(stopped.run_id))

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["report"] == 4


def test_run_past_its_deadline_goes_on_with_what_was_cut_off(redis_url):
    is_slow, done = [True], []
    agent = agent_on(redis_url, deadline=0.5)

    @agent.node
    async def quick():
        done.append("quick")
        return 1

    @agent.node
    async def slow(quick):
        if is_slow:
            await asyncio.sleep(30)
        return 2

    @agent.node
    def end(slow):
        return slow + 1

    stopped = run_async(agent.run_task(task()))
    assert "deadline" in stopped.error
    is_slow.clear()

    outcome = run_async(agent.fork(stopped.run_id))

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["end"] == 3
    assert done == ["quick"]


def test_stalled_run_lets_its_supervisor_decide_again(redis_url):
    is_lazy = [True]

    class Lazy(ParallelProcessor):
        async def process(self, cache, semaphore):
            return "looked at it" if is_lazy else await super().process(cache, semaphore)

    agent = naive_agent(redis_url, processor=Lazy)
    stalled = agent.run_task_sync(numbers(20))
    assert "stalled" in stalled.error
    is_lazy.clear()

    outcome = run_async(agent.fork(stalled.run_id))

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["final_results"] == [2 * number for number in range(20)]
    assert outcome.node_results["splitter"].visits == 1


def test_complete_run_is_not_tried_again(redis_url):
    broken = Broken()
    broken.is_mended = True
    agent = chain(redis_url, broken, [])
    complete = agent.run_task_sync(task())

    with pytest.raises(RunComplete, match="nothing to try again"):
        run_async(agent.fork(complete.run_id))


@pytest.mark.parametrize("end", ["cancelled", "complete"])
def test_run_that_ends_while_its_fork_asks_for_it_is_forked_as_one_that_is_over(redis_url, monkeypatch, end):
    gate, begun = asyncio.Event(), asyncio.Event()
    agent = agent_on(redis_url)

    @agent.node
    async def work():
        begun.set()
        await gate.wait()
        return 42

    async def interrupted() -> str:
        run_id = f"ends-{end}"
        driving = asyncio.create_task(agent.run_task(task(), run_id=run_id))
        await begun.wait()
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)
        return run_id

    async def ended_before(store, run_id, seconds):
        if end == "cancelled":
            await agent.cancel(run_id)
        gate.set()
        await agent.resume(run_id)
        return await leases.take_lease(store, run_id, seconds)

    async def main() -> None:
        run_id = await interrupted()
        monkeypatch.setattr("graphflow.entrance.fork.take_lease", ended_before)
        if end == "complete":
            with pytest.raises(RunComplete):
                await agent.fork(run_id)
        else:
            assert (await agent.fork(run_id))["work"] == 42
        assert f"gf:run:{{{run_id}}}:lease" not in keys_of_run(redis_url, run_id)

    run_async(main())


def test_fork_under_an_id_of_ones_own_is_made_once(redis_url):
    broken, done = Broken(), []
    agent = chain(redis_url, broken, done)
    failed = agent.run_task_sync(task())
    broken.is_mended = True
    own = f"{failed.run_id}.again"

    first = run_async(agent.fork(failed.run_id, run_id=own))
    second = run_async(agent.fork(failed.run_id, run_id=own))

    assert first.run_id == second.run_id == own
    assert second["third"] == 42
    assert len(broken.calls) == 3
    with pytest.raises(RunExists):
        run_async(agent.fork(own, run_id=failed.run_id))


def test_fork_by_another_graph_is_refused(redis_url):
    agent = chain(redis_url, Broken(), [])
    failed = agent.run_task_sync(task())
    other = agent_on(redis_url)

    @other.node
    def first():
        return 1

    with pytest.raises(PlanMismatch):
        run_async(other.fork(failed.run_id))
    with pytest.raises(RunNotFound):
        run_async(agent.fork("no-such-run"))


# Snapshots


def counting(url: str, rounds: int = 3, **settings) -> Agent:
    """A loop that appends its round to `log`, then adds up `log` and `bonus`."""
    agent = agent_on(url, **settings)

    @agent.node(snapshot=SnapshotControl.ALWAYS)
    async def step(cache):
        done = await cache.get("log", [])
        await cache.set("log", [*done, len(done)])

    @agent.decide(after="step", to=["step", "report"])
    def enough(log):
        return "report" if len(log) >= rounds else "step"

    @agent.node(start=False)
    def report(log):
        return log

    return agent


def test_snapshots_are_listed_with_what_they_are_of(redis_url):
    agent = counting(redis_url)
    outcome = run_async(agent.run_task(task(), state={"log": []}))

    found = run_async(agent.snapshots(outcome.run_id))

    assert [snapshot.number for snapshot in found] == [1, 2, 3]
    assert {snapshot.nodes for snapshot in found} == {("step",)}
    assert [snapshot.revision for snapshot in found] == sorted({snapshot.revision for snapshot in found})
    assert outcome.started - 0.001 <= found[0].time <= found[-1].time <= outcome.finished


def test_fork_from_a_snapshot_goes_on_from_there(redis_url):
    agent = counting(redis_url)
    outcome = run_async(agent.run_task(task(), state={"log": []}))

    forked = run_async(agent.fork(outcome.run_id, at=2))

    assert forked.status is RunStatus.COMPLETE
    assert forked["report"] == [0, 1, 2]
    assert forked.node_results["step"].visits == 3
    with client(redis_url) as redis:
        run = f"gf:run:{{{forked.run_id}}}"
        kinds = [
            fields["event"] for _, fields in redis.xrange(f"{run}:events") if fields.get("node") == "step"
        ]
        assert kinds == ["NodeStarted", "NodeSucceeded"]
        assert redis.hget(run, "parent_snapshot") == "2"


def test_only_the_last_ten_snapshots_are_kept(redis_url):
    agent = counting(redis_url, rounds=14)
    outcome = run_async(agent.run_task(task(), state={"log": []}))

    assert [snapshot.number for snapshot in run_async(agent.snapshots(outcome.run_id))] == list(range(5, 15))
    with pytest.raises(SnapshotNotFound, match="it keeps 5, 6"):
        run_async(agent.fork(outcome.run_id, at=4))


def test_snapshot_control_once_keeps_the_first_and_never_none(redis_url):
    agent = agent_on(redis_url, auto_snapshot=True)

    @agent.node(snapshot=SnapshotControl.ONCE)
    async def step(cache):
        await cache.increment("count")

    @agent.node(snapshot=SnapshotControl.NEVER)
    def quiet(step):
        return 1

    @agent.node
    def said_nothing(quiet):
        return 1

    @agent.decide(after="said_nothing", to=["step", "report"], snapshot=SnapshotControl.NEVER)
    def enough(count=0):
        return "report" if count >= 3 else "step"

    @agent.node(start=False)
    def report():
        return 1

    outcome = run_async(agent.run_task(task(), state={"count": 0}))

    nodes = [snapshot.nodes for snapshot in run_async(agent.snapshots(outcome.run_id))]
    assert nodes.count(("step",)) == 1
    assert nodes.count(("said_nothing",)) == 3
    assert not any("quiet" in names for names in nodes)


def test_run_without_snapshots_lists_none_and_says_how_to_have_them(redis_url):
    broken = Broken()
    broken.is_mended = True
    agent = chain(redis_url, broken, [])
    outcome = agent.run_task_sync(task())

    assert run_async(agent.snapshots(outcome.run_id)) == []
    with pytest.raises(SnapshotNotFound, match="auto_snapshot=True"):
        run_async(agent.fork(outcome.run_id, at=1))
    with pytest.raises(RunNotFound):
        run_async(agent.snapshots("no-such-run"))


def test_fork_of_a_snapshot_sees_the_records_of_its_own_visit_of_a_map(redis_url):
    agent = agent_on(redis_url)
    seen: list[list[int]] = []

    @agent.node
    async def deal(cache):
        rounds = await cache.get("rounds", 0)
        await cache.set("rounds", rounds + 1)
        return [rounds * 10 + number for number in range(3)]

    @agent.node(map_over="deal", snapshot=SnapshotControl.ALWAYS)
    def double(number):
        return number * 2

    @agent.node
    def look(double):
        seen.append(double)
        return sum(double)

    @agent.decide(after="look", to=["deal", "report"])
    def enough(rounds=0):
        return "report" if rounds >= 3 else "deal"

    @agent.node(start=False)
    def report(look):
        return look

    outcome = run_async(agent.run_task(task(), state={"rounds": 0}))
    assert outcome["report"] == 126
    assert seen == [[0, 2, 4], [20, 22, 24], [40, 42, 44]]
    seen.clear()

    forked = run_async(agent.fork(outcome.run_id, at=1))

    assert seen == [[0, 2, 4], [20, 22, 24], [40, 42, 44]]
    assert forked["report"] == 126


def test_fork_in_the_middle_of_a_map_has_only_what_was_recorded_by_then(redis_url):
    """An item's writes to the state and its record belong together."""
    agent = agent_on(redis_url)

    @agent.node(map_over="numbers", max_concurrency=1)
    async def collect(number, cache):
        if number == 2:
            await asyncio.sleep(0.3)
        await cache.append("seen", number)
        return number

    @agent.node(snapshot=SnapshotControl.ALWAYS)
    async def beside():
        await asyncio.sleep(0.15)
        return 1

    @agent.node
    def total(collect, beside):
        return sum(collect)

    outcome = run_async(agent.run_task(task(), state={"numbers": [0, 1, 2, 3, 4], "seen": []}))
    assert outcome["seen"] == [0, 1, 2, 3, 4]

    forked = run_async(agent.fork(outcome.run_id, at=1))

    assert forked["seen"] == [0, 1, 2, 3, 4]
    assert forked["total"] == 10
    with client(redis_url) as redis:
        events = redis.xrange(f"gf:run:{{{forked.run_id}}}:events")
        finished = [fields["indexes"] for _, fields in events if fields["event"] == "ItemsFinished"]
        assert " ".join(finished) == "2 3 4"


# What modules remember and send


def test_steps_of_what_failed_are_not_called_again(redis_url):
    broken, paid = Broken(), []
    agent = agent_on(redis_url)

    def pay(amount):
        paid.append(amount)
        return f"receipt for {amount}"

    @agent.node(max_retries=1)
    async def order(cache):
        receipt = await cache.step("pay", pay, 5, key=5)
        broken.call()
        return receipt

    @agent.node(map_over="amounts", max_retries=1)
    async def orders(amount, cache):
        receipt = await cache.step("pay", pay, amount, key=amount)
        if amount == 20:
            broken.call()
        return receipt

    failed = run_async(agent.run_task(task(), state={"amounts": [10, 20]}))
    assert failed.status is RunStatus.PARTIAL
    assert sorted(paid) == [5, 10, 20]
    broken.is_mended = True

    outcome = run_async(agent.fork(failed.run_id))

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert outcome["order"] == "receipt for 5"
    assert outcome["orders"] == ["receipt for 10", "receipt for 20"]
    assert sorted(paid) == [5, 10, 20]
    with client(redis_url) as redis:
        assert not redis.exists(f"gf:run:{{{outcome.run_id}}}:steps")


def test_step_of_a_failed_visit_is_called_again_in_the_next_one(redis_url):
    broken, asked = Broken(), []
    agent = agent_on(redis_url)

    def ask():
        asked.append(1)

    @agent.node(max_retries=1, on_error="repair")
    async def work(cache):
        await cache.step("ask", ask, key=1)
        broken.call()

    @agent.node(start=False)
    def repair():
        broken.is_mended = True

    @agent.decide(after="repair", to=["work"])
    def again():
        return "work"

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.COMPLETE, outcome.error
    assert len(asked) == 2


def test_fork_of_a_snapshot_finds_the_messages_that_were_waiting_then(redis_url):
    agent = agent_on(redis_url)

    @agent.node(snapshot=SnapshotControl.ALWAYS)
    async def sender(cache):
        await cache.publish_to_mailbox("letters", "hello")

    @agent.node
    async def receiver(sender, cache):
        return await cache.get_message("letters")

    outcome = agent.run_task_sync(task())
    assert outcome["receiver"] == "hello"

    forked = run_async(agent.fork(outcome.run_id, at=1))

    assert forked["receiver"] == "hello"


def test_snapshot_of_an_earlier_graph_of_the_run_is_refused(redis_url):
    def agent_with(second: str) -> Agent:
        agent = agent_on(redis_url)

        @agent.node(snapshot=SnapshotControl.ALWAYS)
        def first():
            return 1

        @agent.node(name=second, max_retries=1)
        def fails(first):
            raise RuntimeError("always")

        return agent

    outcome = agent_with("second").run_task_sync(task())

    with pytest.raises(PlanMismatch):
        run_async(agent_with("other").fork(outcome.run_id, at=1))
