"""How outcomes are folded and stored: in batches, each upon the one before."""

from __future__ import annotations

import pytest

from graphflow.engine import committer as committer_module
from graphflow.errors import LeaseLost, RunNotFound, StoreWentBack
from graphflow.inputs import Outcome, Started, StateSet
from graphflow.run import Failure
from graphflow.testing import TurnedClock
from tests.unit.scene import RUN, Scene, agent, scene, turned


def nodes():
    made = agent()

    @made.node(outputs=["n"])
    async def adds(cache):
        await cache.set("n", await cache.get("n", 0) + 1)

    @made.node
    async def after(adds):
        return adds

    return made


def stored(s: Scene):
    return s.store.runs[RUN].run


def test_what_is_folded_is_in_the_run_at_once_and_in_the_store_with_the_commit() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            s.fold(StateSet({"a": "1"}))
            assert (s.run.state, stored(s).state) == ({"a": "1"}, {})

            await s.committer.commit()

            assert stored(s).state == {"a": "1"}
            assert stored(s).revision == s.run.revision

    turned(main)


def test_commit_of_nothing_sends_nothing() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            assert await s.committer.commit() is not None

            assert await s.committer.commit() is None

    turned(main)


def test_several_outcomes_go_with_one_commit_and_it_is_full_after_so_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            await s.committer.commit()
            monkeypatch.setattr(committer_module, "COMMIT_OPERATIONS", 3)
            s.fold(StateSet({"a": "1"}))
            assert not s.committer.is_full
            s.fold(StateSet({"b": "1", "c": "2"}))
            assert s.committer.is_full

            await s.committer.commit()

            assert not s.committer.is_full
            assert stored(s).state == {"a": "1", "b": "1", "c": "2"}

    turned(main)


def test_commit_is_full_when_its_values_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            monkeypatch.setattr(committer_module, "COMMIT_SIZE", 100)
            s.fold(StateSet({"a": f'"{"x" * 200}"'}))

            assert s.committer.is_full

    turned(main)


def test_commit_after_the_run_was_taken_over_is_lost() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            await clock.turn(11)
            await s.store.acquire(RUN, 10)

            with pytest.raises(LeaseLost):
                await s.committer.commit()

            assert stored(s).deaths == 1

    turned(main)


def test_store_that_is_behind_what_it_acknowledged_is_told_apart_from_one_that_is_not() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(nodes()) as s:
            await s.committer.commit()
            assert await s.committer.loss() is None

            stored(s).revision = 0
            assert isinstance(await s.committer.loss(), StoreWentBack)

            s.store.runs.clear()
            assert isinstance(await s.committer.loss(), RunNotFound)

    turned(main)


def test_writes_of_an_attempt_are_resolved_on_the_state_as_it_is_now() -> None:
    made = agent()

    @made.node
    async def counts(cache):
        await cache.increment("n", 2)

    async def main(clock: TurnedClock) -> None:
        async with scene(made, n=1) as s:
            attempt = s.start("counts")
            await clock.settle()
            s.fold(StateSet({"n": "10"}))
            assert s.committer.resolved(attempt) == {"n": "12"}

            s.fold(StateSet({"n": '"text"'}))
            failure = s.committer.resolved(attempt)
            assert isinstance(failure, Failure)
            assert (failure.type, failure.retryable) == ("WrongType", False)

    turned(main)


def test_back_off_of_a_failed_module_goes_by_the_clock_and_by_chance() -> None:
    made = agent()

    @made.node
    async def fails():
        raise ValueError

    async def main(clock: TurnedClock) -> None:
        async with scene(made) as s:
            s.drive.random.seed(1)
            s.fold(Started(0, 0))
            transition = s.fold(Outcome(0, 0, 1, failure=Failure("ValueError", "no")))
            [(_, _, retry_at)] = transition.delayed

            assert 0 < retry_at - clock.time_ns() / 1e6 <= 100

    turned(main)
