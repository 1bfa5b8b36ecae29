"""The store of a session is closed when its last user leaves, however that one leaves; nobody is cut off in that."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import cast

import pytest

from graphflow.engine.cancellation import finish_despite_cancelling
from graphflow.entrance.session import Sessions
from graphflow.store.contract import Renewer, Store
from tests.helpers import run


class SlowStore:
    """Takes a few turns of the loop to open and to close."""

    def __init__(self) -> None:
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True
        await asyncio.sleep(0)

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.is_open = False

    def renewer(self) -> Renewer:
        raise AssertionError("no lease is kept")


@pytest.mark.parametrize("turns", range(12))
def test_store_is_closed_although_its_user_is_cancelled_at_any_moment(turns: int) -> None:
    async def main() -> None:
        store = SlowStore()
        sessions = Sessions(lambda: cast("Store", store))

        async def use() -> None:
            async with sessions.open() as session:
                assert session.store is store

        using = asyncio.create_task(use())
        for _ in range(turns):
            await asyncio.sleep(0)
        using.cancel()
        with suppress(asyncio.CancelledError):
            await using

        assert not store.is_open

    run(main())


def test_what_is_finish_despite_cancelling_is_not_cut_short_by_any_number_of_cancellations() -> None:
    async def main() -> None:
        go_on = asyncio.Event()
        ended: list[str] = []

        async def end() -> None:
            await go_on.wait()
            ended.append("it has")

        waiting = asyncio.create_task(finish_despite_cancelling(end()))
        for _ in range(3):
            await asyncio.sleep(0)
            waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert ended == ["it has"]

    run(main())


def test_what_is_finish_despite_cancelling_returns_and_raises_as_it_would_alone() -> None:
    async def returns() -> int:
        return 1

    async def raises() -> int:
        raise ValueError("wrong")

    assert run(finish_despite_cancelling(returns())) == 1
    with pytest.raises(ValueError, match="wrong"):
        run(finish_despite_cancelling(raises()))
