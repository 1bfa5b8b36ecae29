"""What may be sent to who waits for a signal, what becomes of an answer that is not accepted, and of a wait without one."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from graphflow import Agent, AnswerRefused, InvalidSignal, NoSignal, RunResult, RunStatus, register_type
from graphflow.testing import MemoryCache
from tests.acceptance.support import agent_on, client, task


class Approval(BaseModel):
    approved: bool
    by: str = "nobody"

    @field_validator("by")
    @classmethod
    def is_known(cls, by: str) -> str:
        if by == "Mallory":
            raise ValueError("nobody knows Mallory")
        if by == "Nemo":
            raise RuntimeError("the directory cannot be asked for this")
        return by


def asking_agent(url: str, calls: list[str], **settings: Any) -> Agent:
    """Asks for an approval that only Ada may give, with a step before it and one after it."""
    agent = agent_on(url, **settings)

    @agent.node(max_retries=1)
    async def asks(cache):
        await cache.step("draft", calls.append, "draft")
        answer = await cache.wait_for_signal("approve", Approval, question="May it be sent?")
        await cache.step("look up", calls.append, f"look up {answer.by}")
        if answer.by != "Ada":
            raise AnswerRefused("only Ada may approve")
        return answer.by

    return agent


def stored_wait(url: str, run_id: str, place: str = "asks:1:0:-") -> dict[str, Any]:
    with client(url) as connection:
        found: dict[str, Any] = json.loads(connection.hget(f"gf:run:{{{run_id}}}:waits", place) or "{}")
        return found


def let_patience_end(url: str, run_id: str) -> None:
    """As if the time of the run's one wait had passed while nobody drove the run."""
    with client(url) as connection:
        key = f"gf:run:{{{run_id}}}:waits"
        ((place, text),) = connection.hgetall(key).items()
        assert json.loads(text)["deadline"] > 0
        connection.hset(key, place, json.dumps(json.loads(text) | {"deadline": 1}))


async def answered(agent: Agent, run_id: str, *values: Any, name: str = "approve") -> RunResult:
    """What the run comes to with these answers, one after another."""
    for value in values:
        await agent.signal(run_id, name, value)
        outcome = await agent.resume(run_id)
    return outcome


def test_value_that_does_not_fit_is_not_sent_and_the_run_goes_on_waiting(redis_url: str) -> None:
    agent = asking_agent(redis_url, [])

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="not-fitting")
        with pytest.raises(InvalidSignal, match=r"'approve' does not fit what 'asks' waits for") as refused:
            await agent.signal("not-fitting", "approve", {"approved": "perhaps", "by": 7})
        assert [problem.partition(":")[0] for problem in refused.value.problems] == ["approved", "by"]
        waiting = await agent.resume("not-fitting")
        assert waiting.status is RunStatus.SUSPENDED
        return await answered(agent, "not-fitting", {"approved": True, "by": "Ada"})

    assert asyncio.run(main())["asks"] == "Ada"


def test_question_and_schema_are_stored_with_the_wait(redis_url: str) -> None:
    agent = asking_agent(redis_url, [])

    outcome = agent.run_task_sync(task(), run_id="with-question")

    wait = stored_wait(redis_url, "with-question")
    assert wait["question"] == "May it be sent?"
    assert wait["schema"]["properties"]["approved"]["type"] == "boolean"
    assert "May it be sent?" in str(outcome.error)
    assert "May it be sent?" in outcome.explain("asks")


def test_answer_that_is_refused_is_dropped_and_the_run_waits_again(redis_url: str) -> None:
    calls: list[str] = []
    agent = asking_agent(redis_url, calls)

    async def main() -> RunResult:
        first = await agent.run_task(task(), run_id="answer-refused")
        since = stored_wait(redis_url, "answer-refused")["since"]
        assert first.status is RunStatus.SUSPENDED
        second = await answered(agent, "answer-refused", {"approved": True, "by": "Bob"})
        assert second.status is RunStatus.SUSPENDED
        assert "only Ada may approve" in str(second.error)
        assert "only Ada may approve" in second.explain("asks")
        assert stored_wait(redis_url, "answer-refused")["refused"] == "only Ada may approve"
        assert stored_wait(redis_url, "answer-refused")["since"] == since, (
            "it keeps its place among who waits"
        )
        return await answered(agent, "answer-refused", {"approved": True, "by": "Ada"})

    outcome = asyncio.run(main())
    assert outcome["asks"] == "Ada"
    assert outcome.node_results["asks"].attempts == 1, "with max_retries=1 a refusal is no attempt"
    assert calls == ["draft", "look up Bob", "look up Ada"], "steps are not called again"


@pytest.mark.parametrize(
    ("by", "reason"), [("Mallory", "by: Value error, nobody knows Mallory"), ("Nemo", "cannot be asked")]
)
def test_answer_that_fits_the_schema_and_not_the_model_is_refused(
    by: str, reason: str, redis_url: str
) -> None:
    agent = asking_agent(redis_url, [])

    async def main() -> RunResult:
        await agent.run_task(task(), run_id=f"model-{by}")
        first = await answered(agent, f"model-{by}", {"approved": True, "by": by})
        assert first.status is RunStatus.SUSPENDED
        assert reason in str(first.error)
        return await answered(agent, f"model-{by}", {"approved": True, "by": "Ada"})

    assert asyncio.run(main()).status is RunStatus.COMPLETE


def test_answer_that_came_before_its_wait_and_does_not_fit_is_refused(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def sends():
        await agent.signal("came-early", "approve", "yes")
        await agent.signal("came-early", "approve", {"approved": True})

    @agent.node
    async def asks(sends, cache):
        return (await cache.wait_for_signal("approve", Approval)).approved

    events = []

    async def main() -> None:
        async for event in agent.stream(task(), run_id="came-early"):
            events.append(event.kind)  # noqa: PERF401

    asyncio.run(main())
    assert agent.run_task_sync(task(), run_id="came-early")["asks"] is True
    assert events.count("SignalRefused") == 1


def test_answer_stays_after_any_other_failure(redis_url: str) -> None:
    agent = agent_on(redis_url)
    answers: list[str] = []

    @agent.node(max_retries=2)
    async def asks(cache):
        answers.append(await cache.wait_for_signal("approve"))
        if len(answers) == 1:
            raise OSError("the printer does not answer")

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="printer")
        return await answered(agent, "printer", "yes")

    assert asyncio.run(main()).status is RunStatus.COMPLETE
    assert answers == ["yes", "yes"]


def test_refusal_beside_other_failures_leaves_the_answer(redis_url: str) -> None:
    agent = agent_on(redis_url)
    failing: list[BaseException] = [OSError("away"), AnswerRefused("not so"), AnswerRefused("nor so")]
    answers: list[str] = []

    async def fails(error: BaseException) -> None:
        raise error

    @agent.node(max_retries=3)
    async def asks(cache):
        answers.append(await cache.wait_for_signal("go"))
        if failing:
            beside, failing[:] = failing[:2], failing[2:]
            async with asyncio.TaskGroup() as group:
                for error in beside:
                    group.create_task(fails(error))

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="refused-in-a-group")
        first = await answered(agent, "refused-in-a-group", "one", name="go")
        assert first.status is RunStatus.SUSPENDED, first.error
        assert "nor so" in str(first.error)
        return await answered(agent, "refused-in-a-group", "two", name="go")

    assert asyncio.run(main()).status is RunStatus.COMPLETE
    assert answers == ["one", "one", "two"]


def test_refusing_where_nothing_was_answered_is_a_failure(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        raise AnswerRefused("what answer?")

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert outcome.failures[0].attempts == 1


def test_items_keep_their_place_among_who_waits_when_an_answer_is_refused(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node(map_over="papers")
    async def review(paper, cache):
        answer = await cache.wait_for_signal("review")
        if answer == "hm":
            raise AnswerRefused(f"say something of {paper}")
        return f"{paper}: {answer}"

    async def main() -> RunResult:
        await agent.run_task(task(), state={"papers": ["a", "b"]}, run_id="refusing-items")
        return await answered(agent, "refusing-items", "hm", "good", "bad", name="review")

    assert asyncio.run(main())["review"] == ["a: good", "b: bad"]


def test_strict_model_takes_what_its_schema_says(redis_url: str) -> None:
    class Appointment(BaseModel):
        model_config = ConfigDict(strict=True)
        day: date

    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        return (await cache.wait_for_signal("when", Appointment)).day.year

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="strict")
        return await answered(agent, "strict", {"day": "2026-11-20"}, name="when")

    assert asyncio.run(main())["asks"] == 2026


def test_store_in_memory_keeps_what_is_asked_and_refused() -> None:
    agent = Agent(cache=MemoryCache())

    @agent.node
    async def asks(cache):
        answer = await cache.wait_for_signal("approve", Approval, question="Well?", timeout=600)
        if not answer.approved:
            raise AnswerRefused("approve it")
        return answer.by

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="in-memory")
        with pytest.raises(InvalidSignal):
            await agent.signal("in-memory", "approve", 3)
        second = await answered(agent, "in-memory", {"approved": False})
        assert "approve it" in str(second.error)
        (wait,) = (await agent.signal("in-memory", "approve", {"approved": True})).waits
        assert (wait.node, wait.question, wait.refused) == ("asks", "Well?", "approve it")
        return await agent.resume("in-memory")

    assert asyncio.run(main())["asks"] == "nobody"


def test_model_itself_fits_although_its_fields_have_aliases(redis_url: str) -> None:
    @register_type
    class Choice(BaseModel):
        best: str = Field(alias="theBest")

    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        return (await cache.wait_for_signal("choose", Choice)).best

    async def main() -> list[str]:
        chosen = []
        for value in ({"theBest": "tea"}, Choice(theBest="coffee")):
            run_id = f"choice-{len(chosen)}"
            await agent.run_task(task(), run_id=run_id)
            chosen.append((await answered(agent, run_id, value, name="choose"))["asks"])
        return chosen

    assert asyncio.run(main()) == ["tea", "coffee"]


def test_schema_that_names_another_place_is_looked_up_nowhere(redis_url: str) -> None:
    class Elsewhere(BaseModel):
        model_config = ConfigDict(json_schema_extra={"properties": {"a": {"$ref": "http://127.0.0.1:1/a"}}})
        a: int

    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        return (await cache.wait_for_signal("go", Elsewhere)).a

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="elsewhere")
        first = await answered(agent, "elsewhere", {"a": "x"}, name="go")
        assert "a: Input should be a valid integer" in str(first.error), "whoever takes it decides"
        return await answered(agent, "elsewhere", {"a": 1}, name="go")

    assert asyncio.run(main())["asks"] == 1


# Names


def test_sender_of_a_name_that_nobody_waits_for_is_told_the_nearest_ones(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    agent = asking_agent(redis_url, [])

    async def main() -> None:
        await agent.run_task(task(), run_id="misspelt")
        with caplog.at_level(logging.WARNING, logger="graphflow"):
            sent = await agent.signal("misspelt", "aprove", {"approved": True})
        assert not sent.is_awaited
        assert sent.nearest == ("approve",)
        assert [(wait.node, wait.question) for wait in sent.waits] == [("asks", "May it be sent?")]
        assert "the run waits for approve, not for aprove" in caplog.text
        assert (await agent.signal("misspelt", "approve", {"approved": True, "by": "Ada"})).is_awaited
        assert (await agent.resume("misspelt")).status is RunStatus.COMPLETE

    asyncio.run(main())


# Timeouts


def patient_agent(url: str) -> Agent:
    agent = agent_on(url)

    @agent.node
    async def asks(cache):
        try:
            return await cache.wait_for_signal("go", timeout=600)
        except TimeoutError as error:
            await cache.increment("overdue")
            return f"{type(error).__name__} after {await cache.wait_for_signal('and now')}"

    return agent


def test_timeout_of_a_driven_run_raises_in_the_module(redis_url: str) -> None:
    agent = agent_on(redis_url)
    over = asyncio.Event()

    @agent.node
    async def asks(cache):
        try:
            await cache.wait_for_signal("go", timeout=0.05)
        except NoSignal as error:
            over.set()
            return str(error)

    @agent.node
    async def works():
        await over.wait()

    assert agent.run_task_sync(task())["asks"] == "no signal 'go' within timeout=0.05 s"


def test_timeout_of_a_suspended_run_takes_effect_when_it_is_resumed(redis_url: str) -> None:
    agent = patient_agent(redis_url)

    async def main() -> RunResult:
        run_id = "overdue"
        first = await agent.run_task(task(), run_id=run_id)
        assert first.status is RunStatus.SUSPENDED
        let_patience_end(redis_url, run_id)
        (second,) = await agent.recover()
        assert "'and now'" in str(second.error)
        await agent.signal("overdue", "go", "too late")
        return await answered(agent, "overdue", "all", name="and now")

    outcome = asyncio.run(main())
    assert outcome["asks"] == "NoSignal after all", "what came of the wait stays with the visit"
    assert outcome["overdue"] == 1


def test_answer_that_is_there_before_the_timeout_takes_effect_comes_first(redis_url: str) -> None:
    agent = patient_agent(redis_url)

    async def main() -> RunResult:
        run_id = "just-in-time"
        await agent.run_task(task(), run_id=run_id)
        let_patience_end(redis_url, run_id)
        return await answered(agent, "just-in-time", "yes", name="go")

    assert asyncio.run(main())["asks"] == "yes"


def test_timeout_counts_from_the_first_wait_through_refusals(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        await cache.wait_for_signal("go", timeout=600)
        raise AnswerRefused("no")

    async def main() -> None:
        await agent.run_task(task(), run_id="first-wait")
        deadline = stored_wait(redis_url, "first-wait")["deadline"]
        await answered(agent, "first-wait", 1, 2, name="go")
        assert stored_wait(redis_url, "first-wait")["deadline"] == deadline

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"schema": dict}, "takes a pydantic model as schema"),
        ({"question": 3}, "takes text as question, not int"),
        ({"timeout": -1}, "timeout"),
    ],
)
def test_wait_that_cannot_be_is_refused(arguments: dict[str, Any], said: str, redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        await cache.wait_for_signal("go", **arguments)

    outcome = agent.run_task_sync(task())

    assert outcome.status is RunStatus.FAILED
    assert said in outcome.failures[0].error
