from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from pydantic_core import from_json

from graphflow.codec import register_type
from graphflow.errors import EvaluationError, ExpressionError, StateError, UnstorableValue, WrongType
from graphflow.state.claims import ClaimedItem
from graphflow.state.transaction import Transaction
from tests.helpers_state import MemoryState


@register_type(name="claims.Job")
@dataclass
class Job:
    name: str
    urgent: bool = False


def claim(cache: Transaction, key: str = "items", where: Any = None) -> ClaimedItem | None:
    return asyncio.run(cache.claim(key, where))


def taken(cache: Transaction, key: str = "items", where: Any = None) -> ClaimedItem:
    claimed = claim(cache, key, where)
    assert claimed is not None
    return claimed


def commit(state: MemoryState, cache: Transaction) -> None:
    assert cache.is_valid(state)
    state.change(cache.resolve(state))
    cache.close()


def subtasks(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "status": "pending"} for number in range(count)]


def test_each_claimer_gets_an_item_of_its_own() -> None:
    state = MemoryState(items=["a", "b", "c"])
    one, other = Transaction(state), Transaction(state)

    claimed = [taken(one), taken(other), taken(one)]

    assert [(item.index, item.item) for item in claimed] == [(0, "a"), (1, "b"), (2, "c")]
    assert claim(other) is None


def test_nothing_is_free_in_a_list_that_is_missing_or_empty() -> None:
    cache = Transaction(MemoryState(items=[]))

    assert claim(cache) is None
    assert claim(cache, "missing") is None
    assert cache.is_empty


@pytest.mark.parametrize(
    "where",
    [
        {"status": "pending"},
        "item.status == 'pending'",
        "item.status == 'pending' and index > 0",
        lambda item: item["status"] == "pending",
    ],
)
def test_where_chooses_the_first_item_that_satisfies_it(where: Any) -> None:
    state = MemoryState(items=[{"status": "done"}, {"status": "pending"}, {"status": "pending"}, "text"])

    assert taken(Transaction(state), where=where).index == 1
    assert taken(Transaction(state), where=where).index == 2


def test_where_that_nothing_satisfies_gives_none() -> None:
    state = MemoryState(items=[{"a": 1}, {"b": 2}, {}])

    assert claim(Transaction(state), where={"b": 1}) is None
    assert claim(Transaction(state), where="item.b == 1") is None


def test_where_sees_registered_types_as_plain_data_and_functions_see_them_as_they_are() -> None:
    state = MemoryState(items=[Job("a"), Job("b", urgent=True)])

    by_fields = taken(Transaction(state), where={"urgent": True})
    assert by_fields.item == Job("b", urgent=True)
    assert taken(Transaction(state), where=lambda job: job.name == "a").index == 0
    assert claim(Transaction(state), where="item.urgent") is None


def test_where_compares_values_and_not_their_texts() -> None:
    state = MemoryState(
        items=[{"price": Decimal("1.50"), "due": date(2026, 11, 20)}, {"price": Decimal(9), "due": date.max}]
    )

    assert taken(Transaction(state), where={"price": Decimal("1.5")}).index == 0
    assert taken(Transaction(state), where="item.price > 2 and item.due > '2026-11-20'").index == 1
    with pytest.raises(StateError, match=r"looks for str in 'due', which holds date; give it a date"):
        claim(Transaction(MemoryState(items=[{"due": date.max}])), where={"due": "2026-11-20"})


def test_where_knows_only_item_and_index() -> None:
    cache = Transaction(MemoryState(items=[1]))

    with pytest.raises(StateError, match="knows `item` and `index`, not 'limit'"):
        claim(cache, where="item > limit")
    with pytest.raises(ExpressionError):
        claim(cache, where="item >")
    with pytest.raises(EvaluationError):
        claim(cache, where="item > 'a'")


def test_claiming_from_what_is_no_list_is_refused() -> None:
    cache = Transaction(MemoryState(items={"a": 1}))

    with pytest.raises(WrongType, match="cannot claim 'items': it holds a dict, claim needs a list"):
        claim(cache)


def test_claimed_item_is_a_copy_of_its_own() -> None:
    state = MemoryState(items=[{"parts": [1]}])
    claimed = taken(Transaction(state))

    claimed.item["parts"].append(2)

    assert state.values()["items"] == [{"parts": [1]}]
    assert taken_again(state).item == {"parts": [1]}


def taken_again(state: MemoryState) -> ClaimedItem:
    state.claims.release("items", 0)
    return taken(Transaction(state))


def test_set_changes_fields_of_the_item_with_the_commit() -> None:
    state = MemoryState(items=subtasks(3))
    cache = Transaction(state)
    first, second = taken(cache), taken(cache)
    first.set(status="running")
    first.set(status="done", result=[1])
    second.set(status="failed")

    assert state.values()["items"] == subtasks(3)
    commit(state, cache)

    assert state.values()["items"] == [
        {"id": 0, "status": "done", "result": [1]},
        {"id": 1, "status": "failed"},
        {"id": 2, "status": "pending"},
    ]


def test_set_is_applied_to_the_list_as_it_is_at_the_commit() -> None:
    state = MemoryState(items=subtasks(2))
    one, other = Transaction(state), Transaction(state)
    taken(one).set(status="done")
    taken(other).set(status="done")
    asyncio.run(one.append("items", {"id": 2, "status": "pending"}))

    commit(state, one)
    commit(state, other)

    assert [item["status"] for item in state.values()["items"]] == ["done", "done", "pending"]


def test_own_read_shows_the_changed_item_and_reads_the_key() -> None:
    state = MemoryState(items=subtasks(2))
    cache, other = Transaction(state), Transaction(state)
    taken(cache).set(status="done")

    assert asyncio.run(cache.get("items"))[0] == {"id": 0, "status": "done"}
    taken(other).set(status="done")
    commit(state, other)
    assert not cache.is_valid(state)


def test_set_refuses_what_cannot_be_stored_and_items_without_fields() -> None:
    cache = Transaction(MemoryState(items=[{"a": 1}, 5]))

    with pytest.raises(UnstorableValue, match=r"items\[0\]"):
        taken(cache).set(a=object())
    with pytest.raises(StateError, match="item 1 of 'items' is an int"):
        taken(cache).set(a=1)


def test_claim_holds_as_long_as_the_item_is_what_was_claimed() -> None:
    state = MemoryState(items=subtasks(2))
    cache = Transaction(state)
    taken(cache)

    state.set("items", [{"id": 0, "status": "pending"}, {"id": 9}, {"id": 10}])
    assert cache.is_valid(state)
    state.set("items", [{"id": 0, "status": "stolen"}])
    assert not cache.is_valid(state)


@pytest.mark.parametrize("gone", [[], {"not": "a list"}, None])
def test_claim_is_lost_with_the_item(gone: Any) -> None:
    state = MemoryState(items=[1])
    cache = Transaction(state)
    taken(cache)

    state.set("items", gone)
    assert not cache.is_valid(state)
    state.change({"items": None})
    assert not cache.is_valid(state)


def test_claims_are_free_again_after_close() -> None:
    state = MemoryState(items=["a"])
    cache = Transaction(state)
    taken(cache)
    assert claim(Transaction(state)) is None

    cache.close()

    assert taken(Transaction(state)).item == "a"


def test_claim_and_set_of_the_same_key_do_not_go_together() -> None:
    claimed_first, set_first = Transaction(MemoryState(items=[1])), Transaction(MemoryState(items=[1]))
    taken(claimed_first)
    asyncio.run(set_first.set("items", [2]))

    with pytest.raises(StateError, match=r"use its \.set\(\)"):
        asyncio.run(claimed_first.set("items", [2]))
    with pytest.raises(StateError, match=r"use its \.set\(\)"):
        asyncio.run(claimed_first.delete("items"))
    with pytest.raises(StateError, match="claim first"):
        claim(set_first)


def test_long_list_is_decoded_once_and_not_per_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    state = MemoryState(items=subtasks(1_000))
    decoded: list[int] = []

    def counting(text: str) -> Any:
        decoded.append(len(text))
        return from_json(text)

    monkeypatch.setattr("graphflow.state.claims.from_json", counting)
    for _ in range(20):
        cache = Transaction(state)
        taken(cache, where={"status": "pending"}).set(status="done")
        commit(state, cache)

    assert [item["status"] for item in state.values()["items"][:21]] == ["done"] * 20 + ["pending"]
    assert len([size for size in decoded if size > 1_000]) == 1


def test_expression_is_evaluated_anew_for_items_that_changed_only() -> None:
    state = MemoryState(items=subtasks(3))
    condition = "item.status == 'pending'"
    for expected in (0, 1, 2):
        cache = Transaction(state)
        claimed = taken(cache, where=condition)
        assert claimed.index == expected
        claimed.set(status="done")
        commit(state, cache)

    assert claim(Transaction(state), where=condition) is None
    state.set("items", subtasks(1))
    assert taken(Transaction(state), where=condition).index == 0


def test_claim_inside_a_prefix_block_is_of_the_prefixed_list() -> None:
    state = MemoryState(**{"a/items": [1]})
    cache = Transaction(state)

    with cache.with_prefix("a/"):
        assert taken(cache).item == 1
    assert claim(cache) is None


def test_claimed_list_is_in_a_footprint_only_if_it_is_changed() -> None:
    state = MemoryState(items=subtasks(1))
    cache = Transaction(state)
    claimed = taken(cache)
    assert cache.footprint().reads == cache.footprint().writes == frozenset()

    claimed.set(status="done")

    assert cache.footprint().writes == {"items"}
