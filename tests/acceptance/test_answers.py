"""What may be sent to who waits for a signal, what becomes of an answer that is not accepted, and of a wait without one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from graphflow import (
    Agent,
    AnswerRefused,
    InvalidSignal,
    NonRetryableException,
    NoSignal,
    RunResult,
    RunStatus,
    register_type,
)
from graphflow.state import schemas
from graphflow.testing import MemoryCache
from tests.acceptance.command_line import graphflow
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


@register_type
class Drink(BaseModel):
    best: str = Field(alias="theBest")


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


def sent_elsewhere(url: str, run_id: str, name: str, value: str) -> subprocess.CompletedProcess[str]:
    """What became of the value, as JSON, in a process that has not loaded the agent's code."""
    words = ["signal", run_id, name, value, "--no-run"]
    return graphflow(Path.cwd(), *words, env={"GRAPHFLOW_REDIS_URL": url})


async def answered_elsewhere(agent: Agent, url: str, run_id: str, name: str, value: str) -> RunResult:
    sent = await asyncio.to_thread(sent_elsewhere, url, run_id, name, value)
    assert sent.returncode == 0, sent.stderr
    return await agent.resume(run_id)


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
        value = json.dumps({"approved": True, "by": by})
        first = await answered_elsewhere(agent, redis_url, f"model-{by}", "approve", value)
        assert first.status is RunStatus.SUSPENDED
        assert reason in str(first.error)
        return await answered(agent, f"model-{by}", {"approved": True, "by": "Ada"})

    assert asyncio.run(main()).status is RunStatus.COMPLETE


def test_model_itself_decides_where_it_was_waited_for(redis_url: str) -> None:
    agent = asking_agent(redis_url, [])

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="model-decides")
        for by, reason in (("Mallory", "nobody knows Mallory"), ("Nemo", "cannot be asked")):
            with pytest.raises(InvalidSignal, match=reason):
                await agent.signal("model-decides", "approve", {"approved": True, "by": by})
        return await answered(agent, "model-decides", {"approved": "yes", "by": "Ada"})

    assert asyncio.run(main())["asks"] == "Ada", "as pydantic takes 'yes'"


def test_value_fits_if_any_of_several_models_with_one_schema_takes_it(redis_url: str) -> None:
    def approval_by(name: str) -> type[BaseModel]:
        class Approval(BaseModel):
            by: str

            @field_validator("by")
            @classmethod
            def is_right(cls, by: str) -> str:
                if by != name:
                    raise ValueError(f"only {name} may approve")
                return by

        return Approval

    agent = agent_on(redis_url)
    models = [approval_by("Ada"), approval_by("Bob")]

    @agent.node(map_over="places")
    async def asks(place, cache):
        return (await cache.wait_for_signal(f"approve{place}", models[place])).by

    async def main() -> RunResult:
        await agent.run_task(task(), state={"places": [0, 1]}, run_id="two-models")
        with pytest.raises(InvalidSignal, match="only"):
            await agent.signal("two-models", "approve0", {"by": "Eve"})
        await agent.signal("two-models", "approve1", {"by": "Bob"})
        return await answered(agent, "two-models", {"by": "Ada"}, name="approve0")

    assert asyncio.run(main())["asks"] == ["Ada", "Bob"]


@pytest.mark.parametrize("is_known", [True, False])
def test_value_of_a_python_type_is_left_to_the_model(
    is_known: bool, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pause(BaseModel):
        seconds: timedelta
        drinks: list[Drink]

    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        answer = await cache.wait_for_signal("pause", Pause)
        return [answer.seconds.total_seconds(), answer.drinks[0].best]

    async def main() -> RunResult:
        run_id = f"python-types-{is_known}"
        await agent.run_task(task(), run_id=run_id)
        if not is_known:
            monkeypatch.setattr(schemas, "_texts", {})
        return await answered(
            agent, run_id, {"seconds": timedelta(minutes=5), "drinks": [Drink(theBest="tea")]}, name="pause"
        )

    assert asyncio.run(main())["asks"] == [300, "tea"]


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


def test_answer_kept_by_a_run_that_failed_is_refused_in_its_fork(redis_url: str) -> None:
    agent = agent_on(redis_url)
    models: list[type[BaseModel] | None] = [None]

    @agent.node
    async def asks(cache):
        answer = await cache.wait_for_signal("approve", models[-1])
        if models == [None]:
            raise NonRetryableException(f"signal 'approve' does not fit Approval: {answer}")
        return answer.approved

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="kept-bad-answer")
        failed = await answered(agent, "kept-bad-answer", "perhaps")
        assert failed.status is RunStatus.FAILED
        with client(redis_url) as connection:
            # Earlier versions did not remember since when an answer was waited for.
            assert connection.hdel("gf:run:{kept-bad-answer}:steps", "asks:1:0:-:wait:0:approve")
        models.append(Approval)
        fork = await agent.fork("kept-bad-answer")
        assert fork.status is RunStatus.SUSPENDED, fork.error
        assert "the last answer was refused" in str(fork.error)
        return await answered(agent, fork.run_id, {"approved": True})

    assert asyncio.run(main())["asks"] is True


def test_fork_of_a_waiting_run_asks_by_the_model_as_it_is_now(redis_url: str) -> None:
    class Score(BaseModel):
        score: int

    class Words(BaseModel):
        score: str

    agent = agent_on(redis_url)
    model: list[type[BaseModel]] = [Score]
    calls: list[str] = []

    @agent.node
    async def asks(cache):
        await cache.step("draft", calls.append, "draft")
        return (
            await cache.wait_for_signal("score", model[-1], question=model[-1].__name__, timeout=60)
        ).score

    @agent.node(map_over="papers")
    async def review(paper, cache):
        return (await cache.wait_for_signal(f"of {paper}", model[-1])).score

    async def main() -> RunResult:
        await agent.run_task(task(), state={"papers": ["a", "b"]}, run_id="model-changed")
        model.append(Words)
        with pytest.raises(InvalidSignal):
            await agent.signal("model-changed", "score", {"score": "high"})
        fork = await agent.fork("model-changed")
        wait = stored_wait(redis_url, fork.run_id)
        assert (wait["question"], wait["schema"]["title"]) == ("Words", "Words")
        assert wait["since"] == stored_wait(redis_url, "model-changed")["since"]
        await agent.signal(fork.run_id, "of b", {"score": "low"})
        await agent.signal(fork.run_id, "of a", {"score": "fair"})
        return await answered(agent, fork.run_id, {"score": "high"}, name="score")

    outcome = asyncio.run(main())
    assert (outcome["asks"], outcome["review"]) == ("high", ["fair", "low"])
    assert calls == ["draft"]


def test_wait_has_the_new_schema_when_an_answer_to_the_old_one_was_refused(redis_url: str) -> None:
    class Score(BaseModel):
        score: int

    class Words(BaseModel):
        score: str

    agent = agent_on(redis_url)
    model: list[type[BaseModel]] = [Score]

    @agent.node
    async def asks(cache):
        return (await cache.wait_for_signal("score", model[-1])).score

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="model-changed-in-place")
        model.append(Words)
        refused = await answered(agent, "model-changed-in-place", {"score": 3}, name="score")
        assert "score: Input should be a valid string" in str(refused.error)
        return await answered(agent, "model-changed-in-place", {"score": "high"}, name="score")

    assert asyncio.run(main())["asks"] == "high"


def test_two_processes_that_answer_at_once_are_each_heard(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        return [(await cache.wait_for_signal("approve", Approval)).by for _ in "ab"]

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="two-at-once")
        values = [json.dumps({"approved": True, "by": by}) for by in ("Ada", "Bob")]
        sending = (
            asyncio.to_thread(sent_elsewhere, redis_url, "two-at-once", "approve", value) for value in values
        )
        assert [sent.returncode for sent in await asyncio.gather(*sending)] == [0, 0]
        return await agent.resume("two-at-once")

    assert sorted(asyncio.run(main())["asks"]) == ["Ada", "Bob"]


def test_answer_can_be_refused_in_a_step(redis_url: str) -> None:
    agent = agent_on(redis_url)
    asked: list[str] = []

    def check(name: str) -> str:
        asked.append(name)
        if name != "Ada":
            raise AnswerRefused("only Ada may approve")
        return name

    @agent.node(max_retries=1)
    async def asks(cache):
        return await cache.step("check", check, await cache.wait_for_signal("approve"), key="check")

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="refused-in-a-step")
        first = await answered(agent, "refused-in-a-step", "Bob")
        assert "only Ada may approve" in str(first.error)
        return await answered(agent, "refused-in-a-step", "Ada")

    assert asyncio.run(main())["asks"] == "Ada"
    assert asked == ["Bob", "Ada"]


def test_refusal_that_was_made_of_outdated_state_is_made_again(redis_url: str) -> None:
    agent = agent_on(redis_url)
    refusing = asyncio.Event()
    promoted = asyncio.Event()

    @agent.node
    async def asks(cache):
        answer = await cache.wait_for_signal("approve")
        boss = await cache.get("boss")
        refusing.set()
        await promoted.wait()
        if answer != boss:
            raise AnswerRefused(f"only {boss} may approve")
        return answer

    @agent.node
    async def promotes(cache):
        await cache.wait_for_signal("promote")
        await refusing.wait()
        await cache.set("boss", "Bob", immediate=True)
        promoted.set()

    async def main() -> RunResult:
        await agent.run_task(task(), state={"boss": "Ada"}, run_id="outdated-refusal")
        await agent.signal("outdated-refusal", "approve", "Bob")
        return await answered(agent, "outdated-refusal", None, name="promote")

    assert asyncio.run(main())["asks"] == "Bob"


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
    assert "what answer? (it refused no answer: raise it in" in outcome.failures[0].error


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
        await agent.run_task(task(), run_id="answered-elsewhere")
        first = await answered_elsewhere(agent, redis_url, "answered-elsewhere", "go", '{"a": "x"}')
        assert "a: Input should be a valid integer" in str(first.error), "whoever takes it decides"
        return await answered(agent, "answered-elsewhere", {"a": 1}, name="go")

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
        sent = await agent.signal("misspelt", "approve", {"approved": True, "by": "Ada"})
        assert sent.is_awaited
        assert [wait.node for wait in sent.waits] == ["asks"]
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


def test_timeout_stays_with_the_visit_through_attempts_and_a_fork(redis_url: str) -> None:
    agent = agent_on(redis_url)
    attempts: list[str] = []

    @agent.node(max_retries=2)
    async def asks(cache):
        try:
            await cache.wait_for_signal("go", timeout=600)
        except TimeoutError:
            attempts.append("by default")
        if len(attempts) < 3:
            raise OSError("the printer does not answer")
        return attempts[-1]

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="overdue-and-failed")
        let_patience_end(redis_url, "overdue-and-failed")
        failed = await agent.resume("overdue-and-failed")
        assert failed.status is RunStatus.FAILED
        assert len(attempts) == 2
        return await agent.fork("overdue-and-failed")

    assert asyncio.run(main())["asks"] == "by default"


@pytest.mark.parametrize("is_item", [False, True])
@pytest.mark.parametrize("is_told_otherwise", [False, True])
def test_fork_of_a_run_that_failed_by_its_timeout_asks_again(
    is_item: bool, is_told_otherwise: bool, redis_url: str
) -> None:
    agent = agent_on(redis_url)

    async def ask(cache):
        try:
            answer = await cache.wait_for_signal("go", timeout=600)
        except NoSignal as error:
            if is_told_otherwise:
                raise NonRetryableException("nobody cares") from error
            raise
        if answer == "hm":
            raise AnswerRefused("say more")
        return answer

    if is_item:

        @agent.node(map_over="papers")
        async def asks(paper, cache):
            return await ask(cache)

    else:

        @agent.node(name="asks")
        async def asks_once(cache):
            return await ask(cache)

    async def main() -> RunResult:
        run_id = f"overdue-for-good-{is_item}-{is_told_otherwise}"
        await agent.run_task(task(), state={"papers": ["a"]}, run_id=run_id)
        await answered(agent, run_id, "hm", name="go")
        let_patience_end(redis_url, run_id)
        failed = await agent.resume(run_id)
        error = "nobody cares" if is_told_otherwise else "NoSignal: no signal 'go' within timeout=600 s"
        assert error in failed.failures[0].error
        assert failed.failures[0].attempts == 1, "the next attempt would find the same"
        fork = await agent.fork(run_id)
        assert fork.status is RunStatus.SUSPENDED, fork.error
        wait = stored_wait(redis_url, fork.run_id, "asks:1:0:0" if is_item else "asks:1:0:-")
        assert wait["deadline"] > time.time() * 1000
        return await answered(agent, fork.run_id, "yes", name="go")

    assert asyncio.run(main())["asks"] == (["yes"] if is_item else "yes")


def test_signal_that_comes_after_the_timeout_is_kept_for_the_next_wait(redis_url: str) -> None:
    agent = agent_on(redis_url)

    @agent.node
    async def asks(cache):
        with contextlib.suppress(TimeoutError):
            return await cache.wait_for_signal("go", timeout=600)
        await cache.set("late", await cache.wait_for_signal("go", question="At last?"))
        return None

    async def main() -> RunResult:
        await agent.run_task(task(), run_id="too-late")
        let_patience_end(redis_url, "too-late")
        second = await agent.resume("too-late")
        assert "At last?" in str(second.error)
        return await answered(agent, "too-late", "late", name="go")

    outcome = asyncio.run(main())
    assert (outcome["asks"], outcome["late"]) == (None, "late")


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
