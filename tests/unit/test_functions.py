"""What the signature of a function says about it as a module."""

import functools

from graphflow.graph.functions import Parameter, inspect_function, is_async


def test_parameters_come_in_order_with_their_defaults():
    def combine(double, *, limit=None, cache): ...

    shape = inspect_function(combine)

    assert shape.parameters == (Parameter("double"), Parameter("limit", None, True), Parameter("cache"))
    assert (shape.name, shape.is_async, shape.problems) == ("combine", False, ())


def test_methods_partials_and_callable_objects_are_functions_too():
    class Scorer:
        def score(self, item, scale): ...

        async def __call__(self, item): ...

    async def fetch(client, url): ...

    method = inspect_function(Scorer().score)
    partial = inspect_function(functools.partial(fetch, client="c"))
    positional = inspect_function(functools.partial(fetch, "c"))
    instance = inspect_function(Scorer())

    assert [parameter.name for parameter in method.parameters] == ["item", "scale"]
    assert [parameter.name for parameter in partial.parameters] == ["url"]
    assert [parameter.name for parameter in positional.parameters] == ["url"]
    assert [parameter.name for parameter in instance.parameters] == ["item"]
    assert (method.is_async, partial.is_async, positional.is_async, instance.is_async) == (
        False,
        True,
        True,
        True,
    )
    assert (method.name, partial.name, instance.name) == ("score", "fetch", "Scorer")


def test_decorated_function_keeps_its_parameters():
    def logged(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @logged
    def combine(double): ...

    assert inspect_function(combine).parameters == (Parameter("double"),)
    assert not is_async(combine)


def test_what_cannot_be_filled_by_name_is_a_problem():
    def star(*numbers, **rest): ...

    def positional(number, /): ...

    assert inspect_function(star).problems == (
        "takes *numbers, but parameters are filled by name; name each one",
        "takes **rest, but parameters are filled by name; name each one",
    )
    assert inspect_function(positional).problems == (
        "takes 'number' by position only, but parameters are filled by name; drop the `/`",
    )


def test_generators_are_refused():
    def numbers():
        yield 1

    async def stream():
        yield 1

    assert "return a list" in inspect_function(numbers).problems[0]
    assert "not in this version" in inspect_function(stream).problems[0]


def test_function_without_a_readable_signature_is_a_problem():
    class Opaque:
        __signature__ = "no signature"

        def __call__(self): ...

    assert "signature that Python cannot read" in inspect_function(Opaque()).problems[0]
