"""pydantic-graph: a mapping edge and a join; a loop through a decision for the chain. It keeps nothing."""

from __future__ import annotations

from typing import Any

from pydantic_graph import Graph, GraphBuilder, StepContext, reduce_list_append

from benchmarks.occasion import Occasion


async def each_item(occasion: Occasion) -> int:
    graph = _mapping(occasion)
    await graph.run(inputs=list(occasion.warm_up_items))
    with occasion.timed():
        return await graph.run(inputs=list(occasion.items))


async def chain(occasion: Occasion) -> int:
    graph = _looping(occasion.count)
    await graph.run(inputs=occasion.count - 2)
    with occasion.timed():
        return await graph.run(inputs=0)


def _mapping(occasion: Occasion) -> Graph[Any, Any, list[int], int]:
    builder = GraphBuilder(input_type=list[int], output_type=int, auto_instrument=False)

    @builder.step
    async def work(context: StepContext[None, None, int]) -> Any:
        return await occasion.body(context.inputs)

    @builder.step
    async def total(context: StepContext[None, None, list[Any]]) -> int:
        return occasion.total(context.inputs)

    results = builder.join(reduce_list_append, initial_factory=list[Any])
    builder.add(
        builder.edge_from(builder.start_node).map().to(work),
        builder.edge_from(work).to(results),
        builder.edge_from(results).to(total),
        builder.edge_from(total).to(builder.end_node),
    )
    return builder.build()


def _looping(count: int) -> Graph[Any, Any, int, int]:
    builder = GraphBuilder(input_type=int, output_type=int, auto_instrument=False)

    @builder.step
    async def step(context: StepContext[None, None, int]) -> int:
        return context.inputs + 1

    again = builder.match(int, matches=lambda steps: steps < count).to(step)
    done = builder.match(int).to(builder.end_node)
    builder.add(
        builder.edge_from(builder.start_node).to(step),
        builder.edge_from(step).to(builder.decision().branch(again).branch(done)),
    )
    return builder.build()
