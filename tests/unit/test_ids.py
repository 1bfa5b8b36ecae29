import random
import re
from typing import Any

import pytest

from graphflow.errors import GraphflowError, InvalidName
from graphflow.ids import ALPHABET, check_run_id, new_run_id

NOW_MS = 1_795_163_400_000
MINUTE_MS = 60_000


def test_a_run_id_is_stem_time_and_chance() -> None:
    run_id = new_run_id("numbers", NOW_MS, random.Random(1))

    assert re.fullmatch(f"numbers-[{ALPHABET}]{{4}}-[{ALPHABET}]{{4}}", run_id)
    assert check_run_id(run_id) == run_id


def test_time_and_the_random_source_alone_decide_a_run_id() -> None:
    assert new_run_id("a", NOW_MS, random.Random(7)) == new_run_id("a", NOW_MS, random.Random(7))
    assert new_run_id("a", NOW_MS, random.Random(7)) != new_run_id("a", NOW_MS, random.Random(8))
    assert new_run_id("a", NOW_MS, random.Random(7)) != new_run_id("a", NOW_MS + MINUTE_MS, random.Random(7))


def test_run_ids_sort_by_the_minute_of_their_start() -> None:
    rng = random.Random(3)
    start = NOW_MS - NOW_MS % (32**4 * MINUTE_MS)

    ids = [new_run_id("a", start + minute * MINUTE_MS, rng) for minute in (0, 1, 31, 32, 5000, 32**4 - 1)]

    assert ids == sorted(ids)
    assert ids[0].startswith("a-0000-")
    assert ids[-1].startswith("a-zzzz-")


def test_run_ids_of_one_moment_differ_by_chance() -> None:
    rng = random.Random(5)

    assert len({new_run_id("a", NOW_MS, rng) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("stem", "safe"),
    [
        ("Score Wikipedia pages!", "score-wikipedia-pages"),
        ("Bücher/größer", "bucher-groer"),
        ("{evil}:*", "evil"),
        ("日本", "run"),
        ("", "run"),
        ("--..", "run"),
        ("x" * 500, "x" * 40),
        ("a" * 39 + " b", "a" * 39),
    ],
)
def test_any_stem_is_made_safe(stem: str, safe: str) -> None:
    run_id = new_run_id(stem, NOW_MS, random.Random(1))

    assert run_id.rsplit("-", 2)[0] == safe
    assert check_run_id(run_id) == run_id


def test_the_alphabet_has_no_look_alikes() -> None:
    assert len(set(ALPHABET)) == 32
    assert not set("ilou") & set(ALPHABET)


@pytest.mark.parametrize("name", ["a", "nightly-11-20", "A_b.c-1", "x" * 100])
def test_names_of_the_pattern_are_accepted(name: str) -> None:
    assert check_run_id(name) == name


@pytest.mark.parametrize("name", ["", "x" * 101, "a b", "{a}", "a/b", "a:b", "é", "a\n", "\u0661"])
def test_other_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidName, match="cannot be a run id: use 1 to 100 letters, digits"):
        check_run_id(name)


@pytest.mark.parametrize("name", [None, 5])
def test_what_is_no_text_is_refused_by_its_type(name: Any) -> None:
    with pytest.raises(InvalidName, match=f"it is of type {type(name).__name__}; give it as text"):
        check_run_id(name)


def test_an_invalid_name_is_a_graphflow_error_and_a_value_error() -> None:
    with pytest.raises(InvalidName) as error:
        check_run_id("a b")

    assert isinstance(error.value, GraphflowError)
    assert isinstance(error.value, ValueError)
    assert (error.value.what, error.value.name) == ("run id", "a b")
