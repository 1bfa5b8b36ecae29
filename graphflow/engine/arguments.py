"""What fills the parameters of a function: reads of the state, results of nodes, the item, the task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from graphflow.planning.plan import REQUIRED, Binding, Source
from graphflow.state.transaction import Transaction


async def arguments_of(
    bindings: Iterable[Binding], transaction: Transaction, semaphore: asyncio.Semaphore
) -> dict[str, Any]:
    """By the names of the parameters; those that keep their default are left out. MissingKey."""
    return {
        binding.parameter: await _argument(binding, transaction, semaphore)
        for binding in bindings
        if binding.source is not Source.DEFAULT and binding.source is not Source.START
    }


async def _argument(binding: Binding, transaction: Transaction, semaphore: asyncio.Semaphore) -> Any:
    match binding.source:
        case Source.TASK:
            return await transaction.get("task")
        case Source.CACHE:
            return transaction
        case Source.SEMAPHORE:
            return semaphore
        case Source.ITEM:
            return transaction.item
        case Source.INDEX:
            return transaction.index
        case Source.NODE:
            return await transaction.node_result(
                binding.name, None if binding.default is REQUIRED else binding.default
            )
        case _:
            if binding.default is REQUIRED:
                return await transaction.get(binding.name)
            return await transaction.get(binding.name, binding.default)
