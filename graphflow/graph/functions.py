"""A function as a module: which parameters does it have, and how must it be called?

What fills each parameter depends on the rest of the graph and is settled in `planning/binding.py`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from graphflow.errors import NonRetryableException
from graphflow.graph.modules import FunctionModule

__all__ = [
    "FunctionModule",
    "FunctionShape",
    "Parameter",
    "drop",
    "function_name",
    "inspect_function",
    "is_async",
    "no_answer",
    "plainness_problem",
    "truth",
    "wraps_async",
]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter that can be given by name. `default` means something only if `has_default`."""

    name: str
    default: Any = None
    has_default: bool = False


@dataclass(frozen=True, slots=True)
class FunctionShape:
    """What the signature of a function says. `problems` are phrases about the function, empty if it can be a module."""

    name: str
    parameters: tuple[Parameter, ...]
    is_async: bool
    problems: tuple[str, ...] = ()


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine. Functions, methods, partials and objects with `async def __call__`."""
    inner = _unwrapped(function)
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None))  # noqa: B004


def wraps_async(function: Callable[..., Any]) -> bool:
    """Whether it is async, or around a function that is; calling it may give a coroutine then."""
    return is_async(_innermost(function))


def plainness_problem(function: Callable[..., Any]) -> str | None:
    """What is wrong with a function whose call alone is to give its answer; None if nothing is to be seen."""
    if is_async(function):
        return "is async, but it is called without await; make it a plain function"
    if is_generator(function) or is_async_generator(function):
        return "yields, but what it returns is taken for its answer; make it a plain function"
    return None


def truth(answer: object, asked: str) -> bool:
    """Whether a predicate holds, by what it has returned. NonRetryableException for what is no answer yet."""
    if answer is True or answer is False:
        return answer
    if inspect.isawaitable(answer) or inspect.isgenerator(answer) or inspect.isasyncgen(answer):
        raise no_answer(answer, asked)
    return bool(answer)


def no_answer(value: object, called: str) -> NonRetryableException:
    """What there is to say if a function whose call alone is to give its answer has returned a coroutine or generator."""
    drop(value)
    left = "awaited" if inspect.isawaitable(value) else "gone through"
    kind = "an async generator" if inspect.isasyncgen(value) else f"a {type(value).__name__}"
    return NonRetryableException(f"{called} returned {kind}, which is not {left}; make it a plain function")


def drop(awaitable: object) -> None:
    """Nobody will await it, and that is said elsewhere."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


def inspect_function(function: Callable[..., Any], *, yields: bool = False) -> FunctionShape:
    """The parameters of `function` in their order, without those that a partial has filled by name.

    With `yields` it is to be a generator function, and `is_async` says whether it is an async one.
    """
    name = function_name(function)
    problems = list(_source_problems(function) if yields else _generator_problems(function))
    suspends = is_async_generator(_innermost(function)) if yields else is_async(function)
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        problems.append("has a signature that Python cannot read; wrap it in a def with named parameters")
        return FunctionShape(name, (), suspends, tuple(problems))

    problems += _misleading(function, signature)
    filled = function.keywords if isinstance(function, functools.partial) else {}
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name in filled:
            continue
        if problem := _unusable(parameter):
            problems.append(problem)
            continue
        has_default = parameter.default is not parameter.empty
        parameters.append(Parameter(parameter.name, parameter.default if has_default else None, has_default))
    return FunctionShape(name, tuple(parameters), suspends, tuple(problems))


def function_name(function: Callable[..., Any]) -> str:
    """Its own name, of an object that of its class; how a node is called unless it is given another name."""
    inner = _unwrapped(function)
    return str(getattr(inner, "__name__", type(inner).__name__))


def _unusable(parameter: inspect.Parameter) -> str | None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
        return f"takes {stars}{parameter.name}, but parameters are filled by name; name each one"
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return f"takes {parameter.name!r} by position only, but parameters are filled by name; drop the `/`"
    return None


def _misleading(function: Callable[..., Any], signature: inspect.Signature) -> Iterator[str]:
    """Of a wrapper that shows the signature of what it wraps: the parameters that it takes by position only."""
    own = inspect.signature(function, follow_wrapped=False)
    kinds = {parameter.kind for parameter in own.parameters.values()}
    if own == signature or inspect.Parameter.VAR_KEYWORD in kinds:
        return
    by_name = {
        parameter.name
        for parameter in own.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for parameter in signature.parameters.values():
        if _unusable(parameter) is None and parameter.name not in by_name:
            yield (
                f"is in a wrapper that does not take {parameter.name!r} by name, but parameters are filled by name; "
                "let the wrapper take **kwargs and hand them on"
            )


def is_async_generator(function: Callable[..., Any]) -> bool:
    """Whether calling it gives an async generator."""
    inner = _unwrapped(function)
    return inspect.isasyncgenfunction(inner) or inspect.isasyncgenfunction(getattr(inner, "__call__", None))  # noqa: B004


def is_generator(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a generator."""
    inner = _unwrapped(function)
    return inspect.isgeneratorfunction(inner) or inspect.isgeneratorfunction(getattr(inner, "__call__", None))  # noqa: B004


def _generator_problems(function: Callable[..., Any]) -> list[str]:
    if is_async_generator(function):
        return [
            "is an async generator, which is not in this version; return the result instead of yielding it"
        ]
    if is_generator(function):
        return ["is a generator, whose result cannot be stored; return a list instead of yielding"]
    return []


def _source_problems(function: Callable[..., Any]) -> list[str]:
    # What a wrapper gives is seen when it is called.
    inner = _innermost(function)
    if is_async_generator(inner) or is_generator(inner):
        return []
    return ["does not yield; make it a generator that yields the items, or name the node that returns them"]


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is inside of partials and wrappers."""
    inner: Callable[..., Any] = inspect.unwrap(_unwrapped(function))
    return function if inner is function else _innermost(inner)


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function
