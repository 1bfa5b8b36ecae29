"""User code inside a node: the module class that users derive from, and its limits."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, PlainValidator, PydanticUserError
from pydantic._internal._model_construction import ModelMetaclass

from graphflow.bounds import as_read, real_number
from graphflow.codec import register_type
from graphflow.errors import UnknownSetting
from graphflow.graph.noun import Names, Noun, unknown_in
from graphflow.settings import DEFAULT_TIMEOUT_SECONDS

if TYPE_CHECKING:
    import asyncio

    from graphflow.graph.cache import Cache

#: What a decision names to end the run.
END = "END"

#: What pydantic says of a class body's attribute that is no field.
_WITHOUT_ANNOTATION = re.compile(r"A non-annotated attribute was detected: `(\w+) =")


@register_type(name="graphflow.ModuleType")
class ModuleType(StrEnum):
    """What a module is for. Only FLOW_CONTROL changes how a run goes."""

    PLANNER = "planner"
    EXECUTOR = "executor"
    FLOW_CONTROL = "flow_control"
    SUBGRAPH = "subgraph"
    DISCRIMINATOR = "discriminator"
    OBSERVER = "observer"


class ModuleConfig(Noun):
    """Limits of one module."""

    #: Seconds per attempt; waiting for a slot is not in it.
    timeout: Annotated[float, PlainValidator(as_read(real_number))] = DEFAULT_TIMEOUT_SECONDS
    #: Handed through to the module, never read by the engine.
    context: dict[str, Any] = Field(default_factory=dict)
    middlewares: list[Any] = Field(default_factory=list)
    #: When this module succeeds, the modules after it in the node do not run.
    stop_on_success: bool = False


class _ModuleMeta(ModelMetaclass):
    """Lets a class body say `name = "x"` without repeating the field's annotation.

    Pydantic refuses a field overridden without an annotation. The override is taken out of the class body before
    pydantic sees it, and becomes the field's default for this class and those below it.
    """

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> type:
        known = {field for base in bases for field in getattr(base, "__pydantic_fields__", {})}
        annotated = _annotated_names(namespace)
        overrides = {
            key: namespace.pop(key) for key in list(namespace) if key in known and key not in annotated
        }
        inherited = {
            key: value
            for base in reversed(bases)
            for key, value in getattr(base, "field_overrides", {}).items()
            if key not in annotated
        }
        namespace["field_overrides"] = inherited | overrides
        try:
            return super().__new__(mcs, name, bases, namespace, **kwargs)
        except PydanticUserError as error:
            found = _WITHOUT_ANNOTATION.match(error.message)
            owner = next((base for base in bases if issubclass(base, Noun)), None)
            if found is None or owner is None:
                raise
        raise UnknownSetting(
            [f"{unknown_in(owner, found[1], name)} (a field of your own needs an annotation)"]
        )


def _annotated_names(namespace: dict[str, Any]) -> set[str]:
    annotations = namespace.get("__annotations__")
    if annotations is None and (
        annotate := namespace.get("__annotate_func__") or namespace.get("__annotate__")
    ):
        annotations = annotate(4)  # 3.14: annotationlib.Format.STRING evaluates no name
    return set(annotations or ())


class AgentModule(Noun, metaclass=_ModuleMeta):
    """User code inside a node. Derive from it, give it a name, write `process`.

    What `process` returns is the module's result. A dict with the key `status` is read as success (`"success"`) or
    as a failure with `error`; `{"decision": name, list or "END"}` is a decision among the names in `to`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, validate_default=True)
    field_overrides: ClassVar[dict[str, Any]] = {}

    name: str = ""
    type: ModuleType = ModuleType.EXECUTOR
    config: ModuleConfig = Field(default_factory=ModuleConfig)
    #: Names that a decision returned by `process` may hold.
    to: Names = Field(default_factory=list)
    input_mailboxes: Names = Field(default_factory=list)
    output_mailbox: str | None = None

    def __init__(self, **data: Any) -> None:
        for key, value in type(self).field_overrides.items():
            if key not in data:
                data[key] = copy.deepcopy(value)
        super().__init__(**data)
        if not self.name:
            self.name = type(self).__name__

    async def process(self, cache: Cache, semaphore: asyncio.Semaphore) -> Any:
        """One run of this module: a transaction on the run's state.

        `cache` is that transaction; `semaphore` bounds what the module itself fans out.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define `async def process(self, cache, semaphore)`"
        )


class FunctionModule(AgentModule):
    """A function as a module. Which parameter gets what is settled when the graph is compiled."""

    function: Callable[..., Any]

    @property
    def display_name(self) -> str:
        return getattr(self.function, "__qualname__", self.name)
