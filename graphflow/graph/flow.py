"""Which node comes next: decisions with conditions, and the flow control that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from graphflow.graph.modules import END, AgentModule, ModuleType
from graphflow.graph.noun import Names, Noun

if TYPE_CHECKING:
    import asyncio

    from graphflow.graph.cache import Cache

__all__ = ["END", "FlowControlConfig", "FlowControlModule", "FlowDecision"]


class FlowDecision(Noun):
    """A possible next node with its condition. Without a condition it is the else of those before it."""

    next_node: str | list[str]
    condition: str | None = None
    #: State keys that are deleted when the decision fires.
    condition_variables: Names = Field(default_factory=list)
    #: A supervisor's decision fires as long as its condition holds, changed state or not.
    repeat: bool = False
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        return names_of(self.next_node)


class FlowControlConfig(Noun):
    """The decisions of one flow control. Every true one fires, or with `select="first"` only the first."""

    decisions: list[FlowDecision] = Field(default_factory=list)
    #: Fires when no decision is true; without one the run falls through to all dependents.
    default: str | list[str] | None = None
    select: Literal["all", "first"] = "all"
    metadata: dict[str, Any] = Field(default_factory=dict)


class FlowControlModule(AgentModule):
    """Flow control as data: its decisions are evaluated by the engine, so it has no `process` of its own."""

    name: str = "flow_control"
    type: ModuleType = ModuleType.FLOW_CONTROL
    flow_config: FlowControlConfig

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
        raise NotImplementedError(
            "a FlowControlModule is evaluated by the engine when its node becomes ready"
        )


def names_of(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """One name, several or none, as a tuple."""
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)
