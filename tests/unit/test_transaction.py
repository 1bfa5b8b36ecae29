from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from graphflow.codec import register_type
from graphflow.errors import (
    InvalidName,
    MissingKey,
    StateError,
    TransactionClosed,
    TransactionTooLarge,
    UnstorableValue,
    ValueTooLarge,
    WrongType,
)
from graphflow.graph.cache import Cache
from graphflow.graph.tasks import Task
from graphflow.state.footprint import KEY_SET, WHOLE_STATE, Footprint, node_key
from graphflow.state.isolation import Overtaken
from graphflow.state.transaction import Transaction
from tests.helpers_state import MemoryState

Use = Callable[[Transaction], Awaitable[Any]]


def runs_async(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


def commit(state: MemoryState, transaction: Transaction) -> dict[str, str | None]:
    assert transaction.is_valid(state)
    writes = transaction.resolve(state)
    state.change(writes)
    transaction.close()
    return writes


@register_type
@dataclass
class TransactionNote:
    text: str


def test_transaction_is_a_cache() -> None:
    assert isinstance(Transaction(MemoryState()), Cache)


@runs_async
async def test_each_get_returns_a_fresh_copy() -> None:
    state = MemoryState(numbers=[1, 2])
    cache = Transaction(state)

    (await cache.get("numbers")).append(3)

    assert await cache.get("numbers") == [1, 2]
    assert cache.resolve(state) == {}


@runs_async
async def test_own_buffered_write_is_read_back_as_a_fresh_copy() -> None:
    cache = Transaction(MemoryState())
    value = {"a": [1]}
    await cache.set("x", value)
    value["a"].append(2)

    (await cache.get("x"))["a"].append(3)

    assert await cache.get("x") == {"a": [1]}


@runs_async
async def test_registered_types_come_back_as_themselves() -> None:
    cache = Transaction(MemoryState())

    await cache.set("note", TransactionNote("hello"))

    assert await cache.get("note") == TransactionNote("hello")


@runs_async
async def test_missing_key_names_itself_and_its_neighbours() -> None:
    cache = Transaction(MemoryState(total=1, other=2))

    with pytest.raises(KeyError) as caught:
        await cache.get("totl")

    assert isinstance(caught.value, MissingKey)
    assert str(caught.value).startswith("the state has no key 'totl'; the nearest keys are 'total'")
    assert await cache.get("totl", None) is None
    assert await cache.get("totl", 5) == 5


@runs_async
async def test_none_is_a_value() -> None:
    cache = Transaction(MemoryState(nothing=None))

    assert await cache.get("nothing", "default") is None
    assert await cache.exists("nothing")


@runs_async
async def test_task_is_read_fresh_and_never_written() -> None:
    state = MemoryState()
    cache = Transaction(state)

    task = await cache.get("task")
    task.params["n"] = 2

    assert isinstance(task, Task)
    assert (await cache.get("task")).params == {"n": 1}
    assert await cache.exists("task")
    assert cache.is_empty
    for write in (
        cache.set("task", 1),
        cache.delete("task"),
        cache.append("task", 1),
        cache.set("task", 1, immediate=True),
    ):
        with pytest.raises(StateError, match="'task' is the run's task"):
            await write


@pytest.mark.parametrize("key", ["", "a{b", "a}b", "line\nbreak", "x" * 201, "\ud800"])
def test_keys_that_cannot_be_stored_are_refused(key: str) -> None:
    cache = Transaction(MemoryState())

    with pytest.raises(InvalidName, match="state key"):
        asyncio.run(cache.get(key))
    with pytest.raises(InvalidName, match="state key"):
        asyncio.run(cache.set(key, 1))


@runs_async
async def test_key_that_is_no_text_is_refused_by_its_type() -> None:
    with pytest.raises(InvalidName, match="is text, not int"):
        await Transaction(MemoryState()).set(5, 1)  # type: ignore[arg-type]


# Reads are checked


@runs_async
async def test_read_of_a_key_that_changed_since_invalidates() -> None:
    state = MemoryState(a=1, b=1)
    reader = Transaction(state)
    await reader.get("a")

    state.set("b", 2)
    assert reader.is_valid(state)
    state.set("a", 2)
    assert not reader.is_valid(state)


@runs_async
async def test_absence_counts_as_read() -> None:
    state = MemoryState()
    by_get, by_exists, by_error = Transaction(state), Transaction(state), Transaction(state)
    await by_get.get("a", None)
    assert not await by_exists.exists("a")
    with pytest.raises(KeyError):
        await by_error.get("a")

    state.set("a", 1)

    assert not by_get.is_valid(state)
    assert not by_exists.is_valid(state)
    assert not by_error.is_valid(state)


@runs_async
async def test_deleted_and_recreated_key_is_another_one() -> None:
    state = MemoryState(a=1)
    reader = Transaction(state)
    await reader.get("a")

    state.change({"a": None})
    state.set("a", 1)

    assert not reader.is_valid(state)


@runs_async
async def test_next_read_after_an_overtaken_one_ends_the_run_at_once() -> None:
    state = MemoryState(a=1, b=1)
    reads: list[Use] = [
        lambda cache: cache.get("b"),
        lambda cache: cache.get("a"),
        lambda cache: cache.exists("b"),
        lambda cache: cache.keys(),
        lambda cache: cache.get_all(),
        lambda cache: cache.clear(),
        lambda cache: cache.claim("b"),
    ]
    for read in reads:
        cache = Transaction(state)
        await cache.get("a")
        state.set("a", 2)
        with pytest.raises(Overtaken):
            await read(cache)


def test_overtaken_is_not_caught_by_except_exception() -> None:
    assert not issubclass(Overtaken, Exception)


@runs_async
async def test_writers_that_do_not_read_never_conflict() -> None:
    state = MemoryState(a=0, log=[], count=0, seen={})
    writers = [Transaction(state) for _ in range(3)]
    for number, cache in enumerate(writers):
        await cache.set("a", number)
        await cache.append("log", number)
        await cache.increment("count", number)
        await cache.update("seen", {str(number): True})

    for cache in reversed(writers):
        commit(state, cache)

    assert state.values() == {
        "a": 0,
        "log": [2, 1, 0],
        "count": 3,
        "seen": {"2": True, "1": True, "0": True},
    }


@pytest.mark.parametrize(
    ("stored", "value", "changes"),
    [
        ("[1e16]", [1e16], False),
        ("[1e+16]", [1e16], False),
        ("[1e+16]", [1e17], True),
        ('{"a":1,"b":2}', {"b": 2, "a": 1}, True),
        ('{"$type":"set","value":["a","b"]}', {"b", "a"}, False),
    ],
)
def test_a_set_to_the_value_that_is_stored_is_no_change_however_its_text_is_written(
    stored: str, value: Any, changes: bool
) -> None:
    state = MemoryState(a=0)
    state.texts["a"] = stored
    cache = Transaction(state)

    asyncio.run(cache.set("a", value))

    assert ("a" in cache.resolve(state)) is changes


@runs_async
async def test_keys_reads_the_set_of_keys_and_not_their_values() -> None:
    state = MemoryState(b=1, a=1)
    cache = Transaction(state)

    assert await cache.keys() == ["a", "b"]
    state.set("a", 2)
    assert cache.is_valid(state)
    state.set("c", 1)
    assert not cache.is_valid(state)


@runs_async
async def test_keys_shows_own_writes() -> None:
    cache = Transaction(MemoryState(a=1, b=1))
    await cache.set("c", 1)
    await cache.append("d", 1)
    await cache.delete("a")

    assert await cache.keys() == ["b", "c", "d"]


@runs_async
async def test_get_all_reads_the_whole_state() -> None:
    state = MemoryState(a=1, b=[2])
    by_value, by_key = Transaction(state), Transaction(state)
    await by_value.set("own", 3)

    assert await by_value.get_all() == {"a": 1, "b": [2], "own": 3}
    await by_key.get_all()
    state.set("b", [3])
    assert not by_value.is_valid(state)
    assert not by_key.is_valid(state)
    after = Transaction(state)
    await after.get_all()
    state.set("new", 1)
    assert not after.is_valid(state)


@runs_async
async def test_clear_deletes_what_is_there_and_own_writes() -> None:
    state = MemoryState(a=1, b=1)
    cache = Transaction(state)
    await cache.set("c", 1)

    await cache.clear()
    await cache.set("d", 1)

    assert await cache.keys() == ["d"]
    commit(state, cache)
    assert state.values() == {"d": 1}


@runs_async
async def test_clear_conflicts_with_a_key_added_meanwhile() -> None:
    state = MemoryState(a=1)
    cache = Transaction(state)
    await cache.clear()

    state.set("b", 1)

    assert not cache.is_valid(state)


@runs_async
async def test_peek_is_not_checked_and_shows_the_stored_state() -> None:
    state = MemoryState(a=1)
    cache = Transaction(state)
    await cache.set("a", 5)

    assert await cache.peek("a") == 1
    assert await cache.peek("b", None) is None
    state.set("a", 2)
    assert await cache.peek("a") == 2
    assert cache.is_valid(state)


# Writes


@runs_async
async def test_set_and_delete_drop_earlier_operations_on_the_key() -> None:
    state = MemoryState(a=[1], b=[1])
    cache = Transaction(state)
    await cache.append("a", 2)
    await cache.set("a", [9])
    await cache.append("a", 3)
    await cache.append("b", 2)
    await cache.delete("b")

    assert await cache.get("a") == [9, 3]
    assert commit(state, cache) == {"a": "[9,3]", "b": None}


@runs_async
async def test_reading_after_a_blind_operation_reads_the_base() -> None:
    state = MemoryState(log=[1])
    cache = Transaction(state)
    await cache.append("log", 2, 3)

    assert await cache.get("log") == [1, 2, 3]
    state.set("log", [])
    assert not cache.is_valid(state)


@runs_async
async def test_own_write_is_read_without_reading_the_state() -> None:
    state = MemoryState(a=1)
    cache = Transaction(state)
    await cache.set("a", 2)

    assert await cache.get("a") == 2
    assert await cache.exists("a")
    state.set("a", 3)
    assert cache.is_valid(state)


@runs_async
async def test_operations_make_what_is_missing() -> None:
    state = MemoryState()
    cache = Transaction(state)
    await cache.append("list", 1, "two")
    await cache.append("empty")
    await cache.increment("number")
    await cache.increment("half", 0.5)
    await cache.update("dict", {"a": 1})

    commit(state, cache)

    assert state.values() == {"list": [1, "two"], "empty": [], "number": 1, "half": 0.5, "dict": {"a": 1}}


@runs_async
async def test_increment_keeps_integers_integers() -> None:
    state = MemoryState(a=2**70, b=1)
    cache = Transaction(state)
    await cache.increment("a")
    await cache.increment("b", -0.5)

    assert commit(state, cache) == {"a": str(2**70 + 1), "b": "0.5"}


@pytest.mark.parametrize(
    ("stored", "operation", "argument", "message"),
    [
        ({"a": 1}, "append", 1, "cannot append 'x': it holds a dict, append needs a list"),
        ({1, 2}, "append", 1, "it holds a set"),
        (None, "append", 1, "it holds null"),
        (True, "increment", 1, "it holds a bool, increment needs a number"),
        ("5", "increment", 1, "it holds a str"),
        ([], "update", {"a": 1}, "it holds a list, update needs a dict"),
        (TransactionNote("x"), "update", {"text": "y"}, "it holds a TransactionNote"),
    ],
)
def test_operation_on_a_wrong_type_fails_when_resolved(
    stored: Any, operation: str, argument: Any, message: str
) -> None:
    state = MemoryState(x=stored)
    cache = Transaction(state)
    asyncio.run(getattr(cache, operation)("x", argument))

    with pytest.raises(WrongType) as caught:
        cache.resolve(state)

    assert message in str(caught.value)


@runs_async
async def test_increment_by_what_is_no_number_is_refused_at_once() -> None:
    cache = Transaction(MemoryState())

    with pytest.raises(StateError, match="takes a number, not bool"):
        await cache.increment("a", True)
    with pytest.raises(StateError, match="takes a number, not str"):
        await cache.increment("a", "1")  # type: ignore[arg-type]
    with pytest.raises(UnstorableValue):
        await cache.increment("a", float("nan"))
    assert cache.is_empty


@runs_async
async def test_update_is_not_changed_by_what_happens_to_the_dict_later() -> None:
    state = MemoryState()
    cache = Transaction(state)
    values = {"a": [1]}
    await cache.update("x", values)
    values["a"].append(2)

    commit(state, cache)

    assert state.values() == {"x": {"a": [1]}}


@runs_async
async def test_set_of_an_equal_value_changes_nothing() -> None:
    state = MemoryState(a=1)
    cache = Transaction(state)
    await cache.set("a", 1)
    await cache.delete("missing")

    assert cache.resolve(state) == {}


@runs_async
async def test_value_that_cannot_be_stored_is_refused_at_the_set() -> None:
    cache = Transaction(MemoryState(), max_value_bytes=100)

    with pytest.raises(UnstorableValue, match="'a'"):
        await cache.set("a", object())
    with pytest.raises(ValueTooLarge, match=r"'a'.*max_value_bytes=100"):
        await cache.set("a", "ä" * 50)
    assert cache.is_empty


@runs_async
async def test_list_that_grows_too_large_fails_when_resolved() -> None:
    state = MemoryState(log=["x" * 90])
    cache = Transaction(state, max_value_bytes=100)
    await cache.append("log", "x" * 20)

    with pytest.raises(ValueTooLarge, match="the list takes 117 bytes"):
        cache.resolve(state)


@runs_async
async def test_writes_together_have_a_limit() -> None:
    state = MemoryState()
    cache = Transaction(state, max_transaction_bytes=100)
    for number in range(4):
        await cache.set(f"key{number}", "x" * 30)

    with pytest.raises(TransactionTooLarge, match="max_transaction_bytes=100"):
        cache.resolve(state)


def test_large_value_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="graphflow"):
        asyncio.run(Transaction(MemoryState()).set("big", "x" * 1_100_000))

    assert "state key 'big' holds 1,100,002 bytes" in caplog.text


# Immediate


@runs_async
async def test_immediate_set_is_stored_whatever_becomes_of_the_run() -> None:
    state = MemoryState()
    cache = Transaction(state)

    await cache.set("progress", 1, immediate=True)
    await cache.set("progress", 2, immediate=True)

    assert state.values() == {"progress": 2}
    assert cache.resolve(state) == {}
    assert await cache.peek("progress") == 2


@runs_async
async def test_immediate_set_is_refused_for_keys_used_otherwise() -> None:
    state = MemoryState(read=1, claimed=[1])
    cache = Transaction(state)
    await cache.get("read")
    await cache.set("written", 1)
    await cache.append("appended", 1)
    await cache.claim("claimed")

    for key in ("read", "written", "appended", "claimed"):
        with pytest.raises(StateError, match="immediate=True"):
            await cache.set(key, 2, immediate=True)
    assert state.values() == {"read": 1, "claimed": [1]}


@runs_async
async def test_key_set_immediately_is_refused_otherwise_afterwards() -> None:
    cache = Transaction(MemoryState(progress=0))
    await cache.set("progress", 1, immediate=True)

    for use in (
        cache.get("progress"),
        cache.exists("progress"),
        cache.set("progress", 2),
        cache.delete("progress"),
        cache.append("progress", 2),
        cache.claim("progress"),
        cache.get_all(),
        cache.clear(),
    ):
        with pytest.raises(StateError, match="was set with immediate=True"):
            await use


@runs_async
async def test_immediate_set_that_adds_a_key_is_refused_after_reading_the_set_of_keys() -> None:
    cache = Transaction(MemoryState(old=0))
    await cache.keys()

    await cache.set("old", 1, immediate=True)
    with pytest.raises(StateError, match="immediate=True"):
        await cache.set("new", 1, immediate=True)


# Nodes and maps


@runs_async
async def test_node_result_is_a_checked_read() -> None:
    state = MemoryState()
    state.set_node("split", [1, 2])
    cache = Transaction(state)

    assert await cache.node_result("split", None) == [1, 2]
    state.set("a", 1)
    assert cache.is_valid(state)
    state.set_node("split", [1, 2])
    assert not cache.is_valid(state)


@runs_async
async def test_result_of_a_skipped_node_is_the_default() -> None:
    state = MemoryState()
    state.nodes["split"] = (None, 3)
    state.set_map("double", None)
    cache = Transaction(state)

    assert await cache.node_result("split", 5) == 5
    assert await cache.node_result("double", "default") == "default"
    assert not await cache.exists("double")
    with pytest.raises(MissingKey):
        await cache.get("double")


@runs_async
async def test_map_results_are_read_by_name_as_parameter_and_as_stream() -> None:
    state = MemoryState()
    state.set_map("double", [2, 4])
    state.maps["double"] = [(0, "2"), (3, "4")]
    cache = Transaction(state)

    assert await cache.get("double") == [2, 4]
    assert await cache.node_result("double", None) == [2, 4]
    assert await cache.exists("double")
    assert await cache.peek("double") == [2, 4]
    assert [pair async for pair in cache.results("double")] == [(0, 2), (3, 4)]
    with pytest.raises(StateError, match="shows the results of the map node"):
        await cache.set("double", 1)
    state.set_map("double", [])
    assert not cache.is_valid(state)


@runs_async
async def test_results_of_a_map_that_starts_again_meanwhile_end_the_run() -> None:
    state = MemoryState()
    state.set_map("double", [2, 4])
    cache = Transaction(state)
    results = cache.results("double")

    assert await anext(results) == (0, 2)
    state.set_map("double", [6, 8])
    with pytest.raises(Overtaken):
        await anext(results)


@runs_async
async def test_results_of_a_node_that_is_no_map_are_refused() -> None:
    with pytest.raises(StateError, match="nodes with map_over"):
        async for _ in Transaction(MemoryState()).results("split"):
            pass


@runs_async
async def test_item_and_index_are_there_only_in_a_map() -> None:
    cache = Transaction(MemoryState())
    for name in ("item", "index"):
        with pytest.raises(StateError, match=f"cache.{name} is there only in a node with map_over"):
            getattr(cache, name)

    cache.set_item(3, "[1]")
    cache.item.append(2)

    assert cache.item == [1]
    assert cache.index == 3
    assert cache.is_empty


# Prefix and suffix


@runs_async
async def test_prefix_block_maps_keys_in_both_kinds_of_with() -> None:
    state = MemoryState()
    cache = Transaction(state)

    with cache.with_prefix("a/") as scoped:
        await scoped.set("x", 1)
        async with cache.with_suffix(":1"), cache.with_prefix("b/"):
            await cache.set("y", 2)
            assert await cache.get("y") == 2
        assert await cache.get("task")
    await cache.set("x", 3)

    commit(state, cache)
    assert state.values() == {"a/x": 1, "a/b/y:1": 2, "x": 3}


@runs_async
async def test_prefix_block_sees_and_clears_only_its_keys() -> None:
    state = MemoryState(**{"a/x": 1, "a/": 2, "ab": 3, "b/x": 4})
    cache = Transaction(state)

    with cache.with_prefix("a/"):
        assert await cache.keys() == ["x"]
        assert await cache.get_all() == {"x": 1}
        await cache.clear()

    commit(state, cache)
    assert sorted(state.values()) == ["a/", "ab", "b/x"]


@runs_async
async def test_name_that_a_prefix_makes_the_tasks_cannot_be_written() -> None:
    cache = Transaction(MemoryState())

    for write in (lambda: cache.set("sk", 1), lambda: cache.set("sk", 1, immediate=True)):
        with cache.with_prefix("ta"), pytest.raises(StateError, match="'task' is the run's task"):
            await write()


@runs_async
async def test_prefix_block_writes_no_key_that_shows_the_results_of_a_map() -> None:
    state = MemoryState()
    state.set_map("a_double", [2])
    cache = Transaction(state)

    for immediate in (False, True):
        with cache.with_prefix("a_"), pytest.raises(StateError, match="shows the results of the map node"):
            await cache.set("double", 1, immediate=immediate)


@runs_async
async def test_prefix_block_does_not_disturb_other_tasks_of_the_run() -> None:
    cache = Transaction(MemoryState())
    entered, written = asyncio.Event(), asyncio.Event()

    async def inside() -> None:
        async with cache.with_prefix("in/"):
            entered.set()
            await written.wait()
            await cache.set("x", 1)

    async def outside() -> None:
        await entered.wait()
        await cache.set("x", 2)
        written.set()

    await asyncio.gather(inside(), outside())

    assert await cache.get_all() == {"in/x": 1, "x": 2}


@runs_async
async def test_prefix_block_of_one_cache_leaves_another_alone() -> None:
    one, other = Transaction(MemoryState()), Transaction(MemoryState())

    with one.with_prefix("1/"), other.with_prefix("2/"):
        await one.set("x", 1)
        await other.set("x", 2)

    assert await one.keys() == ["1/x"]
    assert await other.keys() == ["2/x"]


# The end


@runs_async
async def test_closed_transaction_refuses_every_call() -> None:
    state = MemoryState(a=1, items=[{}])
    cache = Transaction(state)
    cache.set_item(0, "1")
    claimed = await cache.claim("items")
    assert claimed is not None
    cache.close()
    cache.close()

    for call in (
        cache.get("a"),
        cache.get("task"),
        cache.set("a", 2),
        cache.set("a", 2, immediate=True),
        cache.delete("a"),
        cache.exists("a"),
        cache.exists("task"),
        cache.keys(),
        cache.get_all(),
        cache.clear(),
        cache.append("a", 1),
        cache.increment("a"),
        cache.update("a", {}),
        cache.peek("a"),
        cache.claim("items"),
        cache.node_result("a", None),
    ):
        with pytest.raises(TransactionClosed):
            await call
    for attempt in (
        lambda: cache.with_prefix("x"),
        lambda: cache.with_suffix("x"),
        lambda: cache.item,
        lambda: cache.index,
        lambda: claimed.set(done=True),
    ):
        with pytest.raises(TransactionClosed):
            attempt()
    with pytest.raises(TransactionClosed):
        async for _ in cache.results("a"):
            pass
    assert state.values() == {"a": 1, "items": [{}]}


@runs_async
async def test_ended_transaction_refuses_calls_and_can_still_be_committed() -> None:
    state = MemoryState(items=[{}])
    cache = Transaction(state)
    claimed = await cache.claim("items")
    assert claimed is not None
    claimed.set(done=True)
    cache.end()

    with pytest.raises(TransactionClosed):
        await cache.set("late", 1)
    with pytest.raises(TransactionClosed):
        claimed.set(late=True)
    assert await Transaction(state).claim("items") is None
    commit(state, cache)
    assert state.values() == {"items": [{"done": True}]}


@runs_async
async def test_prefix_block_of_a_closed_transaction_refuses_as_well() -> None:
    cache = Transaction(MemoryState())

    with cache.with_prefix("a/") as scoped:
        cache.close()
        with pytest.raises(TransactionClosed):
            await scoped.get("x", None)


@runs_async
async def test_fresh_transaction_is_empty_until_it_is_used() -> None:
    state = MemoryState(items=[1])
    state.set_node("n", 1)
    uses: list[Use] = [
        lambda cache: cache.get("a", None),
        lambda cache: cache.set("a", 1),
        lambda cache: cache.append("a", 1),
        lambda cache: cache.keys(),
        lambda cache: cache.claim("items"),
        lambda cache: cache.node_result("n", None),
    ]
    for use in uses:
        cache = Transaction(state)
        assert cache.is_empty
        await use(cache)
        assert not cache.is_empty
        cache.close()


@runs_async
async def test_footprint_says_what_was_read_written_and_lost() -> None:
    state = MemoryState(a=1, b=1, log=[])
    state.set_node("split", 1)
    cache = Transaction(state)
    await cache.get("a")
    await cache.get("b")
    await cache.node_result("split", None)
    await cache.append("log", 1)
    state.set("b", 2)
    state.set_node("split", 2)

    split = node_key("split")
    assert cache.footprint() == Footprint(
        reads=frozenset({"a", "b", split}), writes=frozenset({"log"}), lost=frozenset({"b", split})
    )


@runs_async
async def test_footprint_names_the_set_of_keys_and_the_whole_state() -> None:
    state = MemoryState(a=1)
    by_keys, by_all = Transaction(state), Transaction(state)
    await by_keys.keys()
    await by_keys.set("new", 1)
    await by_all.get_all()
    state.set("a", 2)

    assert by_keys.footprint() == Footprint(frozenset({KEY_SET}), frozenset({"new", KEY_SET}), frozenset())
    assert by_all.footprint() == Footprint(frozenset({WHOLE_STATE}), frozenset(), frozenset({WHOLE_STATE}))
    by_all.close()
    assert by_all.footprint().lost == {WHOLE_STATE}


@runs_async
async def test_noted_reads_are_checked_like_own_ones() -> None:
    state = MemoryState(a=1)
    state.set_node("n", 1)
    key, node = Transaction(state), Transaction(state)
    key.note_read("a")
    node.note_node_read("n")

    state.set("a", 2)
    state.set_node("n", 2)

    assert not key.is_valid(state)
    assert not node.is_valid(state)
