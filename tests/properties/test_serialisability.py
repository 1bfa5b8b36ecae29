"""Module runs side by side leave what some one-after-another order of them leaves, and nobody starves.

The order is that of the commits: replaying the bodies in it, one at a time, must give the same state and let every body
see the same values.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from graphflow.errors import StateError
from graphflow.state.transaction import Transaction
from tests.helpers_state import Attempt, Body, MemoryState, MiniScheduler, Pause, run_alone

KEYS = ["a", "b", "c"]

#: A step of a random program: the operation and its key.
STEPS = st.one_of(
    st.tuples(
        st.sampled_from(["get", "get", "exists", "set", "copy", "append", "increment", "update", "delete"]),
        st.sampled_from(KEYS),
    ),
    st.tuples(st.sampled_from(["keys", "get_all", "clear"]), st.just("")),
)
PROGRAMS = st.lists(
    st.tuples(st.sampled_from("PQR"), st.lists(STEPS, min_size=1, max_size=6)), min_size=2, max_size=8
)


def program(number: int, steps: list[tuple[str, str]]) -> Body:
    """A body that does the steps with a pause after each and returns all that it saw; what it writes depends on that."""

    async def body(cache: Transaction) -> list[Any]:
        seen: list[Any] = []
        for operation, key in steps:
            match operation:
                case "get":
                    seen.append(await cache.get(key, "missing"))
                case "exists":
                    seen.append(await cache.exists(key))
                case "keys":
                    seen.append(await cache.keys())
                case "get_all":
                    seen.append(await cache.get_all())
                case "clear":
                    await cache.clear()
                case "delete":
                    await cache.delete(key)
                case "set":
                    await cache.set(key, [number])
                case "copy":
                    await cache.set(key, [number, len(repr(seen))])
                case "append":
                    await cache.append("list_" + key, number)
                    seen.append(await cache.exists("list_" + key))
                case "increment":
                    await cache.increment("count_" + key, number)
                case "update":
                    await cache.update("dict_" + key, {str(number): len(seen)})
            await Pause()
        return seen

    return body


@given(PROGRAMS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_concurrent_runs_equal_their_replay_in_commit_order(
    programs: list[tuple[str, list[tuple[str, str]]]], slots: int, rng: random.Random
) -> None:
    state = MemoryState(a=[0], list_a=[0])
    scheduler = MiniScheduler(state, slots, rng.randrange)
    for number, (kind, steps) in enumerate(programs, 1):
        scheduler.add(program(number, steps), kind)

    committed = scheduler.run()

    replayed = MemoryState(a=[0], list_a=[0])
    for attempt in committed:
        assert run_alone(replayed, attempt.body) == attempt.result
    assert replayed.texts == state.texts
    assert len(committed) == len(programs)
    assert max(attempt.conflicts for attempt in committed) <= 3


@given(st.integers(2, 25), st.integers(1, 6), st.randoms(use_true_random=False))
def test_runs_that_read_what_others_tell_them_to_commit_after_three_conflicts(
    count: int, slots: int, rng: random.Random
) -> None:
    """Which key is read next depends on the value read last, so no footprint tells all that a run will need."""

    async def chase(cache: Transaction) -> int:
        place = 0
        for _ in range(4):
            place = await cache.get(f"k{place}")
            await Pause()
        await cache.set(f"k{rng.randrange(6)}", rng.randrange(6))
        return place

    state = MemoryState(**{f"k{place}": place for place in range(6)})
    scheduler = MiniScheduler(state, slots, rng.randrange)
    for number in range(count):
        scheduler.add(chase, f"kind{number % 3}")

    committed = scheduler.run()

    assert len(committed) == count
    assert max(attempt.conflicts for attempt in committed) <= 3


@given(st.integers(2, 4), st.randoms(use_true_random=False))
def test_run_that_reads_another_key_at_each_repeat_commits_after_three_conflicts(
    slots: int, rng: random.Random
) -> None:
    state = MemoryState(**{f"k{number}": 0 for number in range(10)})
    scheduler = MiniScheduler(state, slots, rng.randrange)

    async def wander(cache: Transaction) -> None:
        await cache.get(f"k{wanderer.conflicts}")
        for _ in range(40):
            await Pause()

    async def write(cache: Transaction) -> None:
        await cache.increment(f"k{rng.randrange(10)}")

    def start_another(attempt: Attempt) -> None:
        if attempt is not wanderer and not wanderer.is_done:
            scheduler.add(write, "writer")

    scheduler.on_commit = start_another
    wanderer = scheduler.add(wander, "wanderer")
    for _ in range(slots):
        scheduler.add(write, "writer")
    scheduler.run()

    assert wanderer.conflicts <= 3


def counting(pauses_before_write: int = 1, second_read: bool = False) -> Body:
    async def count(cache: Transaction) -> int:
        value: int = await cache.get("counter")
        for _ in range(pauses_before_write):
            await Pause()
            if second_read:
                await cache.get("other")
        await cache.set("counter", value + 1)
        return value

    return count


@given(st.integers(0, 4), st.randoms(use_true_random=False))
def test_of_32_counters_on_three_slots_at_most_four_are_repeated(pauses: int, rng: random.Random) -> None:
    state = MemoryState(counter=0)
    scheduler = MiniScheduler(state, 3, rng.randrange)
    for _ in range(32):
        scheduler.add(counting(pauses))

    committed = scheduler.run()

    assert state.values() == {"counter": 32}
    assert [attempt.result for attempt in committed] == list(range(32))
    assert sum(attempt.conflicts for attempt in committed) <= 4


@given(st.randoms(use_true_random=False))
def test_counters_that_are_stopped_at_a_later_read_are_not_repeated_for_ever(rng: random.Random) -> None:
    """Overtaken at its second read, a run has not shown that it writes the counter; its kind learns it at a commit."""
    state = MemoryState(counter=0, other=0)
    scheduler = MiniScheduler(state, 3, rng.randrange)
    for _ in range(32):
        scheduler.add(counting(3, second_read=True))

    committed = scheduler.run()

    assert state.values()["counter"] == 32
    assert len([attempt for attempt in committed if attempt.conflicts]) <= 4


@given(st.integers(1, 3), st.integers(0, 300), st.randoms(use_true_random=False))
def test_items_that_read_config_repeat_at_most_once_after_each_write_of_it(
    writes: int, steps_between: int, rng: random.Random
) -> None:
    state = MemoryState(config=0, log=[])
    scheduler = MiniScheduler(state, 100, rng.randrange)

    async def item(cache: Transaction) -> int:
        config: int = await cache.get("config")
        for _ in range(5):
            await Pause()
        await cache.append("log", config)
        return config

    async def write(cache: Transaction) -> None:
        for _ in range(steps_between):
            await Pause()
        await cache.increment("config")

    items = [scheduler.add(item, "item") for _ in range(100)]
    for _ in range(writes):
        scheduler.add(write, "writer")
    scheduler.run()

    assert state.values()["config"] == writes
    assert len(state.values()["log"]) == 100
    assert max(attempt.conflicts for attempt in items) <= writes


def test_readers_with_tickets_do_not_wait_for_each_other() -> None:
    state = MemoryState(config=0)
    scheduler = MiniScheduler(state, 100, lambda n: 0)
    together = 0

    async def item(cache: Transaction) -> None:
        nonlocal together
        await cache.get("config")
        await Pause()
        together = max(together, len(scheduler.running))
        await Pause(until=lambda: len(scheduler.running) == 50 or bool(scheduler.committed))

    for _ in range(50):
        scheduler.add(item, "item")
    scheduler._admit()
    for attempt in list(scheduler.running):
        scheduler._step(attempt)
    state.set("config", 1)
    scheduler.choose = lambda n: n - 1
    committed = scheduler.run()

    assert [attempt.conflicts for attempt in committed] == [1] * 50
    assert together == 50


def test_slow_reader_commits_beside_writers_that_never_stop() -> None:
    state = MemoryState(value=0)
    rng = random.Random(7)
    scheduler = MiniScheduler(state, 4, rng.randrange)

    async def slow(cache: Transaction) -> int:
        first: int = await cache.get("value")
        for _ in range(40):
            await Pause()
        assert await cache.get("value") == first
        return first

    async def write(cache: Transaction) -> None:
        await cache.set("value", await cache.get("value") + 1)

    reader = scheduler.add(slow, "reader")
    started = 0

    def start_another(attempt: Attempt) -> None:
        nonlocal started
        if not reader.is_done:
            started += 1
            scheduler.add(write, "writer")

    scheduler.on_commit = start_another
    for _ in range(3):
        scheduler.add(write, "writer")
    scheduler.run()

    assert reader.is_done
    assert reader.conflicts <= 3
    assert started > 3


def test_parked_writer_is_not_kept_waiting_by_readers_that_keep_coming() -> None:
    state = MemoryState(config=0)
    rng = random.Random(3)
    scheduler = MiniScheduler(state, 5, rng.randrange)

    async def read(cache: Transaction) -> None:
        await cache.get("config")
        for _ in range(10):
            await Pause()

    async def write(cache: Transaction) -> None:
        await cache.increment("config")

    def start_another(attempt: Attempt) -> None:
        if attempt.kind == "reader" and writer is not None and not writer.is_done:
            scheduler.add(read, "reader")

    writer: Attempt | None = None
    scheduler.on_commit = start_another
    for _ in range(4):
        scheduler.add(read, "reader")
    scheduler._admit()
    for attempt in list(scheduler.running):
        scheduler._step(attempt)
    state.set("config", 1)  # all readers lose, and take tickets from now on
    scheduler.add(read, "reader")
    writer = scheduler.add(write, "writer")
    scheduler.run(max_steps=5_000)

    assert state.values() == {"config": 2}


@given(st.integers(1, 5), st.randoms(use_true_random=False))
def test_immediate_sets_neither_deadlock_nor_disturb_older_tickets(slots: int, rng: random.Random) -> None:
    state = MemoryState(counter=0, progress=0)
    scheduler = MiniScheduler(state, slots, rng.randrange)

    async def count(cache: Transaction) -> None:
        value = await cache.get("counter")
        await cache.set("progress", value, immediate=True)
        await Pause()
        await cache.set("counter", value + 1)

    async def watch(cache: Transaction) -> None:
        seen = await cache.get("progress")
        await Pause()
        assert await cache.get("progress") == seen
        await cache.append("seen", seen)

    for _ in range(8):
        scheduler.add(count, "count")
        scheduler.add(watch, "watch")
    committed = scheduler.run()

    assert state.values()["counter"] == 8
    assert len(state.values()["seen"]) == 8
    assert max(attempt.conflicts for attempt in committed) <= 3


@given(st.integers(1, 6), st.randoms(use_true_random=False))
def test_claimers_share_a_list_without_conflict(slots: int, rng: random.Random) -> None:
    state = MemoryState(subtasks=[{"id": number, "status": "pending"} for number in range(12)])
    scheduler = MiniScheduler(state, slots, rng.randrange)

    async def process(cache: Transaction) -> int | None:
        claimed = await cache.claim("subtasks", where={"status": "pending"})
        if claimed is None:
            return None
        await Pause()
        claimed.set(status="done")
        await cache.append("results", claimed.item["id"])
        return int(claimed.item["id"])

    for _ in range(15):
        scheduler.add(process)
    committed = scheduler.run()

    assert sum(attempt.conflicts for attempt in committed) == 0
    assert sorted(attempt.result for attempt in committed if attempt.result is not None) == list(range(12))
    assert {item["status"] for item in state.values()["subtasks"]} == {"done"}


def test_operation_that_does_not_apply_fails_its_own_run_only() -> None:
    state = MemoryState(a={"x": 1})
    scheduler = MiniScheduler(state, 2, lambda n: 0)

    async def append(cache: Transaction) -> None:
        await cache.append("a", 1)
        await cache.set("b", 1)

    async def update(cache: Transaction) -> None:
        await cache.update("a", {"y": 2})

    failed, succeeded = scheduler.add(append), scheduler.add(update)
    scheduler.run()

    assert isinstance(failed.error, StateError)
    assert succeeded.error is None
    assert state.values() == {"a": {"x": 1, "y": 2}}
