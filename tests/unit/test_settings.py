import dataclasses
import os
from typing import Any

import pytest

from graphflow.errors import InvalidName
from graphflow.settings import Settings, default_max_total_iterations, load_settings


def test_defaults_apply_where_nothing_is_set() -> None:
    assert load_settings({}) == Settings(redis_url=None, prefix="gf")


def test_the_environment_wins_over_the_default_and_the_argument_over_both() -> None:
    environ = {"GRAPHFLOW_REDIS_URL": "redis://env", "GRAPHFLOW_PREFIX": "env"}

    assert load_settings(environ) == Settings(redis_url="redis://env", prefix="env")
    assert load_settings(environ, redis_url="redis://arg", prefix="arg") == Settings("redis://arg", "arg")
    assert load_settings(environ, prefix="arg") == Settings("redis://env", "arg")


def test_an_empty_variable_is_not_set() -> None:
    assert load_settings({"GRAPHFLOW_REDIS_URL": "", "GRAPHFLOW_PREFIX": ""}) == Settings()


def test_the_environment_of_the_process_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "GRAPHFLOW_PREFIX", "mine")

    assert load_settings().prefix == "mine"


@pytest.mark.parametrize("prefix", ["{gf}", "a b", "g*", "x" * 101, 3, b"gf"])
def test_a_prefix_that_cannot_begin_a_key_is_refused(prefix: Any) -> None:
    with pytest.raises(InvalidName, match="cannot be a prefix"):
        load_settings({"GRAPHFLOW_PREFIX": prefix})


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().prefix = "other"  # type: ignore[misc]


def test_a_larger_graph_may_run_more_nodes() -> None:
    assert default_max_total_iterations(0) == 100
    assert default_max_total_iterations(7) == 170


def test_printed_settings_say_only_whether_there_is_a_url() -> None:
    assert repr(Settings(redis_url="redis://me:pw@host")) == "Settings(redis_url=***, prefix='gf')"
    assert repr(Settings()) == "Settings(redis_url=None, prefix='gf')"


def test_cache_is_printed_without_its_password() -> None:
    from graphflow import RedisCache

    assert "hunter2" not in repr(RedisCache("redis://:hunter2@localhost:1/0"))
