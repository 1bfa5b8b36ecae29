"""A run in memory: copies of its parts share nothing that changes."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from graphflow.run import Failure, GraphState, ModuleState, NodeState, NodeStatus

#: A value for each field that is none of the defaults, nor equal to that of another field of its type.
FULL = NodeState(
    NodeStatus.FAILED,
    visits=2,
    considered=3,
    settled=4,
    changed=5,
    opened=6,
    settled_as=NodeStatus.SKIPPED,
    chosen=7,
    again=True,
    handled=8,
    reopened=True,
    dropped=True,
    failure=Failure("ValueError", "no"),
    result="9",
    crashes=10,
    started=11.5,
    finished=12.5,
    modules=[ModuleState(NodeStatus.WAITING, 13, "14", Failure("KeyError", "k"), 15.5)],
    earlier=16,
    graph=GraphState("{}", 17.5),
)


@pytest.mark.parametrize("field", [field.name for field in fields(NodeState)])
def test_clone_of_a_node_has_each_field_as_it_was(field: str) -> None:
    assert getattr(FULL, field) != getattr(NodeState(), field), "the test would not see it"

    assert getattr(FULL.clone(), field) == getattr(FULL, field)


@pytest.mark.parametrize("flag", ["again", "reopened", "dropped"])
def test_clone_of_a_node_does_not_take_one_flag_for_another(flag: str) -> None:
    state = replace(NodeState(), **{flag: True})

    assert state.clone() == state


def test_clone_of_a_node_shares_no_module() -> None:
    clone = FULL.clone()

    clone.modules[0].attempts = 99

    assert FULL.modules[0].attempts == 13


def test_node_is_closed_only_while_it_has_failed_and_was_not_reopened() -> None:
    assert NodeState(NodeStatus.FAILED).is_closed
    assert not NodeState(NodeStatus.FAILED, reopened=True).is_closed
    assert not NodeState(NodeStatus.SUCCEEDED).is_closed


def test_status_of_a_node_is_that_of_its_busiest_module() -> None:
    modules = [ModuleState(status) for status in (NodeStatus.SUCCEEDED, NodeStatus.WAITING, NodeStatus.READY)]

    assert NodeState(modules=modules).busiest is NodeStatus.READY
