"""What docs/redis.md says of settings and rights, on every server; its commands are in test_redis_cli.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphflow.server.address import parse_address
from graphflow.store.checkup import check_up
from tests.helpers import run
from tests.replies import Asked
from tests.servers import ALL_ENGINES, RealServer

PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text(encoding="utf-8")
RIGHTS = re.findall(r"^(ACL SETUSER graphflow .+)$", PAGE, re.MULTILINE)


@pytest.fixture(params=ALL_ENGINES)
def asked(request: pytest.FixtureRequest) -> Iterator[Asked]:
    """A server to be set up as the page says."""
    with RealServer(request.param) as server:
        yield Asked(server)


def risks(asked: Asked) -> set[str]:
    checkup = run(check_up(parse_address(asked.server.url), "gf", fix=False))
    return {risk.name for risk in checkup.risks}


def test_every_setting_of_the_page_can_be_made_and_together_they_make_a_store_safe(asked: Asked) -> None:
    table = PAGE[PAGE.index("| setting | why |") : PAGE.index("What each setting costs")]
    rows = [re.findall("`([^`]+)`", row) for row in re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)]
    assert len(rows) == 3
    asked.tell("CONFIG", "SET", "appendonly", "no")
    asked.tell("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    assert risks(asked) == {"persistence", "eviction"}

    for first, *others in rows:
        name, value = first.split()
        for each in (*others, value):
            asked.tell("CONFIG", "SET", name, each)
            assert asked.ask("CONFIG", "GET", name) == [name.encode(), each.encode()]

    assert risks(asked) == set()


def test_both_lines_of_rights_are_taken_and_give_each_right_they_name(asked: Asked) -> None:
    assert len(RIGHTS) == 2

    for line in RIGHTS:
        asked.tell(*line.split())

    (user,) = (line.decode() for line in asked.ask("ACL", "LIST") if line.startswith(b"user graphflow "))
    granted = set(re.findall(r"\+([a-z|]+)", " ".join(RIGHTS)))
    # Redis 6.2 puts some of them together: `+@scripting -script`.
    assert granted - set(re.findall(r"\+([a-z|]+)", user)) <= {"eval", "evalsha"}
    assert "~gf:*" in user


def test_keys_of_large_maps_end_beside_others_where_the_page_says_so(asked: Asked) -> None:
    assert "On Redis (all versions), and on Valkey before 8, set `lazyfree-lazy-expire yes`" in PAGE
    default = b"yes" if asked.name.startswith("Valkey") else b"no"

    assert asked.ask("CONFIG", "GET", "lazyfree-lazy-expire") == [b"lazyfree-lazy-expire", default]
    asked.tell("CONFIG", "SET", "lazyfree-lazy-expire", "yes")
