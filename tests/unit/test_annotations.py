"""Functions that say they return or take what cannot be stored: refused when the graph is compiled, and nothing else is."""

from __future__ import annotations

import asyncio
import collections.abc
import enum
import functools
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NewType, Protocol, TypedDict, TypeVar

import pytest
from pydantic import BaseModel

from graphflow import (
    Agent,
    AgentModule,
    FlowDecision,
    InvalidGraph,
    Node,
    RunStatus,
    Task,
    register_type,
)
from graphflow.testing import MemoryCache

if typing.TYPE_CHECKING:
    pass  # type: ignore[import-not-found]


class Label(BaseModel):
    text: str = ""


@dataclass
class Point:
    x: int = 0


class Level(enum.Enum):
    LOW = 1


class Route(enum.StrEnum):
    LEFT = "left"


class Pair(typing.NamedTuple):
    x: int


class Base(BaseModel):
    """Has a registered subclass."""


@register_type(name="annotations.Known")
class Known(Base):
    text: str = ""


class Labelled(TypedDict):
    label: Label
    others: list[Labelled]


class Nested(TypedDict):
    children: list[Nested]
    known: Known


class Shape(Protocol):
    x: int


POINT = Point(3)


class Text(str):
    """No JSON, though text is."""


T = TypeVar("T")
Labels = NewType("Labels", list[Label])


class Box(BaseModel, Generic[T]):
    content: T


register_type(Box[int], name="annotations.Box[int]")


def compiled(agent: Agent) -> list[str]:
    """The problems of the graph, one sentence each."""
    try:
        agent.run_task_sync(Task(type="test"), state={"given": 1})
    except InvalidGraph as refusal:
        return list(refusal.problems)
    return []


def called(ran: list[str], annotation: Any) -> Callable[[], None]:
    def classify() -> None:
        ran.append("classify")

    classify.__annotations__["return"] = annotation
    return classify


REGISTER = "is not registered, so none can be stored; write @register_type above class"
REFUSED: list[tuple[Any, str]] = [
    (Label, f"function 'classify' returns Label: Label {REGISTER} Label"),
    (Point, f"returns Point: Point {REGISTER} Point"),
    (Level, f"returns Level: Level {REGISTER} Level"),
    (Route, f"returns Route: Route {REGISTER} Route"),
    (list[Label], f"Label {REGISTER} Label"),
    (typing.List[Label], f"Label {REGISTER} Label"),  # noqa: UP006
    (dict[str, list[Label]], f"Label {REGISTER} Label"),
    (tuple[int, Label], f"Label {REGISTER} Label"),
    (tuple[Label, ...], f"Label {REGISTER} Label"),
    (set[Point], f"Point {REGISTER} Point"),
    (Sequence[Label], f"Label {REGISTER} Label"),
    (Mapping[str, Label], f"Label {REGISTER} Label"),
    (Label | None, f"Label {REGISTER} Label"),
    (typing.Optional[Label], f"Label {REGISTER} Label"),  # noqa: UP045
    (int | list[Label], f"Label {REGISTER} Label"),
    (Annotated[Label, "one"], f"Label {REGISTER} Label"),
    (Literal["a", Level.LOW], f"Level {REGISTER} Level"),
    (Labels, f"Label {REGISTER} Label"),
    (Labelled, f"Label {REGISTER} Label"),
    (Awaitable[Label], f"Label {REGISTER} Label"),
    (collections.abc.Coroutine[Any, Any, Label], f"Label {REGISTER} Label"),
    ("Label", f"Label {REGISTER} Label"),
    (list["Label"], f"Label {REGISTER} Label"),
    (Box[str], f"Box[str] {REGISTER} Box[str]"),
    (Pair, "Pair is a namedtuple, which cannot be stored"),
    (Path, "a value of type Path would not come back as one; return str(value)"),
    (Text, "a value of type Text would not come back as one; return str(value)"),
]
LET_PASS: list[Any] = [
    *(None, int, "int", list[int], dict[str, Any], Any, object, bytes, Decimal, tuple[int, ...], set[str]),
    *(RunStatus, Task, Known, Base, Known | None, list[Base], Nested, Shape, BaseModel, Box[int], Box),
    *(
        T,
        list[T],
        "Unresolved",
        "list[Unresolved]",
        "Unresolved | Label",
        Literal["a", 1, None],
        typing.NoReturn,
    ),
    *(Sequence, Mapping[str, int], Iterator[int], Callable[[], Label], type[Label], NewType("Id", str)),
    *("not an annotation", "1 / 0", 7, FlowDecision.fields if hasattr(FlowDecision, "fields") else ...),
]


@pytest.mark.parametrize(("annotation", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_function_that_returns_what_cannot_be_stored_is_refused_before_anything_runs(
    annotation: Any, words: str
) -> None:
    agent, ran = Agent(cache=MemoryCache()), list[str]()
    agent.node(name="first")(lambda: ran.append("first"))
    agent.node(name="labels", dependencies=["first"])(called(ran, annotation))

    (problem,) = compiled(agent)

    assert problem.startswith("node 'labels': function 'classify' returns ")
    assert words in problem
    assert ran == []


@pytest.mark.parametrize("annotation", LET_PASS, ids=lambda value: str(value)[:40])
def test_function_whose_results_might_be_stored_runs(annotation: Any) -> None:
    agent, ran = Agent(cache=MemoryCache()), list[str]()
    agent.node(name="labels")(called(ran, annotation))

    assert compiled(agent) == []
    assert ran == ["classify"]


def test_local_class_is_found_where_it_can_be_and_else_let_pass() -> None:
    class Local(BaseModel):
        pass

    def known() -> Local:
        return Local()

    def unknown() -> Hidden:  # type: ignore[name-defined] # noqa: F821
        return None

    agent = Agent(cache=MemoryCache())
    agent.node(known)
    agent.node(unknown)

    (problem,) = compiled(agent)

    assert f"node 'known': function 'known' returns Local: Local {REGISTER} Local" in problem


def test_every_kind_of_function_is_asked() -> None:
    class Judge:
        def method(self) -> Label:
            return Label()

        async def __call__(self) -> Label:
            return Label()

    class Judging(AgentModule):
        async def process(self, cache: Any, semaphore: asyncio.Semaphore) -> Label:
            return Label()

    async def suspended(extra: int) -> Label:
        return Label()

    def items() -> Iterator[Label]:
        yield Label()

    async def more_items() -> AsyncIterator[Label]:
        yield Label()

    def choose() -> Route:
        return Route.LEFT

    def add(value: Point, result: Point) -> Point:
        return value

    agent = Agent(cache=MemoryCache())
    agent.node(name="method")(Judge().method)
    agent.node(name="object")(Judge())
    agent.node(name="partial")(functools.partial(suspended, extra=1))
    agent.add_node(Node(name="module", modules=[Judging()]))
    agent.node(name="mapped", map_over=items)(lambda item: 1)
    agent.node(name="mapped_too", map_over=more_items)(lambda item: 1)
    agent.decide(to=["method"])(choose)
    agent.node(name="added", map_over="given", reduce=add)(lambda item: 1)

    problems = compiled(agent)

    assert {problem.split("'")[1] for problem in problems} == {
        *("method", "object", "partial", "module", "mapped", "mapped_too", "choose", "added")
    }
    assert all(REGISTER in problem for problem in problems)
    assert any(
        "map_over: function 'items' yields Iterator[Label]: Label is" in problem for problem in problems
    )
    assert any("module 'Judging': Judging.process returns Label" in problem for problem in problems)
    assert any("reduce: function 'add' returns Point" in problem for problem in problems)


def test_function_that_another_wraps_is_let_pass_since_that_may_convert() -> None:
    def as_dict(function: Callable[[], BaseModel]) -> Callable[[], Any]:
        @functools.wraps(function)
        def converted() -> Any:
            return function().model_dump()

        return converted

    @as_dict
    def classify() -> Label:
        return Label(text="good")

    agent = Agent(cache=MemoryCache())
    agent.node(classify)

    assert agent.run_task_sync(Task(type="test")).result == {"text": "good"}


def test_module_class_may_return_a_dict_with_what_is_not_stored() -> None:
    class Report(TypedDict, total=False):
        status: str
        error: Exception

    class Fails(AgentModule):
        async def process(self, cache: Any, semaphore: asyncio.Semaphore) -> Report:
            return {"status": "success"}

    class FailsToo(AgentModule):
        async def process(self, cache: Any, semaphore: asyncio.Semaphore) -> dict[str, str | ValueError]:
            return {"status": "success"}

    agent = Agent(cache=MemoryCache())
    agent.add_node(Node(name="fails", modules=[Fails()]))
    agent.add_node(Node(name="fails_too", modules=[FailsToo()]))

    assert agent.run_task_sync(Task(type="test")).status is RunStatus.COMPLETE


def test_parameters_that_are_given_stored_values_are_asked_for_their_types() -> None:
    agent = Agent(cache=MemoryCache())
    agent.node(name="doc")(lambda: {"text": "a"})
    agent.node(name="docs")(lambda: [{"text": "a"}])

    @agent.node
    def by_node(doc: Label) -> int:
        return 1

    @agent.node(map_over="docs")
    def by_item(item: Point) -> int:
        return 1

    @agent.node(map_over="docs", batch_size=2)
    def by_batch(items: list[Point]) -> list[int]:
        return [1 for _ in items]

    @agent.node
    def by_key(given: Level | None = None) -> int:
        return 1

    def source(doc: Label) -> Iterator[int]:
        yield 1

    agent.node(name="by_source", map_over=source)(lambda item: item)

    problems = compiled(agent)

    assert [problem.split("'")[1] for problem in problems] == [
        *("by_node", "by_item", "by_batch", "by_key", "by_source")
    ]
    assert f"function 'by_node' takes 'doc' as Label: Label {REGISTER} Label" in problems[0]
    assert "function 'by_batch' takes 'items' as list[Point]: Point is" in problems[2]
    assert "map_over: function 'source' takes 'doc' as Label" in problems[4]


def test_parameters_that_may_be_what_is_stored_are_let_pass() -> None:
    agent = Agent(cache=MemoryCache())
    agent.node(name="doc")(lambda: {"text": "a"})
    agent.node(name="route")(lambda: "left")
    agent.node(name="path")(lambda: "/tmp")

    @agent.node
    def end(
        task: Task,
        doc: Label | dict[str, str],
        route: Route,
        path: Path,
        given: Any,
        client: Point = POINT,
        *,
        level: Level = Level.LOW,
    ) -> list[Any]:
        return [doc["text"], route == Route.LEFT, Path(path).name, client.x]  # type: ignore[index]

    outcome = agent.run_task_sync(Task(type="test"), state={"given": 1})

    assert outcome.result == ["a", True, "tmp", 3], outcome.error


def test_registered_type_of_an_annotation_is_what_comes_and_goes() -> None:
    agent = Agent(cache=MemoryCache())

    @agent.node
    def classify() -> Known:
        return Known(text="good")

    @agent.node
    def read(classify: Known) -> Base:
        return classify

    outcome = agent.run_task_sync(Task(type="test"))

    assert outcome.result == Known(text="good")
