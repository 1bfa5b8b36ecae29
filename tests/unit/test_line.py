"""Who may start after conflicts, and who waits for whom."""

from __future__ import annotations

from graphflow.testing import TurnedClock
from tests.unit.scene import Scene, agent, scene, turned


def counters():
    made = agent()

    @made.node(outputs=["n"])
    async def older(cache):
        await cache.set("n", await cache.get("n", 0) + 1)

    @made.node(outputs=["n"])
    async def younger(cache):
        await cache.set("n", await cache.get("n", 0) + 1)

    @made.node
    async def apart(cache):
        await cache.set("other", 1)

    return made


async def ran(s: Scene, clock: TurnedClock, name: str):
    attempt = s.start(name)
    await clock.settle()
    return attempt


def test_everybody_may_start_as_long_as_nobody_has_lost_a_conflict() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(counters()) as s:
            attempt = s.attempt("older")

            assert s.line.is_empty
            assert s.line.may_start(attempt)
            assert attempt.ticket is None

    turned(main)


def test_who_lost_runs_again_with_a_ticket_and_against_fresh_state() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(counters()) as s:
            lost = await ran(s, clock, "older")

            again = s.line.lost(lost)

            assert again is not lost
            assert again.ticket is not None
            assert lost.transaction.has_ended
            assert not s.line.is_empty
            assert s.line.may_start(again)

    turned(main)


def test_commit_that_would_disturb_an_older_one_that_runs_is_held_up_until_it_has_left() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(counters()) as s:
            again = s.line.lost(await ran(s, clock, "older"))
            assert s.line.may_start(again)
            other = await ran(s, clock, "younger")

            assert s.line.holds_up(other, ["n"], keyset_changes=False)
            assert not s.line.holds_up(other, ["other"], keyset_changes=False)
            assert other.ticket is not None
            assert "node 'younger' for node 'older'" in s.line.described_wait(other)

            s.line.leave(again)

            assert not s.line.holds_up(other, ["n"], keyset_changes=False)

    turned(main)


def test_whoever_waits_is_told_when_a_ticket_leaves() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(counters()) as s:
            again = s.line.lost(await ran(s, clock, "older"))
            s.drive.begin_turn()

            s.line.leave(again)

            assert s.drive.is_due

    turned(main)


def test_who_steps_aside_gives_up_its_place() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(counters()) as s:
            again = s.line.lost(await ran(s, clock, "older"))
            assert s.line.may_start(again)

            assert s.line.holds_up(None, ["n"], keyset_changes=False)

            s.line.step_aside(again)

            assert again.ticket is None
            assert not s.line.holds_up(None, ["n"], keyset_changes=False)

    turned(main)


def test_state_set_from_outside_is_held_up_like_any_commit() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(counters()) as s:
            again = s.line.lost(await ran(s, clock, "older"))
            assert s.line.may_start(again)

            assert s.line.holds_up(None, ["n"], keyset_changes=False)

    turned(main)


def test_who_waits_for_nobody_waits_for_its_turn() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(counters()) as s:
            assert s.line.described_wait(s.attempt("apart")) == "node 'apart' for its turn"

    turned(main)


def test_after_deaths_the_suspects_run_first_and_others_when_that_is_stored() -> None:
    async def main(clock: TurnedClock) -> None:
        async with scene(counters()) as s:
            s.run.nodes[s.index("older")].crashes = 2
            s.line.enter_suspects()

            assert s.line.has_suspects
            assert s.line.lets_node_run(s.plan.node("older"))
            assert not s.line.lets_node_run(s.plan.node("apart"))
            assert s.line.items_to_run(s.plan.node("apart")) == ()
            assert not s.line.look_at_suspects(), "nothing has been stored that changes it"

            s.run.nodes[s.index("older")].crashes = 0
            assert s.line.look_at_suspects()
            assert s.line.lets_node_run(s.plan.node("apart"))
            assert s.line.items_to_run(s.plan.node("apart")) is None

    turned(main)
